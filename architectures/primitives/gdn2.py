"""Gated DeltaNet 2: the delta rule with an erase gate a key channel and a write gate a value channel."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from architectures.families.channel_memory import ChannelMemory
from architectures.families.matrix_memory import Tokens
from architectures.registry import primitive


@primitive("gdn2", mixes="time", version=1, paper="arXiv:2605.22791")
class GDN2(ChannelMemory):
    """S_t = (I - k_t (b_t * k_t)^T) diag(a_t) S_{t-1} + k_t (w_t * v_t)^T,  o_t = S_t^T q_t / sqrt(K).

    x (B, T, D) -> q, k, a, b (B, T, H, K), v, w (B, T, H, V) -> (B, T, D). q, k and v pass a short causal
    convolution and silu; q and k have length 1; the erase gate b and the write gate w are sigmoids a channel.
    The logit of the decay is of rank V plus dt_bias; `gate` turns it into log a, one a key channel: softplus,
    kept above -5 in both forms of the layer, or bounded. The output is normalised a head by RMSNorm and gated
    by a sigmoid of rank V. `negative_eigenvalues` doubles b alone. Differs from the paper: heads of 16
    channels by default, and the bound at -5 on the softplus gate.
    """

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.erase = nn.Linear(dim, self.heads * self.key_dim, bias=False)
        self.admit = nn.Linear(dim, self.heads * self.value_dim, bias=False)
        self.gates += self.heads * (self.key_dim + self.value_dim)

    def correct(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, log_a: Tensor) -> Tokens:
        erase = self.sigmoid(self.erase(x), doubled=self.config.negative_eigenvalues).view_as(k)
        admit = self.sigmoid(self.admit(x)).view_as(v)
        # The state is asked after it decayed.
        return Tokens(q=q, k=k, v=admit * v, log_a=log_a, y=log_a.exp() * erase * k)
