"""The learning rates of a planned study, from the tuning runs that its store holds and from nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from architectures.model import resolve_options
from architectures.options import ModelOptions
from mad.store import Store
from scaling.lm.config import LanguageConfig, Precision, language_config
from scaling.lm.records import FINAL, LanguageRecord
from scaling.study.design import Plan, PlannedRun
from scaling.study.rates import RateRule, extension, optimum


class NotTuned(ValueError):
    """Tuning runs of an architecture are missing, or all of them diverged."""


def configure(plan: Plan, run: PlannedRun, lr: float, precision: Precision) -> LanguageConfig:
    """The configuration of a planned run at a learning rate."""
    config = language_config(
        run.size.spec,
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
    # The options of a preset go with its name, and a spec of another size has none.
    default = dataclasses.asdict(ModelOptions())
    options = dataclasses.asdict(resolve_options(plan.archs[run.arch]))
    differing = {name: value for name, value in options.items() if value != default[name]}
    architecture = config.architecture.model_copy(update={"options": differing})
    return config.model_copy(update={"architecture": architecture})


def further_runs(plan: Plan, store: Store, precision: Precision) -> list[PlannedRun]:
    """The runs that extend a tuning grid whose best point is on its edge."""
    found = []
    for arch in plan.archs:
        for runs in _by_size(plan, arch):
            try:
                losses = _losses(plan, store, runs, precision)
                found += [runs[0].model_copy(update={"lr": lr}) for lr in _beyond(plan, losses)]
            except NotTuned:
                continue
    return found


def rate_rule(plan: Plan, arch: str, store: Store, precision: Precision) -> RateRule:
    """The rule of an architecture; NotTuned where its tuning runs are missing or all diverged."""
    optima = []
    for runs in _by_size(plan, arch):
        losses = _losses(plan, store, runs, precision)
        more = [runs[0].model_copy(update={"lr": lr}) for lr in _beyond(plan, losses)]
        losses |= _losses(plan, store, more, precision)
        optima.append(optimum(losses, params=runs[0].size.params))
    return RateRule(optima=tuple(optima))


def _by_size(plan: Plan, arch: str) -> Iterator[list[PlannedRun]]:
    """The tuning runs of an architecture, one list a size, the small one first."""
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


def _beyond(plan: Plan, losses: dict[float, float | None]) -> tuple[float, ...]:
    assert plan.lrs is not None
    try:
        return extension(losses, plan.lrs)
    except ValueError as error:
        raise NotTuned(str(error)) from None
