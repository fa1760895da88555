"""Kimi delta attention: the delta rule with a forgetting factor a key channel."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from architectures.families.channel_memory import ChannelMemory
from architectures.families.matrix_memory import Tokens
from architectures.registry import primitive


@primitive("kda", mixes="time", version=1, paper="arXiv:2510.26692")
class KDA(ChannelMemory):
    """S_t = (I - b_t k_t k_t^T) diag(a_t) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K).

    x (B, T, D) -> q, k, a (B, T, H, K), v (B, T, H, V) -> (B, T, D). q, k and v pass a short causal
    convolution and silu; q and k have length 1; b_t in (0, 1) is a sigmoid a head. The logit of the decay is
    of rank V plus dt_bias; `gate` makes it log a, one a key channel: softplus, kept above -5 in both forms of
    the layer, or bounded. The output is normalised a head by RMSNorm and gated by a sigmoid of rank V.
    `negative_eigenvalues` doubles b_t (arXiv:2411.12537). Differs from the paper: heads of 16 channels by
    default, and the bound at -5 on the softplus gate.
    """

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.strength = nn.Linear(dim, self.heads, bias=False)

    def correct(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, log_a: Tensor) -> Tokens:
        strength = self.sigmoid(self.strength(x), doubled=self.config.negative_eigenvalues)[..., None]
        # The state is asked after it decayed.
        return Tokens(q=q, k=strength * k, v=v, log_a=log_a, y=log_a.exp() * k)
