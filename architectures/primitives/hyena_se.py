"""Hyena-SE: a short explicit convolution between two gates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from architectures.families.gated_conv import GatedConv, GatedConvConfig, group_count
from architectures.functional.short_conv import next_tail, short_conv
from architectures.primitive import State, at_least, option
from architectures.registry import primitive


@primitive("hyena-se", mixes="time", version=1, paper="arXiv:2503.01868")
class HyenaSE(GatedConv):
    """y = W_o [q * (h conv (k * v))] with q, k, v = short_conv(W_i x), h of `taps` taps for each group.

    (B, T, D) -> (B, T, D); h (G, taps), one filter for each `group` contiguous channels, learned tap by tap.
    The state is the last taps - 1 products k * v, of kind "conv", and counts as nominal. Differs from the
    paper: nothing known.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(GatedConvConfig):
        taps: int = option(7, "taps of the filter; the state holds one less", sets="state", most=1024)
        group: int = option(16, "channels that share a filter")

        def __post_init__(self) -> None:
            super().__post_init__()
            at_least(self, taps=1, group=1)

    operator = ("filter",)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth, inner=dim, output=dim)
        nn.init.xavier_uniform_(self.project.weight)
        bound = config.taps**-0.5
        groups = group_count(dim, config.group)
        self.filter = nn.Parameter(torch.empty(groups, config.taps).uniform_(-bound, bound))

    @property
    def memory_kinds(self) -> tuple[str, ...]:
        return ("conv",)

    def init_memory(self, like: Tensor, batch: int) -> State:
        """The last k * v (B, taps - 1, D)."""
        return (like.new_zeros(batch, self.config.taps - 1, self.dim),)

    def convolve(self, u: Tensor, memory: State) -> tuple[Tensor, State]:
        (tail,) = memory
        # The oldest tap first, as `short_conv` has them.
        weight = self.filter.flip(-1).repeat_interleave(self.config.group, dim=0)
        return short_conv(u, weight, tail=tail), (next_tail(u, tail),)

    def operator_flops(self, length: int) -> tuple[int, int]:
        return 0, 2 * self.config.taps * length * self.dim

    def nominal_state(self, length: int) -> int:
        return (self.config.taps - 1) * self.dim
