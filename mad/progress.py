"""What a person sees while a sweep runs: a live bar with time left, or plain lines where there is no
terminal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from mad.data.records import Record
from mad.messages import last_words, one_line, printable
from mad.score.selection import measure_of

if TYPE_CHECKING:
    from mad.run.sweep import Group
    from mad.run.trainer import Progress


class Display:
    """Follows a sweep on standard error. `weight` says how much work a group is, so that the time left is
    fair.
    """

    def __init__(
        self, groups: list[Group], weight: Callable[[Group], float], console: Console | None = None
    ) -> None:
        self.console = console or Console(stderr=True)
        self.weights = [weight(group) for group in groups]
        self.total, self.done, self.finished, self.share = sum(self.weights), 0.0, 0, 0.0
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
            self.task = self.bar.add_task("starting", total=self.total)

    def __enter__(self) -> Display:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def report(self, group: Group, progress: Progress) -> None:
        """Where the running group stands: on the bar, or as a line per minute."""
        now = time.monotonic()
        if now - self.last < (60.0 if self.bar is None else 0.1):
            return
        self.last = now
        best = "training" if progress.accuracy is None else f"best {progress.accuracy:.3f}"
        text = f"{_where(group)}: step {progress.step}/{progress.steps}, {best}"
        if self.bar is None:
            self._line(f"    {text}")
            return
        # Replicas in turns go back to the start of their interval; the bar does not.
        self.share = max(self.share, progress.step / progress.steps)
        done = self.done + self.share * self.weights[self.finished]
        self.bar.update(self.task, completed=done, description=text)

    def ended(self, group: Group, records: list[Record]) -> None:
        """One line per group: what came of it."""
        self.done += self.weights[self.finished]
        self.finished += 1
        self.share, self.last = 0.0, time.monotonic()
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done)
        line = f"[{self.finished}/{len(self.weights)}] {_where(group)}: {_outcome(records)}"
        if self.bar is None and self.finished < len(self.weights):
            elapsed = time.monotonic() - self.started
            line += f", about {clock(elapsed * (self.total - self.done) / max(self.done, 1e-9))} left"
        self._line(line)

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

    def accuracy(record: Record, split: str) -> float:
        return measure_of(record, split).accuracy(protocol.metric)

    best = max(scored, key=lambda record: accuracy(record, protocol.select_on))
    diverged = sum(record.status == "diverged" for record in records)
    note = f", {diverged} diverged" if diverged else ""
    return f"{accuracy(best, 'test'):.3f} on test (lr {best.config.lr:g}){note} in {clock(seconds)}"
