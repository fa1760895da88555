"""Hyena-MR: an explicit convolution of medium length between two gates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from architectures.families.gated_conv import GatedConv, GatedConvConfig, group_count
from architectures.functional.short_conv import next_tail
from architectures.functional.toeplitz import grouped_conv, grouped_conv_flops
from architectures.primitive import State, at_least, option
from architectures.registry import primitive

# The training length of the public models, over which the fastest filter fades by e^-100.
FADE = 8192


@primitive("hyena-mr", mixes="time", version=1, paper="arXiv:2503.01868")
class HyenaMR(GatedConv):
    """y = W_o [q * ((h * w) conv u + d * u)], u = k * v, with q, k, v = short_conv(W_i x), w_i = e^(-r i).

    (B, T, D) -> (B, T, D); h (G, taps), one filter for each `group` contiguous channels, learned tap by tap;
    d (D,). The window w is fixed, its rates r spread from 1 to 100 in 8192 tokens, whatever `max_len` is. The
    state is the last taps - 1 products k * v, of kind "conv", and counts as nominal. Differs from the paper:
    the window fades with the number of taps, there with their share of the training length.
    """

    window: Tensor
    operator = ("filter", "skip")

    @dataclass(frozen=True, kw_only=True)
    class Config(GatedConvConfig):
        taps: int = option(128, "taps of the filter; the state holds one less", sets="state")
        group: int = option(16, "channels that share a filter")

        def __post_init__(self) -> None:
            super().__post_init__()
            at_least(self, taps=1, group=1)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth, inner=dim, output=dim)
        nn.init.xavier_uniform_(self.project.weight)
        groups = group_count(dim, config.group)
        self.filter = nn.Parameter(1e-5 * config.taps**-0.5 * torch.randn(groups, config.taps))
        self.skip = nn.Parameter(torch.randn(dim))
        rates = torch.logspace(0, 2, groups)[:, None] / FADE
        self.register_buffer("window", torch.exp(-rates * torch.arange(config.taps)), persistent=False)

    @property
    def memory_kinds(self) -> tuple[str, ...]:
        return ("conv",)

    def init_memory(self, like: Tensor, batch: int) -> State:
        """The last k * v (B, taps - 1, D)."""
        return (like.new_zeros(batch, self.config.taps - 1, self.dim),)

    def convolve(self, u: Tensor, memory: State) -> tuple[Tensor, State]:
        (tail,) = memory
        y = grouped_conv(u, self.filter * self.window, tail)
        return y + self.skip * u, (next_tail(u, tail),)

    def convolve_once(self, u: Tensor, memory: State) -> tuple[Tensor, State]:
        (tail,) = memory
        history = torch.cat([tail, u], dim=1)  # (B, taps, D)
        h = (self.filter * self.window).flip(-1).repeat_interleave(self.config.group, dim=0)
        y = (h.mT.to(u.dtype) * history).sum(1, keepdim=True)
        return y + self.skip * u, (history[:, 1:],)

    def flops(self, length: int) -> int:
        return (
            super().flops(length) - self.operator_flops(length)[0] + 2 * self.config.taps * length * self.dim
        )

    def operator_flops(self, length: int) -> tuple[int, int]:
        return grouped_conv_flops(length, self.dim, self.config.taps), 2 * length * self.dim

    def nominal_state(self, length: int) -> int:
        return (self.config.taps - 1) * self.dim
