"""Nested layers (arXiv:2310.07707): the first units of a layer are smaller layers of their own.

A granularity is a number: 0 the smallest submodel, the last one the whole layer. Which one a call uses comes
with the context, else from the attribute `granularity`, which nothing here ever sets back.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.primitive import Context, Options, Primitive, config_options, divisors, option

JOINT, UNIFORM = "joint", "uniform"
_WEIGHTS = re.compile(r"w\d+(\.\d+)?(-\d+(\.\d+)?)*")


class NestedConfig(Options):
    granularities: int = option(4, "number of nested sizes, the whole layer included", most=24, least=1)
    draw: str = option(
        UNIFORM,
        "sizes that a training step uses: uniform, one drawn for all layers; w1-1-1-2, drawn in this ratio, "
        "smallest first; joint, the sum of the losses of all",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        probabilities(self.draw, self.granularities)


def probabilities(draw: str, count: int) -> tuple[float, ...]:
    """How often each granularity is drawn; () where every step uses all of them."""
    if draw in (JOINT, UNIFORM):
        return () if draw == JOINT else count * (1 / count,)
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


class Nested:
    """A trait: a layer of units of which the first `widths[g]` are the submodel of granularity g.

    nested  the letter of these units in the layer's axes
    base    the layer that a submodel is
    """

    config: Any
    nested: ClassVar[str]
    base: ClassVar[str]
    name: ClassVar[str]
    path: str
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
        axes, sizes = self._cut(granularity)
        return {
            name: first_entries(p, axes.tensors[name], axes.sizes, sizes)
            for name, p in cast(nn.Module, self).named_parameters()
        }

    def plain(self, granularity: int) -> tuple[str, dict[str, Any]]:
        """The name and the options of the layer that a submodel is, which is not nested."""
        axes, sizes = self._cut(granularity)
        own = {f.name for f in dataclasses.fields(NestedConfig)} | {"group"}
        options = {n: v for n, v in config_options(self.config).items() if n not in own}
        return self.base, options | axes.options_at(sizes)

    def active_params(self) -> int:
        return sum(p.numel() for p in self.prefix(self.granularity).values())

    def _cut(self, granularity: int) -> tuple[Axes, dict[str, int]]:
        axes = cast(Primitive, self).axes()
        if axes is None:
            raise NotImplementedError(f"{type(self).__name__} defines no axes")
        return axes, {**axes.sizes, self.nested: self.widths[granularity]}


def first_entries(p: Tensor, axes: str, whole: Mapping[str, int], sizes: Mapping[str, int]) -> Tensor:
    """A tensor at smaller sizes of the slowest letters of its axes; a view, but of axes with a "+"."""
    for dim, spelled in enumerate(axes.split()):
        products = spelled.split("+")
        if all(sizes.get(letter) == whole.get(letter) for letter in spelled):
            continue
        parts = p.split([math.prod(whole[x] for x in product) for product in products], dim=dim)
        cut = [
            part.narrow(dim, 0, math.prod(sizes[x] for x in product))
            for part, product in zip(parts, products, strict=True)
        ]
        p = cut[0] if len(cut) == 1 else torch.cat(cut, dim=dim)
    return p


class NestedInner(Nested):
    """A trait of channel mixers: F inner units."""

    nested = "F"
    inner: int

    def __init__(self, config: Any, **place: Any) -> None:
        """Each size half of the next one, as in the paper: F/8, F/4, F/2, F."""
        cast(Any, super()).__init__(config, **place)
        count = config.granularities
        part = 2 ** (count - 1)
        if self.inner % part:
            near = max(self.inner // part, 1) * part
            raise ValueError(
                f"inner={self.inner} is not divisible by {part}, the smallest part of granularities={count}; "
                f"choose inner={near} or another multiple of {part}"
            )
        self.nest(tuple(self.inner >> (count - 1 - g) for g in range(count)))

    def size_step(self, option: str) -> int:
        return self.inner // self.widths[0] if option == "inner" else 1


class NestedHeads(Nested):
    """A trait of attention: heads of keys and values, each with the query heads that share it.

    The cache of a larger submodel serves a smaller one, which reads its first heads; not the other way.
    """

    nested = "G"
    kv_heads: int
    value_dim: int

    def __init__(self, config: Any, *, dim: int, **place: Any) -> None:
        """Equal steps, as in the paper: G/4, G/2, 3G/4, G of the heads of keys and values.

        Where no number of heads is stated: the most of at least 16 channels that the sizes divide.
        """
        count = config.granularities
        if config.heads is None:
            fits = [h for h in divisors(dim) if h % count == 0 and dim % (2 * h) == 0 and dim // h >= 16]
            if not fits and dim % (2 * count):
                raise ValueError(
                    f"dim {dim} is not divisible by twice granularities={count}; state heads=, or change one "
                    "of them"
                )
            config = dataclasses.replace(config, heads=max([count, *fits]))
        cast(Any, super()).__init__(config, dim=dim, **place)
        if self.kv_heads % count:
            choices = ", ".join(str(d) for d in divisors(self.kv_heads))
            raise ValueError(
                f"granularities={count} does not divide the {self.kv_heads} heads of keys and values; choose "
                f"granularities from {choices}, or heads and kv_heads that are multiples of {count}"
            )
        self.nest(tuple(self.kv_heads * (g + 1) // count for g in range(count)))

    @property
    def value_widths(self) -> tuple[int, ...]:
        return tuple(units * self.value_dim for units in self.widths)

    def cached(self, keys: Tensor, values: Tensor, ctx: Context | None) -> tuple[Tensor, Tensor]:
        """The heads of a cache, keys and values (B, t, G, .), that this call reads."""
        units = self.units(ctx)
        if keys.shape[2] < units:
            raise ValueError(
                f"the cache holds {keys.shape[2]} heads, this call reads {units}: a larger submodel "
                "cannot go on from a smaller one's cache; fill it with the larger one"
            )
        return keys[:, :, :units], values[:, :, :units]
