"""Attention whose heads are gated by a few channels of the token."""

from __future__ import annotations

from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.key_values import KeyValueMemory, RotaryOptions
from architectures.primitive import option
from architectures.registry import primitive


@primitive(
    "sparse-gate-attention", mixes="time", version=1, paper="arXiv:2505.06708", known_as="modded-nanogpt"
)
class SparseGateAttention(KeyValueMemory):
    """o_t = sigmoid(W_g x_t[:12]) * sum_{s <= t} softmax_s(q_t . k_s / sqrt(K)) v_s, one gate a head.

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D), W_g (H, 12) of zeros at the start: every
    gate is 1/2. A head can thus fall silent, instead of having to look at some token. Differs from the paper:
    its gate for each head reads all channels and starts at random; the first few are those of the
    modded-nanogpt speedrun, and learn to carry what the gates need.

    Hypothesis: as `gated-attention` on every task, at almost no parameters; a gain over `mh-attention` in
    noisy recall only.
    """

    class Config(RotaryOptions, KeyValueMemory.Config):
        read: int = option(12, "first channels of the token, which the gates read", least=1)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        if config.read > dim:
            raise ValueError(f"read={config.read} is more than the width {dim}; choose at most {dim}")
        self.head_gate = nn.Linear(config.read, self.heads, bias=False)
        nn.init.zeros_(self.head_gate.weight)

    def read(self, o: Tensor, x: Tensor) -> Tensor:
        gate = self.head_gate(x[..., : self.head_gate.in_features]).sigmoid()
        return super().read(o * gate[..., None].to(o.dtype), x)

    def elementwise(self, length: int) -> int:
        return super().elementwise(length) + length * self.heads * self.value_dim

    def axes(self) -> Axes:
        return super().axes().also({"head_gate.weight": "GR ."})
