"""A sweep from what was typed to scores: prepared, then run by an engine. Loads torch where it is used."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mad import terminal
from mad.data.protocol import Protocol, Suite, get_protocol, get_suite
from mad.data.records import Record
from mad.score import Scores, score
from mad.store import Store, default_path
from mad.store.labels import call, spelled

if TYPE_CHECKING:
    from mad.run.place import Place
    from mad.run.shard import Shard
    from mad.run.sweep import Cell, Group
    from mad.run.trainer import Progress
    from mad.run.watching import Watcher
    from mad.tracking import Tracking

# Told where a group stands, after each evaluation.
Report = Callable[["Group", "Progress"], object]


@dataclass(frozen=True)
class Prepared:
    """A sweep, or a part of one, with everything resolved that its engine checks and runs."""

    cells: list[Cell]
    suite: Suite
    protocol: Protocol
    place: Place
    shard: Shard | None = None

    @functools.cached_property
    def groups(self) -> list[Group]:
        from mad.run.shard import part

        groups = [group for cell in self.cells for group in cell.groups()]
        return groups if self.shard is None else part(groups, self.shard)


def prepare(
    specs: Any,
    *,
    suite: str | Path | Suite,
    protocol: str,
    seeds: int | None = None,
    tasks: str | Sequence[str] | None = None,
    device: str = "auto",
    precision: str = "32-true",
    compile: bool = False,
    iso: str | Mapping[str, float] | None = None,
    shard: str | None = None,
    store: str | Path | None = None,
) -> Prepared:
    """Resolve architectures, settings and device, and refuse what can be refused without weights: sizes that
    do not fit, into each other or into memory, and layers that declare that they see too much.

    A label by itself is what the store has under it.
    """
    from mad.run.iso import read_goals
    from mad.run.place import find_place
    from mad.run.runner import check_sketch
    from mad.run.shard import read_shard
    from mad.run.sweep import plan

    asked = None if shard is None else read_shard(shard)
    named = tasks.split(",") if isinstance(tasks, str) else tasks or ()
    many = list(specs) if isinstance(specs, list | tuple) else [specs]
    if not many:
        raise ValueError("no architecture is given; name at least one, such as '2*(mh-attention swiglu)'")
    exam, referee = get_suite(suite), get_protocol(protocol)
    cells = plan(
        [spelled(one, store) if isinstance(one, str) else one for one in many],
        exam,
        referee,
        seeds=seeds,
        tasks=[name.strip() for name in named] or None,
        precision=precision,
        compile=compile,
        iso=read_goals(iso),
    )
    place = find_place(device, precision)
    return Prepared([check_sketch(cell) for cell in cells], exam, referee, place, asked)


@contextlib.contextmanager
def watching(
    groups: Sequence[Group],
    place: Place,
    *,
    suite: Suite | None = None,
    progress: bool | None = None,
    report: Report | None = None,
    tracking: Tracking | None = None,
) -> Iterator[Watcher]:
    """Who is told while groups run, of a suite or of none. Trackers end with the block, after the display."""
    from mad.progress import Display
    from mad.run.cost import work
    from mad.run.tracked import Tracked
    from mad.run.watching import Evaluations, Watchers

    watchers: list[Watcher] = []
    with contextlib.ExitStack() as opened:
        if tracking is not None:
            watchers.append(opened.enter_context(Tracked(tracking, groups, place, suite)))
        if terminal.watched() if progress is None else progress:

            def weight(group: Group) -> float:
                return work(group.cell) * len(group.cell.setting.grid)

            display = Display(len(groups), weight, terminal.errors())
            watchers.append(opened.enter_context(display))
        if report is not None:  # The last: whatever it does, the others were told.
            watchers.append(Evaluations(report))
        yield Watchers(watchers)


def execute(
    prepared: Prepared,
    *,
    store: str | Path | None = None,
    replicas: Literal["auto", "batched", "turns"] = "auto",
    engine: str = "auto",
    workers: int | None = None,
    cell_timeout: float | None = None,
    ray_address: str | None = None,
    watcher: Watcher | None = None,
) -> tuple[list[Record], Scores]:
    """Run what the store does not hold yet, and score all of it; each group is committed as it ends."""
    from mad.run.engines import Options, check_engine, choose, get_engine, store_of
    from mad.run.watching import Watchers

    watcher = watcher or Watchers()
    check_engine(engine, workers=workers, cell_timeout=cell_timeout, ray_address=ray_address)
    options = Options(
        place=prepared.place,
        replicas=replicas,
        workers=workers,
        cell_timeout=cell_timeout,
        ray_address=ray_address,
        planned=watcher.planned,
        report=watcher.report,
    )
    records: list[Record] = []
    with store_for(prepared.groups, store) as opened:
        name = choose(prepared.groups, opened, options) if engine == "auto" else engine
        # Closed at once where it is left: it has workers.
        with contextlib.closing(get_engine(name)(prepared.groups, opened, options)) as running:
            for group, found in running:
                records += call(found, group.cell.architecture.given, store_of(group, opened))
                watcher.ended(group, found)
    tasks = {cell.task.name for cell in prepared.cells}
    return records, score(records, prepared.suite, prepared.protocol, tasks=tasks)


@contextlib.contextmanager
def store_for(groups: list[Group], path: str | Path | None) -> Iterator[Store | None]:
    """The store, where a group is stored. What cannot be understood in it is said before any work. One that
    is new does not outlast a refusal.
    """
    from mad.run.engines import missing

    if not any(group.cell.architecture.stored for group in groups):
        yield None
        return
    new = not Path(path or default_path()).expanduser().exists()
    with Store(path) as store:
        for group in groups:
            missing(group, store)
        try:
            yield store
        except ValueError:
            if new and not store.entries():
                store.discard()
            raise
