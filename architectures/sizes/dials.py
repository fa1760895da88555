"""The options that size a spec: where they stand, in which steps they turn, and the spec at other values."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from architectures import registry
from architectures.grammar.spec import Layer, Spec
from architectures.primitive import Primitive
from architectures.sizes.bounds import MOST

# Consecutive numbers that a layer may refuse although it allows larger ones, as widths between multiples.
GAP = 1024


@dataclass(frozen=True)
class Dial:
    """An option of a layer that sizes it: its value as built, and which multiples of `step` it may have."""

    layer: Layer
    option: str
    value: int
    step: int
    least: int
    most: int

    def near(self, value: float) -> int:
        """The nearest value that the layer allows."""
        return max(self.least, min(self.most, self.step * round(value / self.step)))

    def at(self, value: int) -> Layer:
        """The layer at a value. One that it has already stays unsaid: two spellings are two architectures."""
        if value == self.value:
            return self.layer
        options = {**dict(self.layer.options), self.option: value}
        return Layer(self.layer.name, registry.get(self.layer.name).changed(options), self.layer.body)


def find_dials(spec: Spec, sizes: str, build: Callable[[Layer], Primitive]) -> tuple[Dial | None, ...]:
    """For each layer of `spec.walk()` the option that it declares to size `sizes`; None for none, or one off.

    `build` makes a layer by itself; it raises a ValueError for a value that the layer does not allow.
    """
    known = {layer: _dial(layer, sizes, build) for layer in dict.fromkeys(spec.walk())}
    return tuple(known[layer] for layer in spec.walk())


def _dial(layer: Layer, sizes: str, build: Callable[[Layer], Primitive]) -> Dial | None:
    fields = dataclasses.fields(registry.get(layer.name).cls.Config)
    sized = [f for f in fields if f.metadata.get("sizes") == sizes]
    if not sized:
        return None
    option, most = sized[0].name, sized[0].metadata["most"] or MOST
    built = build(layer)
    value = getattr(built.config, option)
    value = getattr(built, option) if value is None else value
    if not value:
        return None
    step = built.size_step(option)
    dial = Dial(layer, option, value, step, min(step, value), int(most) // step * step)
    while dial.least < value:
        try:
            build(dial.at(dial.least))
            break
        except ValueError:
            dial = dataclasses.replace(dial, least=min(dial.least + step, value))
    return dial


def with_values(spec: Spec, dials: Sequence[Dial | None], values: Iterable[int]) -> Spec:
    """The spec with its dials at the values, one for each layer of `spec.walk()`."""
    turns = iter(list(zip(dials, values, strict=True)))

    def turned(layer: Layer) -> Layer:
        dial, value = next(turns)
        return layer if dial is None else dial.at(value)

    return spec.map(turned)


def nearest(f: Callable[[int], float], goal: float, low: int, high: int, start: int) -> int:
    """The integer in [low, high] at which a non-decreasing f is nearest to `goal`; the smallest of equals.

    The search begins at `start`. Where f is NaN, the next number that is not one is asked instead; where
    there is none for long, f is taken to be above the goal.
    """
    ends = around(f, goal, low, high, start)
    return min(ends, key=lambda n: math.inf if math.isnan(f(n)) else abs(f(n) - goal))


def around(f: Callable[[int], float], goal: float, low: int, high: int, start: int) -> tuple[int, int]:
    """The last integer in [low, high] at which f is below `goal` and the first at which it is not.

    The end of the range where there is no such integer. Otherwise as `nearest`.
    """

    def defined(n: int) -> int:
        return next((m for m in range(n, min(n + GAP, high) + 1) if not math.isnan(f(m))), n)

    # From the start in growing steps: values far too large can be dear to build.
    first = last = min(max(start, low), high)
    step = 1
    while first > low and not f(defined(first)) < goal:
        first, last, step = max(low, first - step), first, 2 * step
    while last < high and f(defined(last)) < goal:
        first, last, step = last, min(high, last + step), 2 * step
    for turn in itertools.count():
        if last - first <= 1:
            break
        middle = (first + last) // 2
        if turn % 2 == 0 and (rise := f(last) - f(first)) > 0:  # most sizes rise in proportion
            guess = first + (last - first) * (goal - f(first)) / rise
            middle = min(max(round(guess), first + 1), last - 1)
        there = defined(middle)
        if f(there) < goal:
            first = min(there, last - 1)
        else:
            last = middle
    first, last = defined(first), defined(last)
    # Where f stays below, and level in the end, the first number that does as well.
    return around(f, f(last), low, last, start) if f(first) == f(last) < goal else (first, last)
