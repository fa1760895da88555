"""A layer around a convolution between two gates: its state, its two forms and the count of its work.

A subclass brings the operator: what it remembers, and how the products of keys and values are convolved. The
projections, the featuriser, the gates and the output are here.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Primitive, State, at_least, divisors, linear_flops, option


@dataclass(frozen=True, kw_only=True)
class GatedConvConfig:
    conv: int = option(3, "taps of the featuriser, a short convolution of q, k and v; 0: none", most=256)

    def __post_init__(self) -> None:
        at_least(self, conv=0)


class GatedConv(Primitive):
    """y = W_o [q * (h conv (k * v))] with q, k, v = featuriser(W_i x): the base of the layers around it.

    The state is (*memory, tail): what the operator remembers of the products u = k * v (B, T, inner), and the
    last inputs of the featuriser, which no activation follows. `bias`: whether W_i and the featuriser have
    one; W_o always has.
    """

    config: GatedConvConfig
    # A subclass adds the parameters of its operator, which are functions of time.
    undecayed: tuple[str, ...] = ("conv.weight",)

    def __init__(
        self,
        config: GatedConvConfig,
        *,
        dim: int,
        max_len: int,
        index: int = 0,
        depth: int = 1,
        inner: int,
        output: int,
        bias: bool = False,
    ) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.inner = inner
        self.project = nn.Linear(dim, 3 * inner, bias=bias)
        self.conv = ShortConv(3 * inner, config.conv, bias=bias, activation=False)
        self.out = nn.Linear(output, dim)

    @property
    def memory_kinds(self) -> tuple[str, ...]:
        raise NotImplementedError(f"{type(self).__name__} defines no memory_kinds")

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

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        return self.prefill(x, self.init_state(x.shape[0]), ctx)[0]

    def init_state(self, batch: int, length: int | None = None) -> State:
        """The operator's memory, then the tail of the featuriser (B, conv - 1, 3 inner)."""
        self.check_length(length)
        like = self.project.weight
        return *self.init_memory(like, batch), self.conv.init_tail(like, batch)

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        q, u, tail = self._featurise(x[:, None], state)
        y, memory = self.convolve_once(u, state[:-1])
        return self.read(q * y, x[:, None], ctx)[:, 0], (*memory, tail)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        q, u, tail = self._featurise(x, state)
        y, memory = self.convolve(u, state[:-1])
        return self.read(q * y, x, ctx), (*memory, tail)

    def flops(self, length: int) -> int:
        return self.executed_flops(length)

    def executed_flops(self, length: int) -> int:
        return length * linear_flops(self) + self.operator_flops(length)[0] + self.uncounted_flops(length)

    def uncounted_flops(self, length: int) -> int:
        gates = 2 * length * self.inner  # k * v, and q
        return self.conv.flops(length) + gates + self.operator_flops(length)[1]

    def _featurise(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """q and u = k * v (B, T, inner), and the next tail."""
        z, tail = self.conv(self.project(x), state[-1])
        q, k, v = z.chunk(3, dim=-1)
        return q, k * v, tail


def group_count(dim: int, group: int) -> int:
    """How many groups of `group` channels there are; refuses a width that they do not divide."""
    if dim % group:
        choices = ", ".join(str(d) for d in divisors(dim))
        raise ValueError(f"dim {dim} is not divisible by group {group}; choose group from {choices}")
    return dim // group
