"""A layer around the matrix-state recurrence: its state, its two forms and the count of its work.

A subclass is a parameterisation: `write` maps tokens to the vectors of the recurrence, `read` what was found
to the output. The rest is here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from architectures.functional.delta import SCALAR_CHUNK, VECTOR_CHUNK, delta_flops, delta_rule, delta_step
from architectures.functional.value_residual import share_value
from architectures.parts.short_conv import ShortConv
from architectures.primitive import (
    Context,
    Hint,
    Primitive,
    State,
    at_least,
    head_widths,
    linear_flops,
    option,
)

# Multiply-adds and products of one cell of the state and token: written and read; asked first; corrected by
# a vector of its own. The decay can be folded into the vectors, as the chunks do, and is not counted.
CELL = {"plain": 4, "tied": 6, "free": 8}


@dataclass(kw_only=True)
class Tokens:
    """What the recurrence is fed, q, k, x, y (B, T, H, K), v (B, T, H, V), see `delta_rule`.

    `kept`: whatever else `read` needs of what `write` computed.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    log_a: Tensor | None = None
    x: Tensor | None = None
    y: Tensor | None = None
    bonus: Tensor | None = None
    kept: Any = None


class MatrixMemory(Primitive):
    """The base of the layers with S_t = (diag(a_t) + x_t y_t^T) S_{t-1} + k_t v_t^T, H matrices K x V.

    The state is (S, *carry): S (B, H, K, V), and what `write` carries from token to token, by default the
    tails of the short convolutions in the order in which the layer created them.

    form     "plain" without y, "tied" with y alone, "free" with x and y
    decay    "scalar" (one a head, or none) or "vector" (one a key channel, at least LOG_DECAY_MIN)
    before   read the state before the token is written
    gates    element-wise multiplications a token outside the recurrence that count as work
    """

    form: ClassVar[Literal["plain", "tied", "free"]] = "plain"
    decay: ClassVar[Literal["scalar", "vector"]] = "scalar"
    before: ClassVar[bool] = False
    gates: int = 0

    @dataclass(frozen=True, kw_only=True)
    class Config:
        heads: int | None = option(
            None, "number of heads; none: one for each 16 channels of the width", scales="width"
        )
        key_dim: int | None = option(
            None, "key width a head; none: width / heads", scales="head", sets="state"
        )
        value_dim: int | None = option(None, "value width a head; none: width / heads", scales="head")
        conv: int = option(0, "taps of a short convolution and silu on q, k and v; 0: none", most=256)

        def __post_init__(self) -> None:
            at_least(self, heads=1, key_dim=1, value_dim=1, conv=0)

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.heads, self.key_dim, self.value_dim = head_widths(
            dim, config.heads, config.key_dim, config.value_dim
        )
        self.scale = self.key_dim**-0.5

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Tokens, State]:
        """(B, T, D) and the carry -> the recurrence's vectors, in at least float32, and the next carry."""
        raise NotImplementedError(f"{type(self).__name__} defines no write")

    def read(self, o: Tensor, x: Tensor, tokens: Tokens) -> Tensor:
        """What the state gave, o (B, T, H, V), at least float32 -> (B, T, D), of the dtype of x."""
        raise NotImplementedError(f"{type(self).__name__} defines no read")

    @property
    def value_widths(self) -> tuple[int, ...]:
        return (self.heads * self.value_dim,)

    @property
    def carry_kinds(self) -> tuple[str, ...]:
        return ("conv",) * len(self.convs())

    def init_carry(self, like: Tensor, batch: int) -> State:
        """The carry before the first token; `like` gives device and dtype."""
        return tuple(conv.init_tail(like, batch) for conv in self.convs())

    def convs(self) -> list[ShortConv]:
        return [m for m in self.modules() if isinstance(m, ShortConv)]

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return ("recurrent", *self.carry_kinds)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        return self._advance(x, self.init_state(x.shape[0]), ctx, self.recur)[0]

    def init_state(self, batch: int, length: int | None = None) -> State:
        """S (B, H, K, V) in at least float32, then the carry."""
        self.check_length(length)
        like = next(self.parameters())
        high = torch.promote_types(like.dtype, torch.float32)
        s = like.new_zeros(batch, *self.memory_shape(), dtype=high)
        return s, *self.init_carry(like, batch)

    def memory_shape(self) -> tuple[int, ...]:
        return self.heads, self.key_dim, self.value_dim

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        y, state = self._advance(x[:, None], state, ctx, self.recur_once)
        return y[:, 0], state

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        return self._advance(x, state, ctx, self.recur)

    def recur(self, z: Tokens, s: Tensor) -> tuple[Tensor, Tensor]:
        """Everything that the state gives for (B, T) tokens, and the last state."""
        read: Literal["pre", "post"] = "pre" if self.before else "post"
        return delta_rule(z.q, z.k, z.v, z.log_a, s, x=z.x, y=z.y, read=read, bonus=z.bonus)

    def recur_once(self, z: Tokens, s: Tensor) -> tuple[Tensor, Tensor]:
        """The same for T = 1."""
        q, k, v, log_a, x, y = (None if t is None else t[:, 0] for t in (z.q, z.k, z.v, z.log_a, z.x, z.y))
        assert q is not None and k is not None and v is not None
        read: Literal["pre", "post"] = "pre" if self.before else "post"
        o, s = delta_step(q, k, v, log_a, s, x=x, y=y, read=read, bonus=z.bonus)
        return o[:, None], s

    def flops(self, length: int) -> int:
        state = CELL[self.form] * length * self.heads * self.key_dim * self.value_dim
        return self.products(length) + state + self.elementwise(length)

    def executed(self, length: int) -> int:
        products, rest = self.recur_flops(length)
        return self.products(length) + products + rest + self.elementwise(length)

    def unseen(self, length: int) -> int:
        return self.recur_flops(length)[1] + self.elementwise(length)

    def products(self, length: int) -> int:
        """FLOPs of the matrix products outside the recurrence: those of every `nn.Linear`."""
        return length * linear_flops(self)

    def elementwise(self, length: int) -> int:
        return sum(conv.flops(length) for conv in self.convs()) + length * self.gates

    def recur_flops(self, length: int) -> tuple[int, int]:
        """FLOPs of `recur` as it is written: matrix products, and what is not one."""
        chunk = VECTOR_CHUNK if self.decay == "vector" else SCALAR_CHUNK
        products, rest = delta_flops(length, self.key_dim, self.value_dim, chunk=chunk, form=self.form)
        return self.heads * products, self.heads * rest

    def hints(self) -> dict[str, Hint]:
        """Taps of a short convolution are not decayed."""
        names = [n for n, m in self.named_modules() if isinstance(m, ShortConv) and m.taps]
        return {f"{name}.weight": Hint(decay=False) for name in names}

    def _advance(
        self,
        x: Tensor,
        state: State,
        ctx: Context | None,
        recur: Callable[[Tokens, Tensor], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, State]:
        s, *before = state
        tokens, carry = self.write(x, tuple(before), ctx)
        tokens.v = share_value(tokens.v, ctx, self.index)
        o, s = recur(tokens, s)
        return self.read(o, x, tokens), (s, *carry)
