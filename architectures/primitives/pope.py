"""Attention in polar coordinates: what a token is sets magnitudes, where it stands sets angles."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.key_values import KeyValueMemory
from architectures.functional.attention import attend, attend_past, executed_pairs
from architectures.functional.precision import full_precision
from architectures.primitive import Context, option
from architectures.registry import primitive


@primitive("pope", mixes="time", version=1, paper="arXiv:2509.10534")
class PolarAttention(KeyValueMemory):
    """o_t = sum_{s <= t} softmax_s(sum_c f(q_tc) f(k_sc) cos((s - t) w_c + d_c) / sqrt(K)) v_s, f = softplus.

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). Every one of the K channels has its own
    frequency w_c = base^(-c / K) and its own learned angle d_c per head, where RoPE turns pairs of channels
    by angles to which queries and keys add theirs. The scores are those of queries and keys of 2 K channels,
    f(q) (cos, sin) and f(k) (cos, sin); the cache holds the K of before. Differs from the paper: the angles
    start at 0, its other choice being uniform ones, and are not held in [-2 pi, 0], which is one turn: a
    clamp would stop for good the half of them that the first step moves above 0.

    Hypothesis: as good as RoPE at the trained length, and better at longer ones; tasks in which the same
    token is met at many distances gain.
    """

    shift_free = False

    class Config(KeyValueMemory.Config):
        base: float = option(10_000.0, "the slowest channel turns by about 1 / base a token", least=1)

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.angle = nn.Parameter(torch.zeros(self.heads, self.key_dim))

    def meet(self, q: Tensor, k: Tensor, v: Tensor, *, past: bool, ctx: Context | None) -> Tensor:
        with full_precision(q):
            high = torch.promote_types(q.dtype, torch.float32)
            at = torch.arange(k.shape[1], device=q.device, dtype=high)
            channel = torch.arange(self.key_dim, device=q.device, dtype=high)
            turned = (at[:, None] * self.config.base ** (-channel / self.key_dim))[:, None]  # (S, 1, K)
            asked = turned[k.shape[1] - q.shape[1] :] - self.angle.to(high)
            q, k = _polar(q.to(high), asked), _polar(k.to(high), turned)
        return (attend_past if past else attend)(q, k, v, scale=self.scale).to(v.dtype)

    def flops(self, length: int) -> int:
        return super().flops(length) + 2 * self.pairs(length) * self.heads * self.key_dim

    def executed_flops(self, length: int) -> int:
        width = max(2 * self.key_dim, self.value_dim)
        pairs = executed_pairs(length) * self.heads
        return self.products(length) + 4 * pairs * width + self.elementwise(length)

    def axes(self) -> Axes:
        """A new key channel adds to the scores whatever its entries are, so keys cannot be widened."""
        axes = super().axes().also({"angle": "GR K"})
        zero = {letter: names for letter, names in axes.zero.items() if letter != "K"}
        return dataclasses.replace(axes, zero=zero, scaled="")


def _polar(z: Tensor, angle: Tensor) -> Tensor:
    """The magnitudes f(z) at their angles: (B, T, H, K) -> (B, T, H, 2 K)."""
    size = F.softplus(z)
    return torch.cat([size * angle.cos(), size * angle.sin()], dim=-1)
