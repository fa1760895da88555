"""Run a planned study: tune the learning rates, then train the grid; resumable at any point.

What is done is in the store and nowhere else. The rule for the learning rates is derived from the stored
tuning runs each time, so that a study that was broken off goes on as it would have.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mad.language import FINAL, LanguageConfig, LanguageRecord, Role, language_config, resolve_precision
from mad.progress import clock
from mad.store import Store
from scaling.design import Plan, PlannedRun
from scaling.pool import Outcome, run_all
from scaling.rates import RateRule, extension, optimum

if TYPE_CHECKING:
    import pandas as pd

# A run whose process dies is begun this often in one call.
ATTEMPTS = 2


class Train(Protocol):
    """What `scaling.train.train` is called with."""

    def __call__(
        self,
        config: LanguageConfig,
        corpus: Any,
        *,
        study: str,
        role: Role,
        budget: float,
        label: str,
        given: str,
        device: str,
        folder: Path,
        loggers: tuple[str, ...],
        threads: int | None,
        progress: bool,
    ) -> LanguageRecord: ...


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run that is still to do; `note` says what is unusual about it."""

    run: PlannedRun
    config: LanguageConfig
    note: str | None = None


def run(
    plan: Plan,
    corpus: Any,
    *,
    store: Store,
    workers: int = 1,
    device: str = "auto",
    max_hours: float | None = None,
    loggers: tuple[str, ...] = (),
    say: Callable[[str], None] | None = None,
    train: Train | None = None,
) -> pd.DataFrame:
    """Train what the store does not hold yet, and return the study's runs as `scaling.fit` reads them.

    workers    processes at a time, of one thread each on a CPU; 1 trains in this process
    max_hours  after so long no run is begun; the next call goes on
    say        gets a line as each run ends, with the time left; None prints to standard error
    train      `scaling.train.train`, or what stands for it in a test

    A run that diverges is kept as such, and repeated once at half its learning rate as a run of its own, with
    a note in its record. One whose process dies is begun again once, then kept as failed; the next call
    tries again. The table's `attrs` has the learning-rate `rates` by architecture, and the `problems`: what
    is missing and why.
    """
    if corpus.config != plan.corpus:
        raise ValueError(
            f"the plan was made for the corpus {plan.corpus.name} ({plan.corpus.sha256[:8]}), and this is "
            f"{corpus.config.name} ({corpus.config.sha256[:8]}); load that one, or make a new plan"
        )
    study = _Study(plan, corpus, store, workers, device, max_hours, loggers, say, train)
    return study.run()


def learning_rates(plan: Plan, store: Store, *, precision: str) -> dict[str, RateRule | str]:
    """The rule of each architecture from the stored tuning runs; text where it cannot be said, and why."""
    found: dict[str, RateRule | str] = {}
    for arch in plan.archs:
        try:
            best = [
                optimum(_losses(plan, store, runs, precision), params=runs[0].size.params)
                for runs in _tuned_sizes(plan, arch)
            ]
            found[arch] = RateRule(optima=tuple(best))
        except ValueError as error:
            found[arch] = f"{arch} has no learning rate: {error}"
    return found


def configure(plan: Plan, run: PlannedRun, lr: float, precision: str) -> LanguageConfig:
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
    return config
