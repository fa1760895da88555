"""Hyena: a long implicit convolution between two gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from architectures.families.recurrent import Recurrent
from architectures.functional.long_conv import long_conv, long_conv_flops
from architectures.parts.implicit_filter import ImplicitFilter
from architectures.parts.linear import TiledLinear
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Hint, State, at_least, option
from architectures.registry import primitive


@primitive("hyena", mixes="time", version=1, paper="arXiv:2302.10866")
class Hyena(Recurrent):
    """y = W_o [q * (h conv (k * v) + d * (k * v))] with q, k, v = short_conv(W_i x); h is a network of time.

    (B, T, D) -> (B, T, D), inner width `expand` * D. The filter h (T, inner) is a sine network of the
    position, of width `order`, under a fixed exponential window; its length is tied to `max_len`. The
    operator is of order 2. The nominal state is the distilled one: `order` elements a channel. The public
    MAD code (athms/mad-lab) reads q, k and v from shared features and trains those of the position: `tied=4`
    and `positions=learned`. Differs from the paper: the position features are fixed by default.
    """

    exact_causality = False

    undecayed = ("skip", "conv.weight")
    config: Config

    @dataclass(frozen=True, kw_only=True)
    class Config:
        expand: int = option(4, "inner width over the model's width")
        order: int = option(4, "width of the filter's network; nominal state a channel", sizes="state")
        conv: int = option(3, "taps of the short convolution of q, k and v; 0: none", most=256)
        tied: int = option(
            1, "q, k and v are as many copies of a map with that part of their channels; 1: independent"
        )
        positions: Literal["fixed", "learned"] = option(
            "fixed",
            "features of the position, of which the filter is a network; learned: 3 max_len numbers",
        )

        def __post_init__(self) -> None:
            at_least(self, expand=1, order=1, conv=0, tied=1)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.inner = config.expand * dim
        self.project = TiledLinear(dim, 3 * self.inner, config.tied)
        self.conv = ShortConv(3 * self.inner, config.conv, bias=True, activation=False)
        self.filter = ImplicitFilter(self.inner, config.order, max_len, learned=config.positions == "learned")
        self.skip = nn.Parameter(torch.randn(self.inner))
        self.out = nn.Linear(self.inner, dim)

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return ("growing", "conv")

    def init_state(self, batch: int, length: int | None = None) -> State:
        """The history of k * v (B, t, inner) and the tail of the short convolution (B, taps - 1, 3 inner)."""
        self.check_length(length)
        weight = self.project.weight
        return weight.new_zeros(batch, 0, self.inner), self.conv.init_tail(weight, batch)

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        history, tail = state
        z, tail = self.conv(self.project(x)[:, None], tail)
        q, k, v = z.chunk(3, dim=-1)
        u = k * v
        history = torch.cat([history, u], dim=1)
        self.check_length(history.shape[1])
        h = self.filter(history.shape[1]).flip(0)
        y = (h.to(u.dtype) * history).sum(1) + self.skip * u[:, 0]
        return self.out(q[:, 0] * y), (history, tail)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        history, tail = state
        z, tail = self.conv(self.project(x), tail)
        q, k, v = z.chunk(3, dim=-1)  # (B, T, inner)
        u = k * v
        past = history.shape[1]
        history = torch.cat([history, u], dim=1)
        self.check_length(history.shape[1])
        y = long_conv(history, self.filter(history.shape[1]))[:, past:] + self.skip * u
        return self.out(q * y), (history, tail)

    def flops(self, length: int) -> int:
        return self._products(length) + self.uncounted_flops(length)

    def uncounted_flops(self, length: int) -> int:
        gates = 4 * length * self.inner  # k * v, skip * u and its sum, q * y
        return self.conv.flops(length) + gates + long_conv_flops(length, self.inner)

    def nominal_state(self, length: int) -> int:
        return self.inner * self.config.order

    def hints(self) -> dict[str, Hint]:
        return super().hints() | self.filter.hints()

    def _products(self, length: int) -> int:
        weights = self.project.weight.numel() + self.out.weight.numel()
        return 2 * length * weights + self.filter.flops(length)
