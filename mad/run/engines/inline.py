"""The simplest engine: one group after another, in this process."""

from collections.abc import Iterator, Sequence
from functools import partial

from mad.data.records import Record
from mad.run.engines import Options, missing
from mad.run.runner import environment_of, run_group, unfinished
from mad.run.sweep import Group
from mad.store import Store


def run(
    groups: Sequence[Group], store: Store | None, options: Options
) -> Iterator[tuple[Group, list[Record]]]:
    """See `Engine`. An interruption is recorded for the group that it hit, then raised."""
    for group in groups:
        kept = store if group.cell.architecture.stored else None
        if kept is not None and options.keep is None and not missing(group, kept):
            yield group, [record for id in group.run_ids if (record := kept.get(id)) is not None]
            continue
        # Runs that are stored already came out of another grid; they are repeated, and stay as they are.
        done = kept.hits(group.id, group.run_ids) if kept is not None else {}
        try:
            records = run_group(
                group,
                fabric=options.fabric,
                replicas=options.replicas,
                report=partial(options.report, group),
                keep=options.keep,
            )
        except KeyboardInterrupt:
            if kept is not None:
                lost = unfinished(group, "interrupted", environment_of(options.fabric.device))
                kept.commit(record for record in lost if record.id not in done)
            raise
        if kept is not None:
            kept.commit(record for record in records if record.id not in done)
        yield group, records
