"""Paired heads: two heads meet in one softmax over the keys of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from architectures.families.key_values import KeyValueMemory, RotaryOptions
from architectures.functional.attention import executed_pairs, visible_pairs
from architectures.functional.rotary import rotate_first
from architectures.primitive import Context, divisors, option
from architectures.registry import primitive


@primitive(
    "paired-attention",
    mixes="time",
    version=1,
    paper="arXiv:2602.21371",
    known_as="paired heads, modded-nanogpt",
)
class PairedAttention(KeyValueMemory):
    """o_i = sum_{j <= i} softmax_j(q_i . k_j / sqrt(K)) v_j, i = 2 t + h over times t and two heads h = 0, 1.

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). The times of two heads are interleaved to a
    sequence of 2 T, which is rotated by its own positions. A query of the first head sees its own keys up to
    t and those of the second before t; a query of the second sees both up to t. Where heads share keys and
    values, the heads of these are paired. Differs from the paper: its heads are first mixed by learned
    weights, and more than two may be interleaved; this is the way of the modded-nanogpt speedrun in layers
    with short windows. Its code, where there are more than two heads, interleaves others than it rotates.

    Hypothesis: near `mh-attention` with half as many heads of twice the width; no task is solved that it does
    not solve.
    """

    class Config(RotaryOptions, KeyValueMemory.Config):
        heads: int | None = option(
            None, "number of heads, even; none: the most of 16 channels or more, else 2", per="width", least=1
        )

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        if config.heads is None:
            fits = (h for h in divisors(dim) if h % 2 == 0 and dim % (2 * h) == 0 and dim // h >= 16)
            config = dataclasses.replace(config, heads=max(fits, default=2))
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        if self.kv_heads % 2:
            raise ValueError(
                f"{self.kv_heads} heads of keys and values cannot be paired; choose an even number of heads, "
                "and of kv_heads"
            )

    def project(
        self, x: Tensor, positions: Tensor | None, tails: Sequence[Tensor], ctx: Context | None
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        q, k, v, after = super().project(x, None, tails, ctx)
        if positions is not None and self.rotated:
            places = (2 * positions[:, None] + torch.arange(2, device=x.device)).flatten()
            about = places, self.rotated, self.rotary_width
            q, k = (self.apart(rotate_first(self.together(z), *about, base=self.rope_base)) for z in (q, k))
        return q, k, v, after

    def meet(self, q: Tensor, k: Tensor, v: Tensor, *, past: bool, ctx: Context | None) -> Tensor:
        q, k, v = (self.together(z) for z in (q, k, v))
        return self.apart(super().meet(q, k, v, past=past, ctx=ctx))

    def together(self, z: Tensor) -> Tensor:
        """(B, T, H, .) -> (B, 2 T, H / 2, .), of pairs of heads of keys with the heads that share each."""
        return z.unflatten(2, (self.kv_heads // 2, 2, -1)).transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def apart(self, z: Tensor) -> Tensor:
        """The way back: (B, 2 T, H / 2, .) -> (B, T, H, .)."""
        return z.unflatten(1, (-1, 2)).unflatten(3, (self.kv_heads // 2, -1)).transpose(2, 3).flatten(2, 4)

    def flops(self, length: int) -> int:
        pairs = visible_pairs(2 * length) * self.heads // 2
        return self.products(length) + 2 * pairs * (self.key_dim + self.value_dim) + self.elementwise(length)

    def executed_flops(self, length: int) -> int:
        pairs = executed_pairs(2 * length) * self.heads // 2
        width = max(self.key_dim, self.value_dim)
        return self.products(length) + 4 * pairs * width + self.elementwise(length)
