"""The simplest engine: one group after another, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from lightning.fabric import Fabric
from torch import nn

from mad.data.records import Record
from mad.run.runner import environment_of, run_group, unfinished
from mad.run.sweep import Group
from mad.run.trainer import Progress, Replicas
from mad.store import Store


def run(
    groups: list[Group],
    store: Store | None,
    *,
    fabric: Fabric,
    replicas: Replicas = "auto",
    report: Callable[[Group, Progress], None] = lambda group, progress: None,
    keep: Callable[[nn.Module], None] | None = None,
) -> Iterator[tuple[Group, list[Record]]]:
    """Run the groups that the store does not hold, commit each as it ends, and yield its records.

    An interruption is recorded for the group that it hit, then raised. `keep` is given the trained model of a
    group of one run, which is trained for that even where the store holds the run.
    """
    for group in groups:
        kept = store if group.cell.architecture.stored else None
        if kept is not None and keep is None and not missing(group, kept):
            yield group, [record for id in ids(group) if (record := kept.get(id)) is not None]
            continue
        done = kept.hits(group.id, ids(group)) if kept is not None else {}
        try:
            records = run_group(
                group, fabric=fabric, replicas=replicas, report=partial(report, group), keep=keep
            )
        except KeyboardInterrupt:
            if kept is not None:
                lost = unfinished(group, "interrupted", environment_of(fabric.device))
                kept.commit(record for record in lost if record.id not in done)
            raise
        if kept is not None:
            # Runs that are stored already came out of another grid; they were repeated, and stay as they are.
            kept.commit(record for record in records if record.id not in done)
        yield group, records


def ids(group: Group) -> list[str]:
    return [run.id for run in group.runs]


def missing(group: Group, store: Store) -> list[str]:
    """The runs of a group that are not stored: none means that there is nothing to do."""
    hits = store.hits(group.id, ids(group))
    return [id for id in ids(group) if id not in hits]
