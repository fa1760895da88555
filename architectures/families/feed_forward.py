"""The base of channel mixers that act on each position by itself through F inner units."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from architectures.axes import Axes, inner_axes
from architectures.families.options import inner_width
from architectures.parts.linear import first_columns, first_rows
from architectures.primitive import Context, Options, Primitive, option, round_up


class FeedForward(Primitive):
    """y = W_out f(W_in x), or W_out (silu(W_gate x) * W_in x) where `gated`: (B, T, D) -> (B, T, D)."""

    writers = ("down",)
    gated: ClassVar[bool] = False

    class Config(Options):
        inner: int | None = inner_width("4 times the width")
        bias: bool = option(False, "biases of the maps")

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.inner = config.inner or (round_up(8 * dim / 3, 16) if self.gated else 4 * dim)
        self.gate = nn.Linear(dim, self.inner, bias=config.bias) if self.gated else None
        self.up = nn.Linear(dim, self.inner, bias=config.bias)
        self.down = nn.Linear(self.inner, dim, bias=config.bias)

    def activate(self, h: Tensor) -> Tensor:
        """f; of a gated layer that of the gate."""
        return F.silu(h)

    def units(self, ctx: Context | None = None) -> int:
        """How many of the inner units this call uses: the first ones."""
        return self.inner

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        units = self.units(ctx)
        h = first_rows(self.up, x, units)
        h = self.activate(h) if self.gate is None else self.activate(first_rows(self.gate, x, units)) * h
        return first_columns(self.down, h)

    def flops(self, length: int) -> int:
        maps = 2 if self.gate is None else 3
        return 2 * maps * length * self.dim * self.units() + self.uncounted_flops(length)

    def uncounted_flops(self, length: int) -> int:
        return 0 if self.gate is None else length * self.units()

    def axes(self) -> Axes:
        maps = {"up": "F D", "gate": "F D", "down": "D F"}
        tensors = {f"{name}.weight": axes for name, axes in maps.items()}
        tensors |= {f"{name}.bias": axes.split()[0] for name, axes in maps.items()}
        return inner_axes(self.inner, tensors, "down.weight", "down.bias")


class GatedConfig(FeedForward.Config):
    """About as many parameters by default as without a gate."""

    inner: int | None = inner_width("8/3 of the width, rounded up to a multiple of 16")
