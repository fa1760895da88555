"""Parallax: attention with a correction to first order, by what its weights are correlated with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.key_values import KeyValueMemory, RotaryOptions
from architectures.functional.rotary import rotate_first
from architectures.functional.scores import by_rows, pairs_by_rows, products
from architectures.parts.norms import RMSNorm
from architectures.primitive import Context
from architectures.registry import primitive


@primitive("parallax", mixes="time", version=1, paper="arXiv:2605.29157")
class Parallax(KeyValueMemory):
    """o_t = sum_{s <= t} p_ts (1 - r_t . (k_s - sum_i p_ti k_i)) v_s, p_ts = softmax_s(q_t . k_s / sqrt(K)).

    x (B, T, D) -> q, r, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). The mean of v under the weights p, less
    the covariance of r . k and v: as of a local linear fit of the values over the keys, read at a point that
    the second query r says. r is rotated as q is, and normalised where q is. Scores and weights are written
    out: memory grows with T * T. Differs from the paper: nothing.

    Hypothesis: gains over attention on fuzzy recall, where the best key is near the query and not at it.
    """

    class Config(RotaryOptions, KeyValueMemory.Config):
        pass

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.second = nn.Linear(dim, self.heads * self.key_dim, bias=config.bias is not None)
        self.second_norm = RMSNorm(self.key_dim) if config.qk_norm else None

    def project(
        self, x: Tensor, positions: Tensor | None, tails: Sequence[Tensor], ctx: Context | None
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """q and r beside each other, (B, T, H, 2 K), then k, v and the tails."""
        q, k, v, after = super().project(x, positions, tails, ctx)
        r = self.second(x).unflatten(-1, (-1, self.key_dim))
        if self.second_norm is not None:
            r = self.second_norm(r)
        if positions is not None and self.rotated:
            r = rotate_first(r, positions, self.rotated, self.rotary_width, base=self.rope_base)
        return torch.cat([q, r], dim=-1), k, v, after

    def meet(self, q: Tensor, k: Tensor, v: Tensor, *, past: bool, ctx: Context | None) -> Tensor:
        q, r = q.chunk(2, dim=-1)
        return by_rows(correct, torch.cat([q * self.scale, r], dim=-1), k, v)

    def flops(self, length: int) -> int:
        return super().flops(length) + 2 * self.pairs(length) * self.heads * self.key_dim

    def executed_flops(self, length: int) -> int:
        work = 2 * pairs_by_rows(length) * self.heads * (2 * self.key_dim + self.value_dim)
        return self.products(length) + work + self.elementwise(length)

    def axes(self) -> Axes:
        """A factor on the keys would be one on r . k, which has no scale."""
        more = {"second.weight": "GRK D", "second.bias": "GRK", "second_norm.weight": "K"}
        axes = super().axes().also(more)
        return dataclasses.replace(axes, unscalable="second query")


def correct(q: Tensor, k: Tensor, v: Tensor, blind: Tensor) -> Tensor:
    """Parallax attention of a block, see `by_rows`; q and r beside each other."""
    q, r = q.chunk(2, dim=-1)
    p = products(q, k).masked_fill(blind, float("-inf")).softmax(-1)
    tilt = products(r, k)
    weights = p * (1 + (p * tilt).sum(-1, keepdim=True) - tilt)
    return weights.to(v.dtype) @ v
