"""A layer around the matrix-state recurrence: its state, its two forms and the count of its work.

A subclass is a parameterisation: `write` maps tokens to the vectors of the recurrence, `read` what was found
to the output. The rest is here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.options import canon_taps, count_of_heads, head_widths, per_head, taps
from architectures.functional.delta import SCALAR_CHUNK, VECTOR_CHUNK, delta_flops, delta_rule, delta_step
from architectures.functional.value_residual import share_value
from architectures.parts.linear import LowRank
from architectures.parts.norms import rms_norm
from architectures.parts.short_conv import ShortConv, TokenShift
from architectures.primitive import Context, Hint, Options, Primitive, State, linear_flops

# Multiply-adds and products of one cell of the state and token: written and read; asked first; corrected by
# a vector of its own. The decay can be folded into the vectors, as the chunks do, and is not counted.
CELL = {"plain": 4, "tied": 6, "free": 8}


@dataclass(kw_only=True)
class Vectors:
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


# A form of the recurrence: the tokens' vectors and the state -> what it gives, and the last state.
Recur = Callable[[Vectors, Tensor], tuple[Tensor, Tensor]]


class Trait:
    """What a trait of matrix memories may use of its layer."""

    config: Any
    dim: int
    max_len: int
    heads: int
    key_dim: int
    value_dim: int
    norm: Any
    init_state: Any


class MatrixMemory(Primitive):
    """The base of the layers with S_t = (diag(a_t) + x_t y_t^T) S_{t-1} + k_t v_t^T, H matrices K x V.

    The state is (S, *carry): S (B, H, K, V), and what `write` carries from token to token, by default the
    tails of the short convolutions and token shifts in the order in which the layer created them.

    form     "plain" without y, "tied" with y alone, "free" with x and y
    decay    "scalar" (one per head, or none) or "vector" (one per key channel, at least LOG_DECAY_MIN)
    before   read the state before the token is written
    anew     `recur` takes None for zeros, which `forward` begins with
    gates    element-wise multiplications per token outside the recurrence that count as work
    """

    kind = "recurrence"
    form: ClassVar[Literal["plain", "tied", "free"]] = "plain"
    decay: ClassVar[Literal["scalar", "vector"]] = "scalar"
    before: ClassVar[bool] = False
    anew: ClassVar[bool] = True
    gates: int = 0
    # What `read` uses; a subclass with a `read` of its own may make something else of them.
    gate: Any
    norm: Any

    class Config(Options):
        heads: int | None = count_of_heads()
        key_dim: int | None = per_head("key width", sizes="state")
        value_dim: int | None = per_head("value width")
        conv: int = taps(0)
        canon: int = canon_taps()

        def sizes(self, dim: int) -> tuple[int, int, int]:
            """Heads, K and V at a width; a config that does not derive from this one has this, too."""
            return head_widths(dim, self)

    config: Config

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.heads, self.key_dim, self.value_dim = config.sizes(dim)
        if isinstance(config, MatrixMemory.Config):
            self.scale = self.key_dim**-0.5
        self.gate = None

    def add_projection(self, *widths: int, activation: bool = True) -> None:
        """One map to all vectors, by default q, k and v, with a short convolution behind it."""
        keys, values = self.heads * self.key_dim, self.heads * self.value_dim
        self.widths = list(widths or (keys, keys, values))
        self.project = nn.Linear(self.dim, sum(self.widths), bias=False)
        taps, canon = self.config.conv, self.config.canon
        self.conv = ShortConv(sum(self.widths), taps, activation=activation, canon=canon)

    def add_gate(self, rank: int = 0) -> None:
        """The gate of `read`; of a `rank`, it has a bias."""
        self.gates = self.heads * self.value_dim
        full = not rank
        self.gate = (
            nn.Linear(self.dim, self.gates, bias=False) if full else LowRank(self.dim, rank, self.gates)
        )

    def add_output(self) -> None:
        """The norm of a head and the output map of `read`."""
        self.norm = nn.Parameter(torch.ones(self.value_dim))
        self.out = nn.Linear(self.heads * self.value_dim, self.dim, bias=False)

    def vectors(self, x: Tensor, tail: Tensor) -> tuple[list[Tensor], Tensor]:
        """x (B, T, D) projected and convolved: vectors (B, T, H, .), at least in float32; the next tail."""
        z, tail = self.conv(self.project(x), tail)
        z = z.to(torch.promote_types(x.dtype, torch.float32))
        return [u.unflatten(-1, (self.heads, -1)) for u in z.split(self.widths, dim=-1)], tail

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        """(B, T, D) and the carry -> the recurrence's vectors, in at least float32, and the next carry."""
        raise NotImplementedError(f"{type(self).__name__} defines no write")

    def feed(self, z: Vectors) -> Vectors:
        """What the recurrence is fed of `write`, whose values other layers may share."""
        return z

    def read(self, o: Tensor, x: Tensor, tokens: Vectors) -> Tensor:
        """What the state gave, o (B, T, H, V), at least float32 -> (B, T, D), of the dtype of x.

        By default normalised per head by RMSNorm, and gated by silu where there is a gate.
        """
        o = rms_norm(o, self.norm, divisor=self.value_dim).flatten(-2).to(x.dtype)
        return self.out(o if self.gate is None else o * F.silu(self.gate(x)))

    @property
    def value_widths(self) -> tuple[int, ...]:
        return (self.heads * self.value_dim,)

    @property
    def carry_kinds(self) -> tuple[str, ...]:
        return ("conv",) * len(self.convs())

    def init_carry(self, like: Tensor, batch: int) -> State:
        """The carry before the first token; `like` gives device and dtype."""
        return tuple(conv.init_tail(like, batch) for conv in self.convs())

    def convs(self) -> list[ShortConv | TokenShift]:
        return [m for m in self.modules() if isinstance(m, ShortConv | TokenShift)]

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return ("recurrent", *self.carry_kinds)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        return self._advance(x, self.start(x.shape[0]), ctx, self.recur)[0]

    def start(self, batch: int) -> Any:
        """The state that `forward` begins with."""
        s, *carry = self.init_state(batch)
        return (None if self.anew else s), *carry

    def init_state(self, batch: int, length: int | None = None) -> State:
        """S (B, H, K, V) in at least float32, then the carry."""
        self.check_length(length)
        like = next(self.parameters())
        high = torch.promote_types(like.dtype, torch.float32)
        s = like.new_zeros(batch, *self.memory_shape(), dtype=high)
        return s, *self.init_carry(like, batch)

    def memory_shape(self) -> tuple[int, ...]:
        return self.heads, self.key_dim, self.value_dim

    def measure_state(self, length: int) -> dict[str, int]:
        """A state that keeps nothing per token has its size from the first one on."""
        return super().measure_state(length if "growing" in self.state_kinds else min(length, 1))

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        y, state = self._advance(x[:, None], state, ctx, self.recur_once)
        return y[:, 0], state

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        return self._advance(x, state, ctx, self.recur)

    def recur(self, z: Vectors, s: Any) -> tuple[Tensor, Tensor]:
        """Everything that the state gives for (B, T) tokens, and the last state."""
        read: Literal["pre", "post"] = "pre" if self.before else "post"
        return delta_rule(z.q, z.k, z.v, z.log_a, s, x=z.x, y=z.y, read=read, bonus=z.bonus)

    def recur_once(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        """The same for T = 1."""
        q, k, v, log_a, x, y = (None if t is None else t[:, 0] for t in (z.q, z.k, z.v, z.log_a, z.x, z.y))
        assert q is not None and k is not None and v is not None
        read: Literal["pre", "post"] = "pre" if self.before else "post"
        o, s = delta_step(q, k, v, log_a, s, x=x, y=y, read=read, bonus=z.bonus)
        return o[:, None], s

    def flops(self, length: int) -> int:
        return self.products(length) + self.state_flops(length) + self.elementwise(length)

    def state_flops(self, length: int) -> int:
        """What the recurrence needs, of which `recur_flops` is more."""
        return CELL[self.form] * length * math.prod(self.memory_shape())

    def executed_flops(self, length: int) -> int:
        products, rest = self.recur_flops(length)
        return self.products(length) + products + rest + self.elementwise(length)

    def uncounted_flops(self, length: int) -> int:
        return self.recur_flops(length)[1] + self.elementwise(length)

    def products(self, length: int) -> int:
        """FLOPs of the matrix products outside the recurrence: those of every `nn.Linear`."""
        return length * linear_flops(self)

    def elementwise(self, length: int) -> int:
        return sum(conv.flops(length) for conv in self.convs()) + length * self.gates

    def recur_flops(self, length: int) -> tuple[int, int]:
        """FLOPs of `recur` as it is written: matrix products, and what is not one."""
        chunk = VECTOR_CHUNK if self.decay == "vector" else SCALAR_CHUNK
        heads, *_, key, value = self.memory_shape()
        products, rest = delta_flops(length, key, value, chunk=chunk, form=self.form, anew=self.anew)
        return heads * products, heads * rest

    def hints(self) -> dict[str, Hint]:
        """Taps of a short convolution are not decayed."""
        convs = [(n, m) for n, m in self.named_modules() if isinstance(m, ShortConv)]
        names = [f"{n}.weight" for n, m in convs if m.taps]
        names += [f"{n}.canon" for n, m in convs if m.canon is not None]
        return super().hints() | dict.fromkeys(names, Hint(decay=False))

    def axes(self) -> Axes | None:
        """Read from the shapes: with the heads pinned, what follows the model's width reads or writes it."""
        sizes = {"H": self.heads, "K": self.key_dim, "V": self.value_dim}
        options = {"heads": "H", "key_dim": "K", "value_dim": "V"}
        found = Axes(sizes=sizes, zero={"D": ("out.weight",)}, options=options, proved=False)
        cls: Any = type(self)
        try:
            with torch.device("meta"):
                config = type(self.config)(**{**vars(self.config), **found.options_at(sizes)})
                wider = cls(config, dim=2 * self.dim, **self.place)
        except (ValueError, TypeError):
            return None
        shapes = {n: p.shape for n, p in wider.named_parameters()}
        tensors = {}
        for name, p in self.named_parameters():
            if name not in shapes or len(shapes[name]) != p.dim():
                return None
            letters = []
            for old, new in zip(p.shape, shapes[name], strict=True):
                if new not in (old, 2 * old) or (new != old and old != self.dim):
                    return None
                letters.append("." if new == old else "D")
            tensors[name] = " ".join(letters)
        # One writer, and readers of the stream by their last axis.
        if any(a.count("D") > 1 or (a.startswith("D ") and n != "out.weight") for n, a in tensors.items()):
            return None
        return dataclasses.replace(found, tensors=tensors) if tensors.get("out.weight") == "D ." else None

    def _advance(self, x: Tensor, state: State, ctx: Context | None, recur: Recur) -> tuple[Tensor, State]:
        s, *before = state
        tokens, carry = self.write(x, tuple(before), ctx)
        tokens.v = share_value(tokens.v, ctx, self.index)
        o, s = recur(self.feed(tokens), s)
        return self.read(o, x, tokens), (s, *carry)
