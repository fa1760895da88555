"""Exclusive self-attention: what a head finds, without the direction of the token's own value."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.key_values import KeyValueMemory, RotaryOptions
from architectures.primitive import Context, option
from architectures.registry import primitive, variant

# The least square length of a value that is divided by.
FLOOR = 1e-8


@primitive("xsa", mixes="time", version=1, paper="arXiv:2603.09078", known_as="exclusive self-attention")
class ExclusiveAttention(KeyValueMemory):
    """o_t = y_t - (y_t . v_t / |v_t|^2) v_t, y_t = sum_{s <= t} softmax_s(q_t . k_s / sqrt(K)) v_s.

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). What a head finds is orthogonal to the
    token's own value, which the residual stream holds already; the first token finds nothing. With `learned`,
    a head removes the part tanh(a) of it, a = 0 at the start, which is attention. Differs from the paper:
    nothing known; the speedruns use it in some layers only, with `learned` or without.

    Hypothesis: little on recall, as its heads look elsewhere anyway; a gain in noisy recall, where the own
    position becomes a place to look at for nothing.
    """

    class Config(RotaryOptions, KeyValueMemory.Config):
        learned: bool = option(False, "remove a learned part of the own direction for each head, 0 at first")

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        if self.value_dim == 1:
            raise ValueError("value_dim=1 has the direction of the own value only; choose at least 2")
        self.removed = nn.Parameter(torch.zeros(self.heads)) if config.learned else None

    def meet(self, q: Tensor, k: Tensor, v: Tensor, *, past: bool, ctx: Context | None) -> Tensor:
        y = super().meet(q, k, v, past=past, ctx=ctx)
        high = torch.promote_types(v.dtype, torch.float32)
        own = v[:, v.shape[1] - q.shape[1] :].to(high)
        part = (y * own).sum(-1, keepdim=True) / own.square().sum(-1, keepdim=True).clamp(min=FLOOR)
        if self.removed is not None:
            part = part * self.removed.tanh()[:, None]
        return (y - part * own).to(v.dtype)

    def elementwise(self, length: int) -> int:
        # Two products of vectors, and the difference.
        return super().elementwise(length) + 6 * length * self.heads * self.value_dim

    def axes(self) -> Axes:
        """A new channel of the values has to be 0, or it would turn the own direction."""
        axes = super().axes().also({"removed": "GR"})
        return dataclasses.replace(axes, zero={**axes.zero, "V": ("value.weight", "value.bias")})


GATED = "o_t = y_t - tanh(a) (y_t . v_t / |v_t|^2) v_t, y_t = sum_{s <= t} softmax_s(q_t . k_s / sqrt(K)) v_s"
variant(
    "gated-xsa",
    of="xsa",
    equation=GATED,
    known_as="modded-nanogpt",
    hypothesis="as `xsa`, and never below `mh-attention`, as which it starts.",
    learned=True,
)
