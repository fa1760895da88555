"""Run a planned study: tune the learning rates, then train the grid; resumable at any point.

What is done is in the store and nowhere else. The rule for the learning rates is derived from the stored
tuning runs each time, so that a study that was broken off goes on as it would have.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from mad.messages import last_words, one_line, printable
from mad.progress import clock
from mad.store import Store
from mad.tracking import Roster, read_tracking
from mad.tracking.mirror import Mirror
from scaling.lm.config import LanguageConfig, resolve_precision
from scaling.lm.frames import language_frame
from scaling.lm.records import FINAL, LanguageRecord
from scaling.study.plan import Plan, PlannedRun
from scaling.study.pool import Outcome, run_all
from scaling.study.rates import NotTuned, RateRule, configure, further_runs, rate_rule

# As `scaling.lm.train.train`, and importable by name where there are several workers.
Train = Callable[..., LanguageRecord]
# A run whose process dies is begun this often in one call.
ATTEMPTS = 2
# Seconds between two looks at what other drivers train.
POLL = 1.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run with its learning rate, and what it counts to; `note` says what is unusual about it."""

    run: PlannedRun
    config: LanguageConfig
    labels: dict[str, Any]
    folder: Path
    note: str | None = None

    def __str__(self) -> str:
        return f"{self.run}, learning rate {self.config.lr:.3g}{' again' if self.note else ''}"


def run(
    plan: Plan,
    corpus: Any,
    *,
    store: Store,
    workers: int = 1,
    device: str = "auto",
    devices: int = 1,
    strategy: str = "auto",
    max_hours: float | None = None,
    track: str | Sequence[str] | None = None,
    track_dir: str | Path | None = None,
    say: Callable[[str], None] | None = None,
    train: Train | None = None,
) -> pd.DataFrame:
    """Train what the store does not hold yet; return the grid as `scaling.fit` reads it.

    workers    processes at a time, of one thread each on a CPU; 1 trains in this process
    devices    of one run, each with its part of every batch, by `strategy` "ddp" or "fsdp"; with one worker
    track, track_dir  as in `mad.bench`; of several workers or devices each run is told at its end
    max_hours  after so long no run is begun; the next call goes on
    say        gets a line as each run ends, with the time left; None prints to standard error
    train      as `scaling.lm.train.train`

    A run that diverges is kept as such, and repeated once at half its learning rate as a run of its own, with
    a note in its record's environment. One whose process dies is begun again once, then kept as failed; the
    next call tries again. Of the table's `attrs`, `rates` are the learning-rate rules by architecture and
    `problems` says what is missing and why.
    """
    label = {"name"}
    if corpus.config.model_dump(exclude=label) != plan.corpus.model_dump(exclude=label):
        raise ValueError(
            f"the plan was made for the corpus {plan.corpus.name} ({plan.corpus.sha256[:8]}), and this is "
            f"{corpus.config.name} ({corpus.config.sha256[:8]}); load that one, or make a new plan"
        )
    if workers < 1:
        raise ValueError(f"workers={workers} must be at least 1")
    if devices > 1 and workers > 1:
        raise ValueError(
            f"workers={workers} and devices={devices}: give several runs at once or several devices per run, "
            "not both"
        )
    if train is None:
        from scaling.lm.train import train as train_for_real

        train = train_for_real
    fixed = {
        "device": device,
        "devices": devices,
        "strategy": strategy,
        "loggers": (),
        "threads": 1 if workers > 1 else None,
        "progress": False,
    }
    deadline = math.inf if max_hours is None else time.monotonic() + 3600 * max_hours
    tracking = read_tracking(track, folder=track_dir, store=store.path)
    with contextlib.nullcontext() if tracking is None else Mirror(tracking, Roster()) as mirror:
        fixed |= {} if mirror is None or workers > 1 else {"track": mirror}
        driver = _Driver(plan, corpus, store, train, fixed, workers, deadline, _Progress(plan, say), mirror)
        rates, problems = driver.everything()
    frame = language_frame(store)  # Without tuning runs.
    frame = frame[frame["id"].isin(driver.jobs)].reset_index(drop=True)
    frame.attrs |= {"rates": rates, "problems": problems}
    return frame


@dataclass
class _Driver:
    plan: Plan
    corpus: Any
    store: Store
    train: Train
    fixed: dict[str, Any]
    workers: int
    deadline: float
    progress: _Progress
    mirror: Mirror | None

    def __post_init__(self) -> None:
        self.precision = resolve_precision(self.fixed["device"])
        self.jobs: dict[str, Job] = {}

    def everything(self) -> tuple[dict[str, RateRule], list[str]]:
        plan, rates, problems = self.plan, dict[str, RateRule](), list[str]()
        self.stage([self.job(run, run.lr) for run in plan.tuning])
        self.stage_more([self.job(run, run.lr) for run in further_runs(plan, self.store, self.precision)])
        for arch in plan.archs if plan.lrs is not None else ():
            try:
                rates[arch] = rate_rule(plan, arch, self.store, self.precision)
                problems += [f"{arch}: {flag}" for flag in rates[arch].flags]
            except NotTuned as error:
                problems.append(f"the grid of {arch} waits for its learning rate: {error}")
        ready = [run for run in plan.runs if run.arch in rates or plan.lrs is None]
        grid = [self.job(run, rates[run.arch].at(run.size.params) if rates else run.lr) for run in ready]
        self.stage(grid)
        self.stage_more([self.gentler(job) for job in grid if self.status(job) == "diverged"])
        for job in self.jobs.values():
            status = self.status(job)
            if status != "ok":
                problems.append(f"{job} {'was not begun' if status is None else status}")
        return rates, problems

    def job(self, run: PlannedRun, lr: float | None, note: str | None = None) -> Job:
        assert lr is not None
        config = configure(self.plan, run, lr, self.precision)
        labels = {"study": self.plan.id, "role": run.role, "budget": run.budget, "label": run.arch}
        folder = self.store.path.with_name(f"{self.store.path.name}.runs") / config.id
        made = Job(run=run, config=config, labels=labels, folder=folder, note=note)
        self.jobs[config.id] = made
        return made

    def gentler(self, job: Job) -> Job:
        """The run once more at half the learning rate."""
        note = f"half the learning rate of run {job.config.id}, which diverged"
        return self.job(job.run, float(f"{job.config.lr / 2:.3g}"), note)

    def given(self, job: Job) -> str:
        return self.plan.archs[job.run.arch]

    def held(self, job: Job) -> LanguageRecord | None:
        return self.store.get(job.config.id, LanguageRecord)

    def status(self, job: Job) -> str | None:
        held = self.held(job)
        return None if held is None else held.status

    def stage(self, jobs: Sequence[Job]) -> None:
        """Train those that are not done, the longest first, so that the workers end at about one time."""
        todo = [job for job in jobs if not self.is_done(job)]
        todo.sort(key=lambda job: job.run.work, reverse=True)
        attempts = Counter[str]()
        while todo and time.monotonic() < self.deadline:
            ended = set()
            for job, outcome in self.outcomes(todo):
                attempts[job.config.id] += 1
                if not outcome.lost or attempts[job.config.id] >= ATTEMPTS:
                    self.keep(job, outcome)
                    ended.add(job.config.id)
                self.store.release(job.config.id)
            todo = [job for job in todo if job.config.id not in ended and not self.is_done(job)]
            if todo and not ended:  # Other drivers of this store train them.
                time.sleep(POLL)

    def is_done(self, job: Job) -> bool:
        """Whether the store has its result, which from now on counts to this study."""
        held = self.held(job)
        if held is None or held.status not in FINAL:
            return False
        self.progress.held(job)
        self.tell(held)
        # A run of the grid may be stored for less: a tuning run at the very rate, or a single run.
        if job.run.role == "grid" and held.role != "grid":
            self.store.relabel(held, **job.labels)
        return True

    def begin(self, job: Job) -> bool:
        """Whether a run whose turn has come is to be begun here: in time, and by no other driver."""
        if time.monotonic() > self.deadline or not self.store.claim(job.config.id):
            return False
        if self.status(job) in FINAL:
            self.store.release(job.config.id)
            return False
        return True

    def stage_more(self, jobs: Sequence[Job]) -> None:
        """Runs that the plan did not foresee."""
        self.progress.more(jobs)
        self.stage(jobs)

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        shared = self.train, self.corpus
        tasks = [
            (job.config, {**job.labels, "given": self.given(job), "folder": job.folder, **self.fixed})
            for job in jobs
        ]
        if self.workers > 1:
            ran = run_all(
                _task, shared, tasks, workers=self.workers, begin=lambda number: self.begin(jobs[number])
            )
            for number, outcome in ran:
                yield jobs[number], outcome
            return
        for job, task in zip(jobs, tasks, strict=True):
            if not self.begin(job):
                continue
            try:
                outcome = Outcome(_task(shared, task))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # As in a worker: what a run raises is its outcome.
                outcome = Outcome(error="".join(traceback.format_exception(error)))
            yield job, outcome

    def keep(self, job: Job, outcome: Outcome) -> None:
        """Write the record; a run that came to nothing has one that says so."""
        record: LanguageRecord | None = outcome.value
        if record is None:
            record = LanguageRecord(
                id=job.config.id,
                status="failed",
                config=job.config,
                error=outcome.error,
                given=self.given(job),
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                **job.labels,
            )
        if job.note is not None:
            record = record.model_copy(update={"environment": record.environment | {"note": job.note}})
        self.store.commit([record], once=True)
        if outcome.value is None or "track" not in self.fixed:
            self.tell(record)
        if record.status in FINAL:
            shutil.rmtree(job.folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # Others are still in use.
                job.folder.parent.rmdir()
        self.progress.ended(job, record)

    def tell(self, record: LanguageRecord) -> None:
        """Tell trackers of a run that this process did not train."""
        if self.mirror is not None:
            self.mirror.show([record])


def _task(shared: tuple[Train, Any], task: tuple[LanguageConfig, dict[str, Any]]) -> LanguageRecord:
    train, corpus = shared
    config, options = task
    return train(config, corpus, **options)


class _Progress:
    """A line as each run ends, with the time that the others will take at the pace so far."""

    def __init__(self, plan: Plan, say: Callable[[str], None] | None) -> None:
        self.say = say or _print
        runs = [*plan.tuning, *plan.runs]
        self.total, self.left = len(runs), sum(run.work for run in runs)
        self.number, self.done, self.started = 0, 0.0, time.monotonic()

    def held(self, job: Job) -> None:
        """The store has it already."""
        self.number += 1
        self.left -= job.run.work

    def more(self, jobs: Sequence[Job]) -> None:
        self.total += len(jobs)
        self.left += sum(job.run.work for job in jobs)

    def ended(self, job: Job, record: LanguageRecord) -> None:
        self.held(job)
        self.done += job.run.work
        result = str(record.status)
        if record.metrics is not None and record.metrics.loss is not None:
            result = f"loss {record.metrics.loss:.4f}"
        elif record.error:
            result = one_line(f"{result}: {last_words(record.error)}")
        seconds = f" in {clock(record.cost.seconds)}" if record.cost else ""
        # A short run is of 0 seconds in plans that round them.
        rest = (time.monotonic() - self.started) * max(self.left, 0.0) / (self.done or math.inf)
        left = f", about {clock(rest)} left" if self.number < self.total and self.done else ""
        self.say(f"[{self.number}/{self.total}] {job}: {result}{seconds}{left}")


def _print(line: str) -> None:
    Console(stderr=True).print(printable(line), highlight=False, markup=False, soft_wrap=True)
