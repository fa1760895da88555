"""Attention with a partial key offset: half of each key describes the token before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from architectures.families.key_values import KeyValueMemory, RotaryOptions
from architectures.primitive import Context, State, option
from architectures.registry import primitive


@primitive(
    "key-offset-attention",
    mixes="time",
    version=1,
    paper="arXiv:2209.11895",
    known_as="partial key offset, modded-nanogpt",
)
class KeyOffsetAttention(KeyValueMemory):
    """o_t = sum_{s <= t} softmax_s(q_t . (a_s, b_{s-1}) / sqrt(K)) v_s, k_s = (a_s, b_s), a_s rotated.

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). The channels b that RoPE leaves alone come
    from the token before, so that one layer finds what followed an earlier token: plain attention needs two.
    The first token keeps its own. The cache holds keys as they are met, and one b for the next token. Differs
    from the paper, whose smeared key is a learned mix k_s + k_{s-1} of all channels: half of them are moved
    whole, as the modded-nanogpt speedrun does, there in the layers with long windows and after a
    normalisation of queries and keys (`qk_norm`).

    Hypothesis: at depth 1 it solves the recall tasks, where plain attention fails; at depth 2 and more it
    only needs fewer steps.
    """

    class Config(RotaryOptions, KeyValueMemory.Config):
        rope_fraction: float = option(0.5, "part of the key channels that is rotated, and not offset")

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        if self.rotated == self.key_dim:
            raise ValueError(
                f"rope_fraction={config.rope_fraction} of key width {self.key_dim} leaves no channel to "
                "offset; choose a smaller one, or attention"
            )

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return (*super().state_kinds, "conv")

    def init_tails(self, batch: int) -> State:
        """Those of the convolution, then the unrotated channels of the last key (B, 1, G, .)."""
        width = self.key_dim - self.rotated
        return *super().init_tails(batch), self.key.weight.new_zeros(batch, 1, self.kv_heads, width)

    def project(
        self, x: Tensor, positions: Tensor | None, tails: Sequence[Tensor], ctx: Context | None
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        assert positions is not None
        *tails, last = tails
        q, k, v, after = super().project(x, positions, tails, ctx)
        own = k[..., self.rotated :]
        first = torch.where(positions[0] == 0, own[:, :1], last.to(k.dtype))
        moved = torch.cat([first, own[:, :-1]], dim=1)
        return q, torch.cat([k[..., : self.rotated], moved], dim=-1), v, [*after, own[:, -1:]]
