"""Gated short convolution: a few taps between two gates, the local mixer of LFM2."""

from __future__ import annotations

from torch import Tensor, nn

from architectures.families.recurrent import Recurrent
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Options, State, option
from architectures.registry import primitive


@primitive("gated-short-conv", mixes="time", version=1, paper="arXiv:2511.23404", known_as="LFM2")
class GatedShortConv(Recurrent):
    """y = W_o [c * conv(b * x')] with b, c, x' = W_i x, without biases.

    (B, T, D) -> (B, T, D); conv is causal and depthwise, with `conv` taps. Nothing older than the taps is
    seen: the layer is meant for a stripe with attention. Its state, (conv - 1) * D, is all of kind "conv".
    Differs from the paper: nothing known.
    """

    kind = "convolution"
    undecayed = ("conv.weight",)

    class Config(Options):
        conv: int = option(3, "taps of the convolution", most=256, least=1)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.project = nn.Linear(dim, 3 * dim, bias=False)
        self.conv = ShortConv(dim, config.conv, activation=False)
        self.out = nn.Linear(dim, dim, bias=False)

    state_kinds = ("conv",)

    def init_state(self, batch: int, length: int | None = None) -> State:
        """The last inputs of the convolution (B, conv - 1, D)."""
        self.check_length(length)
        return (self.conv.init_tail(self.project.weight, batch),)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        b, c, z = self.project(x).chunk(3, dim=-1)
        y, tail = self.conv(b * z, state[0])
        return self.out(c * y), (tail,)

    def uncounted_flops(self, length: int) -> int:
        return self.conv.flops(length) + 2 * length * self.dim  # the taps, and the two gates
