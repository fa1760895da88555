"""Who is told how a sweep goes on: a display, trackers, a function of the caller's."""

from collections.abc import Callable, Sequence
from typing import Protocol

from mad.data.records import Record
from mad.run.sweep import Group
from mad.run.trainer import Progress


class Watcher(Protocol):
    def planned(self, groups: Sequence[Group]) -> None:
        """What will be trained, once its cells are checked."""
        ...

    def report(self, group: Group, progress: Progress) -> None:
        """Where a running group stands: after a step, and after each evaluation."""
        ...

    def ended(self, group: Group, records: list[Record]) -> None:
        """What came of a group, or is stored of it."""
        ...


class Watchers:
    """Several as one."""

    def __init__(self, watchers: Sequence[Watcher] = ()) -> None:
        self.watchers = list(watchers)

    def planned(self, groups: Sequence[Group]) -> None:
        for watcher in self.watchers:
            watcher.planned(groups)

    def report(self, group: Group, progress: Progress) -> None:
        for watcher in self.watchers:
            watcher.report(group, progress)

    def ended(self, group: Group, records: list[Record]) -> None:
        for watcher in self.watchers:
            watcher.ended(group, records)


class Evaluations:
    """Calls a function after each evaluation."""

    def __init__(self, function: Callable[[Group, Progress], object]) -> None:
        self.function = function

    def planned(self, groups: Sequence[Group]) -> None:
        pass

    def report(self, group: Group, progress: Progress) -> None:
        if progress.points:
            self.function(group, progress)

    def ended(self, group: Group, records: list[Record]) -> None:
        pass
