"""The simplest engine: one group after another, in this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from functools import partial

from mad.data.records import Record
from mad.run.agenda import Agenda
from mad.run.engines import Options, commit, split, stored_records
from mad.run.runner import check_cell, environment_of, run_group, unfinished
from mad.run.sweep import Cell, Group
from mad.store import Store

TAKES = ()


def run(
    groups: Sequence[Group], store: Store | None, options: Options
) -> Generator[tuple[Group, list[Record]]]:
    """See `Engine`. An interruption is recorded for the group that it hit, then raised."""
    stored, wanted = split(groups, store) if options.keep is None else ([], groups)
    for group in stored:
        yield group, stored_records(group, store)
    wanted = check(wanted)
    options.planned(wanted)
    agenda = Agenda(wanted, store if options.keep is None else None)
    while agenda:
        if (taken := agenda.take()) is None:
            agenda.wait()
            continue
        group, found = taken
        if found is not None:
            yield group, found
            continue
        try:
            with options.place.current():
                records = run_group(
                    group,
                    place=options.place,
                    replicas=options.replicas,
                    report=partial(options.report, group),
                    keep=options.keep,
                )
        except KeyboardInterrupt:
            commit(group, unfinished(group, "interrupted", environment_of(options.place.device)), store)
            raise
        commit(group, records, store)
        agenda.end(group)
        yield group, records


def check(groups: Sequence[Group]) -> list[Group]:
    """The groups, with their cells checked, each once; those that were have a cost or a failure."""
    checked: dict[int, Cell] = {}
    for group in groups:
        if id(group.cell) not in checked:
            new = group.cell.cost is None and group.cell.failure is None
            checked[id(group.cell)] = check_cell(group.cell) if new else group.cell
    return [dataclasses.replace(group, cell=checked[id(group.cell)]) for group in groups]
