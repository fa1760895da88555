"""Gated short convolution: a few taps between two gates, the local mixer of LFM2."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from architectures.functional.short_conv import next_tail, short_conv
from architectures.primitive import Context, Hint, Primitive, State, option
from architectures.registry import primitive


@primitive("gated-short-conv", mixes="time", version=1, paper="arXiv:2511.23404")
class GatedShortConv(Primitive):
    """y = W_o [c * conv(b * x')] with b, c, x' = W_i x, without biases.

    (B, T, D) -> (B, T, D); conv is causal and depthwise, with `conv` taps. Nothing older than the taps is
    seen: the layer is meant for a stripe with attention. Its state, (conv - 1) * D, is all of kind "conv".
    Differs from the paper: nothing known.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        conv: int = option(3, "taps of the convolution")

        def __post_init__(self) -> None:
            if self.conv < 1:
                raise ValueError(f"conv={self.conv} must be at least 1")

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.project = nn.Linear(dim, 3 * dim, bias=False)
        bound = config.conv**-0.5
        self.conv_weight = nn.Parameter(torch.empty(dim, config.conv).uniform_(-bound, bound))
        self.out = nn.Linear(dim, dim, bias=False)

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return ("conv",)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        u, c = self._gate(x)
        return self.out(c * short_conv(u, self.conv_weight))

    def init_state(self, batch: int, length: int | None = None) -> State:
        """The last inputs of the convolution (B, conv - 1, D)."""
        self.check_length(length)
        return (self.project.weight.new_zeros(batch, self.config.conv - 1, self.dim),)

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        y, state = self.prefill(x[:, None], state, ctx)
        return y[:, 0], state

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        (tail,) = state
        u, c = self._gate(x)
        return self.out(c * short_conv(u, self.conv_weight, tail=tail)), (next_tail(u, tail),)

    def flops(self, length: int) -> int:
        return 8 * length * self.dim**2 + self.unseen(length)

    def unseen(self, length: int) -> int:
        return 2 * length * self.dim * (self.config.conv + 1)  # the taps, and the two gates

    def hints(self) -> dict[str, Hint]:
        return {"conv_weight": Hint(decay=False)}

    def _gate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The input of the convolution b * x' and the gate c of its output, (B, T, D)."""
        b, c, z = self.project(x).chunk(3, dim=-1)
        return b * z, c
