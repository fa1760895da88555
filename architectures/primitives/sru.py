"""SRU: the simple recurrent unit as a small time mixer."""

from __future__ import annotations

from torch import Tensor

from architectures.families.options import SILU, taps
from architectures.families.recurrent import Recurrent
from architectures.parts.short_conv import ShortConv
from architectures.parts.sru import SRU
from architectures.primitive import Context, Options, State, option
from architectures.registry import primitive


@primitive("sru", mixes="time", version=1, paper="arXiv:1709.02755")
class SimpleRecurrentUnit(Recurrent):
    """c_t = f_t c_{t-1} + (1 - f_t) z_t,  y_t = W_out [r_t c_t + (1 - r_t) sqrt(3) u_t],  u = W_in x.

    (B, T, D) -> (B, T, D), c (B, N): f, r = sigmoid(W u + b), z = W u + b. Differs from the paper: one layer
    of width N between two maps, as arXiv:2111.12763 places it, and gates that do not see the state, so that
    the recurrence is a scan.
    """

    writers = ("unit.up",)

    undecayed = ("conv.weight",)

    class Config(Options):
        width: int = option(32, "channels of the recurrence", sizes="state", least=1)
        conv: int = taps(0, f"{SILU} the narrow input")

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.unit = SRU(dim, config.width)
        self.conv = ShortConv(config.width, config.conv)

    state_kinds = ("recurrent", "conv")

    def init_state(self, batch: int, length: int | None = None) -> State:
        """c (B, N), and the tail of the short convolution (B, taps - 1, N)."""
        self.check_length(length)
        return self.unit.init_state(batch), self.conv.init_tail(self.unit.down.weight, batch)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        u, tail = self.conv(self.unit.down(x), state[1])
        y, c = self.unit(u, state[0])
        return y, (c, tail)

    def uncounted_flops(self, length: int) -> int:
        return self.unit.uncounted_flops(length) + self.conv.flops(length)
