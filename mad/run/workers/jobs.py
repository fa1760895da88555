"""A sweep as jobs: what an engine does that runs groups elsewhere, whatever carries them there.

Cells are checked before any is trained, the longest group goes first, records are committed here, and a group
that came to nothing is tried twice.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mad.data.records import Record, Status
from mad.messages import note
from mad.run.agenda import Agenda
from mad.run.cost import estimate
from mad.run.engines import Options, commit, inline, split, stored_records
from mad.run.runner import environment_of, unfinished
from mad.run.sweep import Cell, Group
from mad.run.workers.worker import Job, Unportable, Verb, pack
from mad.store import Store

# A group may take this many times its estimate, and never less than these seconds; so may a check.
PATIENCE, SHORTEST = 30.0, 900.0
ATTEMPTS = 2


@dataclass(frozen=True, kw_only=True)
class Event:
    """What is said of a job, under the key that it was submitted with.

    kind   "progress", "checked", "refused", "records", "unportable" as workers send them; "lost" where its
           worker was ended or ended by itself
    value  what belongs to it: of "lost" the reason in words, after the end of what was printed
    """

    key: str
    kind: str
    value: Any


class Carrier(Protocol):
    """Where jobs go: `submit` them, then iterate over `events()`, in which more may be submitted."""

    @property
    def running(self) -> list[str]:
        """The keys of the jobs that have begun and not ended."""
        ...

    @property
    def room(self) -> int:
        """How many more jobs could begin at once."""
        ...

    def submit(self, key: str, job: Job, *, seconds: float) -> None:
        """Add a job that may run so long; the first submitted is the first run."""
        ...

    def events(self) -> Iterator[Event]:
        """What happens, until nothing waits or runs. A job ends with one event that is not "progress"."""
        ...


def run(
    groups: Sequence[Group], store: Store | None, options: Options, carrier: Carrier
) -> Iterator[tuple[Group, list[Record]]]:
    """See `Engine`. Groups are yielded as they end. What only this process can run, such as a layer that is
    defined in the program itself, it runs at last.
    """
    stored, wanted = split(groups, store)
    for group in stored:
        yield group, stored_records(group, store)
    sweep = _Sweep(carrier, store, options)
    there, here = sweep.check(wanted)
    here = inline.check(here)
    options.planned([*there, *here])
    yield from sweep.train(there)
    # They are checked; that they are planned was said.
    yield from inline.run(here, store, dataclasses.replace(options, planned=lambda groups: None))


class _Sweep:
    def __init__(self, carrier: Carrier, store: Store | None, options: Options) -> None:
        self.carrier, self.store, self.options = carrier, store, options

    def check(self, groups: list[Group]) -> tuple[list[Group], list[Group]]:
        """The groups that run elsewhere, with their cells checked, and those that only this process can run.

        ValueError where a cell is refused.
        """
        cells = {str(id(group.cell)): group.cell for group in groups}
        checked: dict[str, Cell] = {}
        attempts = collections.Counter[str]()

        def submit(key: str) -> None:
            attempts[key] += 1
            self._submit(key, "check", cells[key], self.options.cell_timeout or SHORTEST)

        for key in cells:
            submit(key)
        for event in self.carrier.events():
            match event.kind:
                case "checked":
                    checked[event.key] = event.value
                case "refused":
                    raise ValueError(event.value)
                case "lost" if attempts[event.key] < ATTEMPTS:
                    submit(event.key)
                case "lost":
                    checked[event.key] = dataclasses.replace(cells[event.key], failure=event.value)
                case "unportable":
                    given = cells[event.key].architecture.given
                    note(f"{given} runs in the driver's process: {event.value}")
        there = [g for g in groups if str(id(g.cell)) in checked]
        here = [g for g in groups if str(id(g.cell)) not in checked]
        return [dataclasses.replace(g, cell=checked[str(id(g.cell))]) for g in there], here

    def train(self, groups: list[Group]) -> Iterator[tuple[Group, list[Record]]]:
        """Run groups whose cells are checked, the longest first."""
        failed = [group for group in groups if group.cell.failure is not None]
        groups = [group for group in groups if group.cell.failure is None]
        for group in failed:
            yield group, self._keep(group, self._unfinished(group, "failed", group.cell.failure))
        seconds = {group.id: estimate([group], self.options.place).seconds for group in groups}
        of = {group.id: group for group in sorted(groups, key=lambda group: -seconds[group.id])}
        attempts = collections.Counter[str]()

        def submit(group: Group) -> None:
            attempts[group.id] += 1
            limit = self.options.cell_timeout or max(SHORTEST, PATIENCE * seconds[group.id])
            self._submit(group.id, "train", group, limit)

        agenda = Agenda(list(of.values()), self.store)

        def begin() -> Iterator[tuple[Group, list[Record]]]:
            """Fill the room that there is; yields what other drivers have stored meanwhile."""
            while self.carrier.room > 0 and (taken := agenda.take()) is not None:
                group, found = taken
                if found is None:
                    submit(group)
                else:
                    yield group, found

        try:
            while agenda:
                yield from begin()
                for event in self.carrier.events():
                    group = of[event.key]
                    if event.kind == "progress":
                        self.options.report(group, event.value)
                        continue
                    records = event.value
                    if event.kind != "records":
                        records = self._unfinished(group, "failed", event.value)
                    self._keep(group, records)
                    if attempts[group.id] < ATTEMPTS and any(record.status == "failed" for record in records):
                        submit(group)
                        continue
                    agenda.end(group)
                    yield from begin()
                    yield group, records
                if agenda:
                    agenda.wait()
        except KeyboardInterrupt:
            for key in self.carrier.running:
                self._keep(of[key], self._unfinished(of[key], "interrupted"))
            raise

    def _submit(self, key: str, verb: Verb, what: Cell | Group, seconds: float) -> None:
        """Of what is not portable nothing is heard."""
        with contextlib.suppress(Unportable):
            job = pack(verb, what, self.options.place, self.options.replicas)
            self.carrier.submit(key, job, seconds=seconds)

    def _unfinished(self, group: Group, status: Status, error: str | None = None) -> list[Record]:
        return unfinished(group, status, environment_of(self.options.place.device), error)

    def _keep(self, group: Group, records: list[Record]) -> list[Record]:
        commit(group, records, self.store)
        return records
