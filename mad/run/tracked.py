"""A sweep that is told to trackers: see `mad.tracking`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from mad.data.protocol import Suite
from mad.data.records import Record, RunConfig
from mad.data.trails import Head, Row
from mad.run.place import Place
from mad.run.runner import environment_of
from mad.run.sweep import Group
from mad.run.trainer import Progress
from mad.tracking import Roster, Tracking
from mad.tracking.battery import head_of, row_of
from mad.tracking.mirror import Mirror


class Tracked:
    """A `Watcher`, and a context that ends the trackers. `suite`: that of all groups, if there is one."""

    def __init__(
        self, tracking: Tracking, groups: Sequence[Group], place: Place, suite: Suite | None = None
    ) -> None:
        self.environment = environment_of(place.device)
        self.begun: set[str] = set()
        self.done: set[str] = set()
        counts = Counter[str]()
        # A suite may hold a setting twice, and a group then is one.
        for group in {group.id: group for group in groups}.values():
            if (family := self._head(group, group.runs[0]).family) is not None:
                counts[family.id] += len(group.runs)
        suites = {} if suite is None else {suite.label: suite}
        self.mirror = Mirror(tracking, Roster(suites=suites, counts=counts))

    def __enter__(self) -> Tracked:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.mirror.__exit__(kind, error, trace)

    def planned(self, groups: Sequence[Group]) -> None:
        pass

    def report(self, group: Group, progress: Progress) -> None:
        if group.id not in self.begun:
            self.begun.add(group.id)
            self.mirror.begin([self._head(group, run) for run in group.runs])
        if progress.points:
            rows: dict[str, list[Row]] = {
                run.id: [row_of(run, point, group.cell.cost)]
                for run, point in zip(group.runs, progress.points, strict=True)
                if point is not None
            }
            self.mirror.log(rows)

    def ended(self, group: Group, records: list[Record]) -> None:
        if group.id in self.done:
            return
        self.done.add(group.id)
        # What is stored may have been made for another suite.
        here = {"suite": group.cell.suite, "given": group.cell.architecture.given}
        found = [record.model_copy(update=here) for record in records]
        if group.id in self.begun:
            self.mirror.end(found)
        else:
            self.mirror.show(found)

    def _head(self, group: Group, run: RunConfig) -> Head:
        cell = group.cell
        return head_of(run, given=cell.architecture.given, suite=cell.suite, environment=self.environment)
