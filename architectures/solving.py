"""Architectures made comparable: sizes that reach a number of parameters, state elements or FLOPs."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from architectures import registry
from architectures.accounting import Account, account
from architectures.model import SequenceModel, sketch
from architectures.primitive import Primitive
from architectures.spec import Layer, Parallel, Spec
from architectures.stripe import parse

TOLERANCE = 0.02
# Widths are tried in these steps; most layers want multiples of 16, and refuse the others.
WIDTH_STEPS = (16, 4, 1)
WIDEST = 16_384
DEFAULT_DIM = 128
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
    flops        forward FLOPs a token of the whole model, over `seq_len` tokens
    dim          the model's width; None: free where params or flops is given, else 128

    State is turned by the options that a layer declares to size it, with equal shares for the layers that
    have one; a state that grows with the sequence is refused. Parameters and FLOPs are turned by the inner
    widths, all by one factor, and by the width where it is free, in steps of 16 or, where that is too coarse,
    finer. Options that the spec states
    are turned like the others; those that nothing declares are left as they are. State is solved first, and
    inner widths do not change it.
    """
    goals = {"params": params, "state": state, "total-state": total_state, "flops": flops}
    given = {name: goal for name, goal in goals.items() if goal is not None}
    for name, goal in given.items():
        if goal < 1:
            raise ValueError(f"{name}={goal} must be at least 1")
    if not given:
        raise ValueError(f"nothing to solve for; give one of {', '.join(GOALS)}")
    for one, other in (("params", "flops"), ("state", "total-state")):
        if one in given and other in given:
            raise ValueError(f"{one} and {other} are turned by the same options; give one of the two")
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


class _Solver:
    def __init__(self, spec: Spec, goals: dict[str, float], vocab_size: int, seq_len: int) -> None:
        self.spec, self.goals, self.vocab_size, self.seq_len = spec, goals, vocab_size, seq_len
        self.size = next((g for g in ("params", "flops") if g in goals), None)
        self.memory = next((g for g in ("state", "total-state") if g in goals), None)

    def at(self, dim: int) -> tuple[Spec, int]:
        """The nearest architecture at one width."""
        spec = self.spec if self.memory is None else self._with_state(self.memory, dim)
        return (spec if self.size is None else self._with_inner(self.size, spec, dim)), dim

    def any_width(self) -> tuple[Spec, int]:
        """The nearest architecture at any width: about where it would fit unturned."""
        assert self.size is not None
        size, best = self.size, None
        for step in WIDTH_STEPS:
            k = _nearest(self._at_width(size, step), self.goals[size], 1, WIDEST // step)
            for n in (k, k - 1, k + 1, k + 2):
                try:
                    found = self.at(step * n) if n > 0 else None
                except _Unbuildable:
                    continue
                if found and (best is None or self.error(*found) < self.error(*best)):
                    best = found
                # The first that will do: its proportions are nearest to the default ones.
                if best is not None and self.error(*best) <= TOLERANCE:
                    return best
        if best is None:
            raise ValueError(f"{self.spec} can be built at no width up to {WIDEST}; state its heads or sizes")
        return best

    def _at_width(self, size: str, step: int) -> Callable[[int], float]:
        def plain(k: int) -> float:
            try:
                return self.measure(size, self.spec, step * k)
            except _Unbuildable:
                return math.nan

        return plain

    def error(self, spec: Spec, dim: int) -> float:
        """The largest relative deviation from a goal."""
        return max(abs(self.measure(name, spec, dim) / goal - 1) for name, goal in self.goals.items())

    @functools.cache  # noqa: B019 - a solver lives for one call
    def measure(self, name: str, spec: Spec, dim: int) -> float:
        """A quantity of a whole model."""
        model = self._model(spec, dim)
        if name == "params":
            return sum(p.numel() for p in model.parameters()) - 2 * self.vocab_size * model.width
        if name == "flops":
            return account(spec, vocab_size=self.vocab_size, dim=dim, seq_len=self.seq_len).flops
        counted = account(spec, vocab_size=self.vocab_size, dim=dim, seq_len=self.seq_len)
        if counted.state is None or counted.nominal is None:
            unknown = ", ".join(sorted({a.name for a in counted.layers if a.state is None}))
            raise ValueError(f"the state of {unknown} is unknown: it defines no step; choose other layers")
        return counted.nominal if name == "state" else counted.state["total"]

    def complaint(self, name: str, spec: Spec, dim: int) -> str:
        goal, reached = self.goals[name], self.measure(name, spec, dim)
        sets = "state" if name == self.memory else "params"
        options = sorted({f"{layer.name}[{o}]" for layer in spec.walk() for o in _turned(layer, sets)})
        turning = (
            f"by turning {', '.join(options)}" if options else f"no layer has an option that sizes {sets}"
        )
        return (
            f"{self.spec} cannot have {name}={goal:,.0f} within {TOLERANCE:.0%}: the nearest found is "
            f"{reached:,.0f} at width {dim} with {spec}, {turning}; give another {name}, width or spec"
        )

    def _with_inner(self, name: str, spec: Spec, dim: int) -> Spec:
        """Every inner width times one factor."""
        if not any(_turned(layer, "params") for layer in spec.walk()):
            return spec

        def scaled(n: int) -> Spec:
            # Factors of 1.005^n, from 1/147 to 147: steps finer than the tolerance.
            def turn(layer: Layer) -> dict[str, int]:
                built = self._layer(layer, dim)
                return {o: max(1, round(_value(built, o) * 1.005**n)) for o in _turned(layer, "params")}

            return _mapped(spec, turn)

        best = _nearest(lambda n: self.measure(name, scaled(n), dim), self.goals[name], -1000, 1000)
        return spec if best == 0 else scaled(best)

    def _with_state(self, name: str, dim: int) -> Spec:
        """The options that size the state, each where its layer comes nearest to an equal share."""
        self._refuse_growing(name, dim)
        if not any(_turned(layer, "state") for layer in self.spec.walk()):
            return self.spec
        goal = self.goals[name]

        def shared(share: int) -> Spec:
            return _mapped(self.spec, lambda layer: self._sized(name, layer, dim, share))

        return shared(_nearest(lambda share: self.measure(name, shared(share), dim), goal, 1, int(goal)))

    def _refuse_growing(self, name: str, dim: int) -> None:
        for layer in account(self.spec, vocab_size=1, dim=dim, seq_len=self.seq_len).layers:
            growing = (layer.state or {}).get("growing", 0)
            # A nominal state beyond the recurrent one is that of a distilled form, which does not grow.
            distilled = layer.state is not None and layer.nominal != layer.state["recurrent"]
            if growing and not (name == "state" and distilled):
                raise ValueError(
                    f"the state of {layer.name} grows with the sequence ({growing:,} elements after "
                    f"{self.seq_len} tokens), so it has no {name} to solve for; leave {layer.name} out, or "
                    "compare at equal params or flops"
                )

    def _sized(self, name: str, layer: Layer, dim: int, share: int) -> dict[str, int]:
        turned = _turned(layer, "state")
        if not turned:
            return {}
        (option,) = turned

        def found(value: int) -> float:
            try:
                return self.measure(name, Spec((_with(layer, {option: value}),)), dim)
            except _Unbuildable:
                return math.nan  # such as an odd width under RoPE

        value = _nearest(found, share, 1, max(1, share))
        # A default that is right already stays unsaid: two spellings would be two architectures.
        return {} if value == _value(self._layer(layer, dim), option) else {option: value}

    @functools.cache  # noqa: B019 - a solver lives for one call
    def _model(self, spec: Spec, dim: int) -> SequenceModel:
        try:
            return sketch(spec, vocab_size=self.vocab_size, dim=dim, max_len=self.seq_len)
        except ValueError as error:
            raise _Unbuildable(str(error)) from error

    def _layer(self, layer: Layer, dim: int) -> Primitive:
        return self._model(Spec((layer,)), dim).layers()[0][1]


def _turned(layer: Layer, sets: str) -> list[str]:
    """The options of a layer that are declared to size its parameters or its state."""
    fields = dataclasses.fields(registry.get(layer.name).cls.Config)
    return [f.name for f in fields if f.metadata.get("sets") == sets]


def _value(layer: Primitive, option: str) -> int:
    """What an option resolved to: a layer keeps it under the option's name where the config says none."""
    value = getattr(layer.config, option)
    return int(getattr(layer, option) if value is None else value)


def _with(layer: Layer, options: dict[str, int]) -> Layer:
    changed = registry.get(layer.name).changed({**dict(layer.options), **options})
    return Layer(layer.name, changed, layer.body)


def _mapped(spec: Spec, turn: Callable[[Layer], dict[str, int]]) -> Spec:
    """The spec with options of every layer turned, those in branches and bodies too."""

    def item(x: Layer | Parallel) -> Layer | Parallel:
        if isinstance(x, Parallel):
            return Parallel(tuple(_mapped(branch, turn) for branch in x.branches))
        body = _mapped(x.body, turn) if x.body else None
        options = turn(x)
        return dataclasses.replace(_with(x, options) if options else x, body=body)

    return Spec(tuple(item(x) for x in spec.layers))


def _nearest(f: Callable[[int], float], goal: float, low: int, high: int) -> int:
    """The integer in [low, high] at which a non-decreasing f is nearest to `goal`; the smallest of equals.

    Where f is NaN, the next number that is not one is asked instead.
    """

    def defined(n: int) -> int:
        while n < high and f(n) != f(n):
            n += 1
        return n

    if low < 1 <= high and f(0) == goal:
        return 0
    first, last = low, high
    # Widen from the low end: values far too large can be dear to build.
    step = 1
    while first + step < last and f(defined(first + step)) < goal:
        step *= 2
    last = min(last, first + step)
    while last - first > 1:
        middle = (first + last) // 2
        if f(defined(middle)) < goal:
            first = middle
        else:
            last = middle
    candidates = sorted({defined(n) for n in (first, last, max(low, first - 1))})
    return min((n for n in candidates if f(n) == f(n)), key=lambda n: abs(f(n) - goal), default=low)
