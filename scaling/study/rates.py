"""The learning rates of a study, from the tuning runs that its store holds and from nothing else.

    lr(N) = c N^-p

An architecture is tuned at two sizes. At each the best rate is the vertex of a parabola in ln lr through the
best point of a short grid and its neighbours. A best point on the grid's edge extends the grid once; if it is
on the edge still, that point is taken and flagged. Outside of the tuned sizes the power law goes on, by at
most a factor CAP.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from mad.store import Store
from scaling.lm.config import LanguageConfig, Precision, language_config
from scaling.lm.records import FINAL, LanguageRecord
from scaling.study.plan import Plan, PlannedRun

CAP = 2.0
# How many points an extension adds.
FURTHER = 2


class NotTuned(ValueError):
    """Tuning runs of an architecture are missing, or all of them diverged."""


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """The best learning rate at a size of `params` parameters. `on_edge`: the grid did not reach past it."""

    params: float
    lr: float
    on_edge: bool


def extension(losses: Mapping[float, float | None], grid: tuple[float, ...]) -> tuple[float, ...]:
    """The rates to try beyond a grid whose best point is its first or last; none where it is inside.

    losses: held-out loss by learning rate, None for a run that diverged; all of `grid`, which increases.
    """
    best, further = _best({lr: losses[lr] for lr in grid}), range(1, FURTHER + 1)
    if best == grid[-1]:
        return tuple(_tidy(best * (best / grid[-2]) ** k) for k in further)
    if best == grid[0]:
        return tuple(_tidy(best / (grid[1] / best) ** k) for k in reversed(further))
    return ()


def optimum(losses: Mapping[float, float | None], *, params: float) -> Optimum:
    """The best rate among those that were tried at one size; NotTuned where every run diverged."""
    best, rates = _best(losses), sorted(losses)
    at = rates.index(best)
    on_edge = at in (0, len(rates) - 1)
    known = {lr: loss for lr, loss in losses.items() if loss is not None}
    beside = [] if on_edge else [rates[i] for i in (at - 1, at + 1) if rates[i] in known]
    if len(beside) < 2:
        return Optimum(params=params, lr=best, on_edge=on_edge)
    x = [math.log(lr / best) for lr in beside]
    y = [known[lr] - known[best] for lr in beside]
    # The parabola a x^2 + b x through (0, 0) and the two neighbours, both of which lie above it.
    a = (y[1] / x[1] - y[0] / x[0]) / (x[1] - x[0])
    b = y[0] / x[0] - a * x[0]
    return Optimum(params=params, lr=best * math.exp(-b / (2 * a)) if a > 0 else best, on_edge=False)


@dataclass(frozen=True, kw_only=True)
class RateRule:
    """lr(N) = c N^-p through the optima of a small and a large size; through one optimum a constant."""

    optima: tuple[Optimum, ...]

    def at(self, params: float) -> float:
        """The learning rate of a size: rounded to three digits, so that it reads as it is stored."""
        small, large = self.optima[0], self.optima[-1]
        least, most = sorted((small.lr, large.lr))
        lr = small.lr * (params / small.params) ** -self.exponent
        return _tidy(min(max(lr, least / CAP), most * CAP))

    @property
    def exponent(self) -> float:
        """p: positive where larger models want smaller rates."""
        small, large = self.optima[0], self.optima[-1]
        if small.params == large.params:
            return 0.0
        return -math.log(large.lr / small.lr) / math.log(large.params / small.params)

    @property
    def flags(self) -> tuple[str, ...]:
        return tuple(
            f"best learning rate {best.lr:.3g} at {best.params:,.0f} parameters lies on the edge of its grid"
            for best in self.optima
            if best.on_edge
        )


def _best(losses: Mapping[float, float | None]) -> float:
    finite = {lr: loss for lr, loss in losses.items() if loss is not None}
    if not finite:
        raise NotTuned(
            f"every run diverged at learning rates {', '.join(f'{lr:g}' for lr in sorted(losses))}; give "
            "smaller ones"
        )
    return min(finite, key=lambda lr: (finite[lr], lr))


def _tidy(lr: float) -> float:
    return float(f"{lr:.3g}")


def configure(plan: Plan, run: PlannedRun, lr: float, precision: Precision) -> LanguageConfig:
    """The configuration of a planned run at a learning rate."""
    return language_config(
        plan.archs[run.arch],
        size=run.size.spec,
        dim=run.size.dim,
        corpus=plan.corpus,
        seq_len=run.seq_len,
        batch_size=run.batch_size,
        steps=run.steps,
        lr=lr,
        evaluations=plan.evaluations,
        evaluation_tokens=plan.evaluation_tokens,
        seed=plan.seed,
        precision=precision,
    )


def further_runs(plan: Plan, store: Store, precision: Precision) -> list[PlannedRun]:
    """The runs that extend a tuning grid whose best point is on its edge."""
    found = []
    for arch in plan.archs:
        for runs in _by_size(plan, arch):
            with suppress(NotTuned):
                found += _beyond(plan, runs, _losses(plan, store, runs, precision))
    return found


def rate_rule(plan: Plan, arch: str, store: Store, precision: Precision) -> RateRule:
    """The rule of an architecture; NotTuned where its tuning runs are missing or all diverged."""
    optima = []
    for runs in _by_size(plan, arch):
        losses = _losses(plan, store, runs, precision)
        losses |= _losses(plan, store, _beyond(plan, runs, losses), precision)
        optima.append(optimum(losses, params=runs[0].size.params))
    return RateRule(optima=tuple(optima))


def _beyond(plan: Plan, runs: list[PlannedRun], losses: dict[float, float | None]) -> list[PlannedRun]:
    assert plan.lrs is not None
    return [runs[0].model_copy(update={"lr": lr}) for lr in extension(losses, plan.lrs)]


def _by_size(plan: Plan, arch: str) -> Iterator[list[PlannedRun]]:
    """The tuning runs of an architecture, one list per size, the small one first."""
    own = [run for run in plan.tuning if run.arch == arch]
    for params in sorted({run.size.params for run in own}):
        yield [run for run in own if run.size.params == params]


def _losses(
    plan: Plan, store: Store, runs: list[PlannedRun], precision: Precision
) -> dict[float, float | None]:
    """Held-out loss by learning rate, None for a run that diverged."""
    found: dict[float, float | None] = {}
    for run in runs:
        assert run.lr is not None
        record = store.get(configure(plan, run, run.lr, precision).id, LanguageRecord)
        if record is None or record.status not in FINAL:
            raise NotTuned(
                f"its tuning run of {run.size.params:,} parameters at learning rate {run.lr:g} is "
                f"{'missing' if record is None else record.status}; run the study again"
            )
        assert record.metrics is not None
        found[run.lr] = record.metrics.loss
    return found
