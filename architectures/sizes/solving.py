"""Architectures made comparable: sizes that reach a number of parameters, state elements or FLOPs."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from architectures.blocks import Part
from architectures.grammar.spec import Layer, Spec
from architectures.grammar.stripe import parse
from architectures.model import SequenceModel, sketch
from architectures.primitive import Primitive
from architectures.sizes.accounting import Account, account, readout_flops
from architectures.sizes.bounds import check_goal, check_sizes
from architectures.sizes.dials import Dial, around, find_dials, nearest, with_values

TOLERANCE = 0.02
# Widths are tried in these steps; most layers want multiples of 16, and refuse the others.
WIDTH_STEPS = (16, 4, 1)
# How many steps from the width that is nearest unturned: at first, and where a layer refuses the near ones.
NEAR, FAR = (0, -1, 1, 2), (-2, -3, -4, 3, 4)
WIDEST = 16_384
DEFAULT_DIM = 128
# Inner widths are turned by factors of 1.005^n, finer than the tolerance, n up to this in both directions.
SPAN = 2000
# The goals in the words of `mad bench --iso`.
GOALS = ("params", "state", "total-state", "flops")


@dataclass(frozen=True, kw_only=True)
class Solution:
    """What `solve` found: `errors` holds the relative deviation from each goal, at most TOLERANCE."""

    spec: Spec
    dim: int
    account: Account
    errors: dict[str, float]


def solve(
    spec: str | Spec,
    *,
    params: int | None = None,
    state: int | None = None,
    total_state: int | None = None,
    flops: float | None = None,
    dim: int | None = None,
    vocab_size: int = 16,
    seq_len: int = 128,
) -> Solution:
    """The architecture with the sizes that reach each goal within 2 %; ValueError where none do.

    params       parameters without embedding and readout
    state        nominal state elements of the whole model; the published point is 4,096 at width 128
    total_state  measured state elements, tails of short convolutions included
    flops        forward FLOPs per token of the whole model, over `seq_len` tokens
    dim          the model's width; None: free where params or flops is given, else 128

    State is turned by the options that a layer declares to size it, with equal shares for the layers that
    have one; a state that grows with the sequence is refused. Parameters and FLOPs are turned by the inner
    widths, all by one factor, and by the width where it is free, in steps of 16 or, where that is too coarse,
    finer. Options that the spec states are turned like the others; those that nothing declares, and those
    that are off (0 or none), are left as they are. State is solved first, and inner widths do not change it.

    All sizes are whole multiples of what their layer asks for (`Primitive.size_step`). Where equal shares
    miss the goal, the first layers, those with the coarsest steps before the others, are one step larger than
    the last ones: 11, 11 and 10 for 10.67 each. Where that misses it too, the layers with the coarsest steps
    keep their sizes and the others share what is left.
    """
    goals = {"params": params, "state": state, "total-state": total_state, "flops": flops}
    given = {name: goal for name, goal in goals.items() if goal is not None}
    for name, goal in given.items():
        check_goal(name, goal)
    if not given:
        raise ValueError(f"nothing to solve for; give one of {', '.join(GOALS)}")
    for one, other in (("params", "flops"), ("state", "total-state")):
        if one in given and other in given:
            raise ValueError(f"{one} and {other} are turned by the same options; give one of the two")
    check_sizes(vocab_size=vocab_size, seq_len=seq_len)
    solver = _Solver(parse(spec), given, vocab_size, seq_len)
    if dim is None and not {"params", "flops"} & set(given):
        dim = DEFAULT_DIM
    found, dim = solver.at(dim) if dim is not None else solver.any_width()
    errors = {name: round(solver.measure(name, found, dim) / goal - 1, 6) for name, goal in given.items()}
    for name, error in errors.items():
        if abs(error) > TOLERANCE:
            raise ValueError(solver.complaint(name, found, dim))
    counted = account(found, vocab_size=vocab_size, dim=dim, seq_len=seq_len)
    return Solution(spec=found, dim=dim, account=counted, errors=errors)


class _Unbuildable(ValueError):
    """A layer refuses a width or an option."""


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise _Unbuildable(str(error)) from error


class _Solver:
    def __init__(self, spec: Spec, goals: dict[str, float], vocab_size: int, seq_len: int) -> None:
        self.spec, self.goals = spec, goals
        self.vocab_size, self.seq_len = vocab_size, seq_len
        self.size = next((g for g in ("params", "flops") if g in goals), None)
        self.memory = next((g for g in ("state", "total-state") if g in goals), None)

    def at(self, dim: int, *, equal: bool = False) -> tuple[Spec, int]:
        """The nearest architecture at one width; with `equal`, that of equal shares."""
        spec = self.spec
        for name in (self.memory, self.size):
            if name is not None:
                if name == self.memory:
                    self._refuse_growing(name, dim)
                spec = _Turning(self, name, spec, dim).found(equal)
        return spec, dim

    def any_width(self) -> tuple[Spec, int]:
        """The nearest architecture at any width: about where it would fit unturned.

        The first that will do is taken, as its proportions are nearest to the default ones; layers differ by
        a step only where equal ones do at no width.
        """
        assert self.size is not None
        size, found, refusal = self.size, [], ""
        places = [*itertools.product((True, False), WIDTH_STEPS, [NEAR]), (False, WIDTH_STEPS[0], FAR)]
        for equal, step, offsets in places:

            def unturned(k: int, step: int = step) -> float:
                return sum(self._tried(size, self.spec, step * k))

            k = nearest(unturned, self.goals[size], 1, WIDEST // step, DEFAULT_DIM // step)
            for n in (k + offset for offset in offsets if 0 < k + offset <= WIDEST // step):
                try:
                    found.append(self.at(step * n, equal=equal))
                except _Unbuildable as error:
                    refusal = str(error)
                    continue
                if self.error(*found[-1]) <= TOLERANCE:
                    return found[-1]
            if not found:
                raise ValueError(
                    f"{self.spec} can be built at no multiple of {step} up to {WIDEST} as width ({refusal}); "
                    "state its heads or sizes"
                )
        return min(found, key=lambda best: self.error(*best))

    def error(self, spec: Spec, dim: int) -> float:
        """The largest relative deviation from a goal."""
        return max(abs(self.measure(name, spec, dim) / goal - 1) for name, goal in self.goals.items())

    def measure(self, name: str, spec: Spec, dim: int) -> float:
        """A quantity of a whole model."""
        return sum(self._counted(name, spec, dim))

    def complaint(self, name: str, spec: Spec, dim: int) -> str:
        goal, reached = self.goals[name], self.measure(name, spec, dim)
        options = sorted({f"{d.layer.name}[{d.option}]" for d in self.dials(name, spec, dim) if d})
        none = f"no layer has an option that sizes {_sets(name)}"
        turning = f"by turning {', '.join(options)}" if options else none
        return (
            f"{self.spec} cannot have {name}={goal:,.0f} within {TOLERANCE:.0%}: the nearest found is "
            f"{reached:,.0f} at width {dim} with {spec}, {turning}; give another {name}, width or spec"
        )

    def _refuse_growing(self, name: str, dim: int) -> None:
        for layer in self._account(self.spec, dim).layers:
            if layer.state is None or not (growing := layer.state["growing"]):
                continue
            # A nominal state beyond the recurrent one is that of a distilled form, which does not grow.
            if name != "state" or layer.nominal == layer.state["recurrent"]:
                raise ValueError(
                    f"the state of {layer.name} grows with the sequence ({growing:,} elements after "
                    f"{self.seq_len} tokens), so it has no {name} to solve for; leave {layer.name} out, or "
                    "compare at equal params or flops"
                )

    def by_items(
        self, name: str, spec: Spec, dim: int, dials: Sequence[Dial | None] = (), values: Sequence[int] = ()
    ) -> float:
        """A quantity of a model, its items counted one by one, equal ones once; NaN where one is refused.

        dials, values  of the spec, to be turned before
        """
        try:
            turned = with_values(spec, dials, values) if dials else spec
        except ValueError:
            return math.nan
        inside, outside = zip(*(self._tried(name, Spec((item,)), dim) for item in turned), strict=True)
        return sum(inside) + outside[0]

    @functools.cache  # noqa: B019 - a solver lives for one call
    def _tried(self, name: str, spec: Spec, dim: int) -> tuple[float, float]:
        try:
            return self._counted(name, spec, dim)
        except _Unbuildable:
            return math.nan, math.nan

    def dials(self, name: str, spec: Spec, dim: int) -> tuple[Dial | None, ...]:
        return find_dials(spec, _sets(name), lambda layer: self._layer(layer, dim))

    @functools.cache  # noqa: B019
    def _counted(self, name: str, spec: Spec, dim: int) -> tuple[float, float]:
        """A quantity of the layers, and of what stands around them without the embedding."""
        if name in ("state", "total-state"):
            counted = self._account(spec, dim)
            if counted.state is None or counted.nominal is None:
                unknown = ", ".join(sorted({a.name for a in counted.layers if a.state is None}))
                raise ValueError(f"the state of {unknown} is unknown: it has no step; choose other layers")
            return (counted.nominal if name == "state" else counted.state["total"]), 0
        model = self._model(spec, dim)
        if name == "params":
            inside, outside = (sum(p.numel() for p in m.parameters()) for m in (model.blocks, model.norm))
            return inside, outside
        flops = sum(part.flops(self.seq_len) for part in cast("Iterable[Part]", model.blocks))
        return flops / self.seq_len, readout_flops(model, self.seq_len)

    def _account(self, spec: Spec, dim: int) -> Account:
        with _refusals():
            return account(spec, vocab_size=self.vocab_size, dim=dim, seq_len=self.seq_len)

    def _model(self, spec: Spec, dim: int) -> SequenceModel:
        with _refusals():
            return sketch(spec, self.vocab_size, dim, self.seq_len)

    @functools.cache  # noqa: B019
    def _layer(self, layer: Layer, dim: int) -> Primitive:
        return self._model(Spec((layer,)), dim).layers()[0][1]


class _Turning:
    """A quantity of a spec at one width, and its dials; `values` are theirs, one for each layer."""

    def __init__(self, solver: _Solver, name: str, spec: Spec, dim: int) -> None:
        self.solver, self.name, self.spec, self.dim = solver, name, spec, dim
        self.goal, self.dials = solver.goals[name], solver.dials(name, spec, dim)
        # What a layer makes of its place in the model shows in no item by itself.
        self.offset = solver.measure(name, spec, dim) - solver.by_items(name, spec, dim)

    def found(self, equal: bool) -> Spec:
        values = [dial.value if dial else 0 for dial in self.dials]
        steps = {i: self._step(dial) for i, dial in enumerate(self.dials) if dial}
        # The coarsest first, equal ones in the order of reading. What moves nothing is left as it is.
        free = sorted((i for i in steps if steps[i] > 0), key=lambda i: -steps[i])
        best = self._shared(values, free, equal)
        while free and not equal and self._error(best) > TOLERANCE:
            free = [i for i in free if steps[i] < steps[free[0]]]
            best = min(best, self._shared(best, free, equal), key=self._error)
        return with_values(self.spec, self.dials, best)

    def _shared(self, values: list[int], free: list[int], equal: bool) -> list[int]:
        """The free dials at equal shares or, where these miss, the first of them one step beyond the rest."""
        if not free:
            return values
        if self.name == self.solver.size:
            span = -SPAN, SPAN, 0
        else:
            # Shares rise about as the whole does.
            now = sum(self._alone(dial, dial.value) for i in free if (dial := self.dials[i])) / len(free)
            span = 1, int(self.goal), round(now * self.goal / max(1, self._total(values)))

        turning = set(free)

        def at(n: int) -> list[int]:
            return [self._sized(d, n) if d and i in turning else values[i] for i, d in enumerate(self.dials)]

        lower, upper = map(at, around(lambda n: self._total(at(n)), self.goal, *span))
        best = min(lower, upper, key=self._error)
        if equal or self._error(best) <= TOLERANCE:
            return best

        def beyond(k: int) -> list[int]:
            ahead = set(free[:k])
            return [upper[i] if i in ahead else lower[i] for i in range(len(values))]

        return beyond(nearest(lambda k: self._total(beyond(k)), self.goal, 0, len(free), 0))

    @functools.cache  # noqa: B019 - so does a turning
    def _sized(self, dial: Dial, n: int) -> int:
        """The value of a dial at a factor of 1.005^n, or with a state nearest to n elements."""
        if self.name == self.solver.size:
            return dial.near(dial.value * 1.005**n)
        least, now, most = (value // dial.step for value in (dial.least, dial.value, dial.most))
        start = round(now * n / max(1, self._alone(dial, dial.value)))
        most = max(least, min(most, n // dial.step))
        return dial.step * nearest(lambda k: self._alone(dial, k * dial.step), n, least, most, start)

    def _alone(self, dial: Dial, value: int) -> float:
        """The quantity of a model of one layer, its dial at a value."""
        return self.solver.by_items(self.name, Spec((dial.layer,)), self.dim, (dial,), (value,))

    def _step(self, dial: Dial) -> float:
        """What one step of a dial adds."""
        added = self._alone(dial, dial.value + dial.step) - self._alone(dial, dial.value)
        return math.inf if math.isnan(added) else added

    def _total(self, values: list[int]) -> float:
        return self.offset + self.solver.by_items(self.name, self.spec, self.dim, self.dials, values)

    def _error(self, values: list[int]) -> float:
        off = abs(self._total(values) / self.goal - 1)
        return math.inf if math.isnan(off) else off


def _sets(name: str) -> str:
    """What an option is declared to size, for a goal."""
    return "params" if name in ("params", "flops") else "state"
