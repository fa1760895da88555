"""A layer around a convolution between two gates: its state, its two forms and the count of its work.

A subclass brings the operator: what it remembers, and how the products of keys and values are convolved. The
projections, the featuriser, the gates and the output are here.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from architectures.families.options import taps
from architectures.families.recurrent import forward_anew
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Options, Primitive, State, linear_flops

# u (B, T, inner) and a memory -> the same shape, and the next memory.
Convolve = Callable[[Tensor, State], tuple[Tensor, State]]


class GatedConvConfig(Options):
    conv: int = taps(3, "the featuriser, a short convolution of q, k and v")


class GatedConv(Primitive):
    """y = W_o [q * (h conv (k * v))] with q, k, v = featuriser(W_i x): the base of the layers around it.

    The state is (*memory, tail): what the operator remembers of the products u = k * v (B, T, inner), and the
    last inputs of the featuriser, which no activation follows. The featuriser has a bias where W_i has one.
    """

    kind = "convolution"
    config: GatedConvConfig
    forward = forward_anew
    # A subclass adds the parameters of its operator, which are functions of time.
    undecayed: tuple[str, ...] = ("conv.weight",)
    memory_kinds: tuple[str, ...]

    def add_gates(self, inner: int, project: nn.Linear) -> None:
        self.inner, self.project = inner, project
        self.conv = ShortConv(3 * inner, self.config.conv, bias=project.bias is not None, activation=False)

    def add_maps(self) -> None:
        """Gates as wide as the model, and the output; W_i has no bias and starts by Glorot's rule."""
        self.add_gates(self.dim, nn.Linear(self.dim, 3 * self.dim, bias=False))
        self.out = nn.Linear(self.dim, self.dim)
        nn.init.xavier_uniform_(self.project.weight)

    def init_memory(self, like: Tensor, batch: int) -> State:
        """What the operator remembers before the first token; `like` gives device and dtype."""
        raise NotImplementedError(f"{type(self).__name__} defines no init_memory")

    def convolve(self, u: Tensor, memory: State) -> tuple[Tensor, State]:
        """u (B, T, inner), the tokens after those of the memory -> the same shape, and the next memory."""
        raise NotImplementedError(f"{type(self).__name__} defines no convolve")

    def convolve_once(self, u: Tensor, memory: State) -> tuple[Tensor, State]:
        """The same for T = 1."""
        return self.convolve(u, memory)

    def read(self, o: Tensor, x: Tensor, ctx: Context | None) -> Tensor:
        """The gated output o (B, T, inner) -> (B, T, D)."""
        return self.out(o)

    def operator_flops(self, length: int) -> tuple[int, int]:
        """FLOPs of `convolve` and `read` as written, no `nn.Linear`: matrix products, and what is not one."""
        raise NotImplementedError(f"{type(self).__name__} defines no operator_flops")

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return *self.memory_kinds, "conv"

    def init_state(self, batch: int, length: int | None = None) -> State:
        """The operator's memory, then the tail of the featuriser (B, conv - 1, 3 inner)."""
        self.check_length(length)
        like = self.project.weight
        return *self.init_memory(like, batch), self.conv.init_tail(like, batch)

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        y, state = self._advance(x[:, None], state, ctx, self.convolve_once)
        return y[:, 0], state

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        return self._advance(x, state, ctx, self.convolve)

    def flops(self, length: int) -> int:
        return self.executed_flops(length)

    def executed_flops(self, length: int) -> int:
        return length * linear_flops(self) + self.operator_flops(length)[0] + self.uncounted_flops(length)

    def uncounted_flops(self, length: int) -> int:
        gates = 2 * length * self.inner  # k * v, and q
        return self.conv.flops(length) + gates + self.operator_flops(length)[1]

    def _advance(
        self, x: Tensor, state: State, ctx: Context | None, convolve: Convolve
    ) -> tuple[Tensor, State]:
        z, tail = self.conv(self.project(x), state[-1])
        q, k, v = z.chunk(3, dim=-1)  # (B, T, inner)
        y, memory = convolve(k * v, state[:-1])
        return self.read(q * y, x, ctx), (*memory, tail)
