"""Nested layers (arXiv:2310.07707): the first units of a layer are smaller layers of their own.

A granularity is a number: 0 the smallest submodel, the last one the whole layer. Which one a call uses comes
with the context, else from the attribute `granularity`, which nothing here ever sets back.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.families.key_values import KeyValueMemory
from architectures.functional.short_conv import next_tail, short_conv
from architectures.primitive import Context, Primitive, at_least, config_options, divisors, option

JOINT, UNIFORM = "joint", "uniform"
_WEIGHTS = re.compile(r"w\d+(\.\d+)?(-\d+(\.\d+)?)*")


@dataclass(frozen=True, kw_only=True)
class NestedConfig:
    granularities: int = option(4, "number of nested sizes, the whole layer included", most=24)
    draw: str = option(
        UNIFORM,
        "sizes that a training step uses: uniform, one drawn for all layers; w1-1-1-2, drawn in this ratio, "
        "smallest first; joint, the sum of the losses of all",
    )

    def __post_init__(self) -> None:
        at_least(self, granularities=1)
        probabilities(self.draw, self.granularities)


def probabilities(draw: str, count: int) -> tuple[float, ...]:
    """How often each granularity is drawn; () where every step uses all of them."""
    if draw == JOINT:
        return ()
    if draw == UNIFORM:
        return count * (1 / count,)
    if not _WEIGHTS.fullmatch(draw):
        raise ValueError(
            f"draw={draw} is not one of {UNIFORM}, {JOINT}, or weights such as w{'-'.join(count * ['1'])}"
        )
    weights = [float(word) for word in draw[1:].split("-")]
    if len(weights) != count or not sum(weights):
        raise ValueError(
            f"draw={draw} has {len(weights)} weights, of sum {sum(weights):g}, for granularities={count}; "
            f"give one a size, not all 0, such as w{'-'.join(count * ['1'])}"
        )
    return tuple(weight / sum(weights) for weight in weights)


class Nested(Primitive):
    """A layer of units of which the first `widths[g]` are the submodel of granularity g."""

    widths: tuple[int, ...]
    granularity: int

    def nest(self, widths: tuple[int, ...]) -> None:
        """Set the widths; the layer is whole until it is told otherwise."""
        self.widths, self.granularity = widths, len(widths) - 1

    def units(self, ctx: Context | None = None) -> int:
        """How many units this call uses: what the context says, for all layers or this one, else its own."""
        chosen = None if ctx is None else ctx.granularity
        if isinstance(chosen, dict):
            chosen = chosen.get(self.path)
        return self.widths[self.granularity if chosen is None else self.check_granularity(chosen)]

    def check_granularity(self, granularity: int) -> int:
        if not isinstance(granularity, int) or not 0 <= granularity < len(self.widths):
            raise ValueError(
                f"granularity {granularity} of {self.name} is none of its {len(self.widths)} sizes; choose "
                f"0 (the smallest) to {len(self.widths) - 1} (the whole layer)"
            )
        return granularity

    def prefix(self, granularity: int) -> dict[str, Tensor]:
        """The parameters of a submodel, views of this layer's, under the names that `plain` has for them."""
        raise NotImplementedError(f"{type(self).__name__} defines no prefix")

    def plain(self, granularity: int) -> tuple[str, dict[str, Any]]:
        """The name and the options of the layer that a submodel is, which is not nested."""
        raise NotImplementedError(f"{type(self).__name__} defines no plain layer")

    def active_params(self) -> int:
        return sum(p.numel() for p in self.prefix(self.granularity).values())


class NestedInner(Nested):
    """Channel mixers with F inner units: `rows` are matrices (F, D) that make them, `columns` (D, F) that
    read them.
    """

    writers = ("down",)
    inner: int
    rows: tuple[str, ...]
    columns: tuple[str, ...] = ("down.weight",)
    base: str

    def nest_inner(self, inner: int, count: int) -> None:
        """Each size half of the next one, as in the paper: F/8, F/4, F/2, F."""
        part = 2 ** (count - 1)
        if inner % part:
            near = max(inner // part, 1) * part
            raise ValueError(
                f"inner={inner} is not divisible by {part}, the smallest part of granularities={count}; "
                f"choose inner={near} or another multiple of {part}"
            )
        self.inner = inner
        self.nest(tuple(inner >> (count - 1 - g) for g in range(count)))

    def size_step(self, option: str) -> int:
        return self.inner // self.widths[0] if option == "inner" else 1

    def prefix(self, granularity: int) -> dict[str, Tensor]:
        width = self.widths[granularity]
        rows = {name: self.get_parameter(name)[:width] for name in self.rows}
        return rows | {name: self.get_parameter(name)[:, :width] for name in self.columns}

    def plain(self, granularity: int) -> tuple[str, dict[str, Any]]:
        return self.base, {"inner": self.widths[granularity]}


class NestedHeads(Nested, KeyValueMemory):
    """Attention whose units are heads of keys and values, each with the query heads that share it.

    The cache of a larger submodel serves a smaller one, which reads its first heads; not the other way.
    """

    base: str

    def nest_heads(self, count: int) -> None:
        """Equal steps, as in the paper: G/4, G/2, 3G/4, G of the heads of keys and values."""
        if self.kv_heads % count:
            choices = ", ".join(str(d) for d in divisors(self.kv_heads))
            raise ValueError(
                f"granularities={count} does not divide the {self.kv_heads} heads of keys and values; choose "
                f"granularities from {choices}, or heads and kv_heads that are multiples of {count}"
            )
        self.nest(tuple(self.kv_heads * (g + 1) // count for g in range(count)))

    @property
    def value_widths(self) -> tuple[int, ...]:
        return tuple(self.channels(units)[2] for units in self.widths)

    def maps(self, x: Tensor, ctx: Context | None) -> list[Tensor]:
        parts = zip((self.query, self.key, self.value), self.channels(self.units(ctx)), strict=True)
        return [F.linear(x, linear.weight[:width]) for linear, width in parts]

    def convolve(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        assert self.conv.weight is not None
        units = x.shape[-1] // sum(self.channels(1))
        tail = self.first_channels(tail, units, -1).to(x.dtype)
        weight = self.first_channels(self.conv.weight, units, 0)
        return F.silu(short_conv(x, weight, tail=tail)), next_tail(x, tail)

    def read(self, o: Tensor, x: Tensor) -> Tensor:
        o = o.flatten(-2)
        width = o.shape[-1]
        if self.gate is not None:
            o = o * F.linear(x, self.gate.weight[:width]).sigmoid()
        return F.linear(o, self.out.weight[:, :width])

    def cached(self, state: tuple[Tensor, Tensor], ctx: Context | None) -> tuple[Tensor, Tensor]:
        """The heads of a cache, keys and values (B, t, G, .), that this call reads."""
        units = self.units(ctx)
        if state[0].shape[2] < units:
            raise ValueError(
                f"the cache holds {state[0].shape[2]} heads, this call reads {units}: a larger submodel "
                "cannot go on from a smaller one's cache; fill it with the larger one"
            )
        return state[0][:, :, :units], state[1][:, :, :units]

    def channels(self, units: int) -> tuple[int, int, int]:
        """Channels of queries, keys and values that belong to the first `units` heads of keys."""
        group = self.heads // self.kv_heads
        return units * group * self.key_dim, units * self.key_dim, units * self.value_dim

    def first_channels(self, z: Tensor, units: int, dim: int) -> Tensor:
        """Of channels laid out as queries, keys, values: those of the first `units` heads."""
        have = self.channels(z.shape[dim] // sum(self.channels(1)))
        if have == self.channels(units):
            return z
        parts = z.split(have, dim=dim)
        widths = self.channels(units)
        return torch.cat([p.narrow(dim, 0, w) for p, w in zip(parts, widths, strict=True)], dim=dim)

    def prefix(self, granularity: int) -> dict[str, Tensor]:
        units = self.widths[granularity]
        query, key, value = self.channels(units)
        read = query // self.key_dim * self.value_dim
        found = {}
        for name, p in self.named_parameters():
            cut = {"query.weight": query, "key.weight": key, "value.weight": value, "gate.weight": read}
            if name in cut:
                found[name] = p[: cut[name]]
            elif name == "out.weight":
                found[name] = p[:, :read]
            else:
                found[name] = self.first_channels(p, units, 0) if name == "conv.weight" else p
        return found

    def plain(self, granularity: int) -> tuple[str, dict[str, Any]]:
        units = self.widths[granularity]
        own = {f.name for f in dataclasses.fields(NestedConfig)} | {"group"}
        options = {n: v for n, v in config_options(self.config).items() if n not in own}
        sizes = {"heads": units * self.heads // self.kv_heads, "kv_heads": units}
        return self.base, options | sizes | {"key_dim": self.key_dim, "value_dim": self.value_dim}

    # Everything that attention computes is a multiple of its heads of keys and values.
    def flops(self, length: int) -> int:
        return super().flops(length) * self.units() // self.kv_heads

    def executed(self, length: int) -> int:
        return super().executed(length) * self.units() // self.kv_heads

    def unseen(self, length: int) -> int:
        return super().unseen(length) * self.units() // self.kv_heads


def nested_heads(config: Any, dim: int) -> Any:
    """The config with its heads stated: where none are, the most of at least 16 channels that the sizes
    divide.
    """
    if config.heads is not None:
        return config
    count = config.granularities
    fits = [h for h in divisors(dim) if h % count == 0 and dim % (2 * h) == 0 and dim // h >= 16]
    if not fits and dim % (2 * count):
        raise ValueError(
            f"dim {dim} is not divisible by twice granularities={count}; state heads=, or change one of them"
        )
    return dataclasses.replace(config, heads=max([count, *fits]))
