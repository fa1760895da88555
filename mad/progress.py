"""What a person sees while a sweep runs: a live bar with time left, or plain lines where there is no
terminal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from mad.data.records import Record
from mad.messages import last_words, one_line, printable
from mad.score.selection import measure_of, preference

if TYPE_CHECKING:
    from mad.run.sweep import Group
    from mad.run.trainer import Progress


class Display:
    """Follows a sweep of so many groups on standard error. What is said of the time left weighs each group by
    its `work`, which is known when the groups are planned.
    """

    def __init__(self, groups: int, work: Callable[[Group], float], console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.groups, self.work = groups, work
        self.weights: dict[str, float] = {}
        self.shares: dict[str, float] = {}  # what has been done of each group
        self.finished = 0
        self.started = self.last = time.monotonic()
        self.bar: Bar | None = None
        if self.console.is_terminal:
            self.bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self.task = self.bar.add_task("checking", total=None)

    def __enter__(self) -> Display:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def planned(self, groups: Sequence[Group]) -> None:
        """What will be trained, and from now on."""
        self.weights = {group.id: self.work(group) for group in groups}
        self.started = time.monotonic()
        if self.bar is not None:
            self.bar.update(self.task, total=sum(self.weights.values()), description="starting")

    def report(self, group: Group, progress: Progress) -> None:
        """Where a running group stands: on the bar, or as a line per minute."""
        if group.id not in self.weights:
            self.planned([group])
        # Replicas in turns go back to the start of their interval; the bar does not.
        self.shares[group.id] = max(self.shares.get(group.id, 0.0), progress.step / progress.steps)
        now = time.monotonic()
        if now - self.last < (60.0 if self.bar is None else 0.1):
            return
        self.last = now
        best = "training" if progress.accuracy is None else f"best {progress.accuracy:.3f}"
        text = f"{_where(group)}: step {progress.step}/{progress.steps}, {best}"
        if self.bar is None:
            self._line(f"    {text}")
        else:
            self.bar.update(self.task, completed=self._done(), description=text)

    def ended(self, group: Group, records: list[Record]) -> None:
        """One line per group: what came of it."""
        self.finished += 1
        self.shares[group.id] = 1.0
        line = f"[{self.finished}/{self.groups}] {_where(group)}: {_outcome(records)}"
        if group.id in self.weights:
            self.last = time.monotonic()
            done, total = self._done(), sum(self.weights.values())
            if self.bar is not None:
                self.bar.update(self.task, completed=done)
            elif self.finished < self.groups and done > 0:
                line += f", about {clock((self.last - self.started) * (total - done) / done)} left"
        self._line(line)

    def _done(self) -> float:
        return sum(weight * self.shares.get(id, 0.0) for id, weight in self.weights.items())

    def _line(self, text: str) -> None:
        self.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """Seconds as people say them: 45 s, 3 min, 2.5 h, 6,250 h."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360_000 else f"{seconds / 3600:,.0f} h"


def _where(group: Group) -> str:
    seed = f" seed {group.seed}" if len(group.cell.seeds) > 1 else ""
    return f"{group.cell.architecture.given} on {group.cell.task}{seed}"


def _outcome(records: list[Record]) -> str:
    seconds = sum(record.cost.seconds for record in records if record.cost)
    statuses = {record.status for record in records}
    if statuses & {"failed", "interrupted"}:
        return one_line(f"{records[0].status}: {last_words(records[0].error or 'interrupted')}")
    scored = [record for record in records if record.status == "ok"]
    if not scored:
        return "diverged, scored at chance"
    protocol = scored[0].config.protocol

    best = min(scored, key=lambda record: preference(record, protocol))
    diverged = sum(record.status == "diverged" for record in records)
    note = f", {diverged} diverged" if diverged else ""
    accuracy = measure_of(best, "test").accuracy(protocol.metric)
    return f"{accuracy:.3f} on test (lr {best.config.lr:g}){note} in {clock(seconds)}"
