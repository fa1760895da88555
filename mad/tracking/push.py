"""What stores hold, told to trackers later."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from mad.data.protocol import Suite, get_suite
from mad.data.stored import StoredRecord
from mad.messages import Failed, counted, note
from mad.store import Store
from mad.store.checking import kinds
from mad.tracking import Roster, Tracking
from mad.tracking.mirror import Mirror


def push(store: Store, tracking: Tracking, *, suite: str | None = None) -> int:
    """Tell trackers of every run of a store, or of those that were made for a suite; returns how many.

    What they know already stays as it is. Raises `Failed` where one did not hear all.
    """
    wanted = None if suite is None else get_suite(suite)
    records: list[StoredRecord] = [record for kind in kinds().values() for record in store.records(kind)]
    label = wanted.label if wanted else None
    if label is not None:
        records = [record for record in records if label in record.known().get("suite", ())]
    if not records:
        what = f"runs of {label}" if label else "runs"
        raise ValueError(f"store {store.path} has no {what}; run `mad bench` first, or name another store")
    groups: dict[str, list[StoredRecord]] = defaultdict(list)
    for record in records:
        groups[record.grouped or record.id].append(record)
    heads = [record.trail().head for record in records]
    counts = Counter(head.family.id for head in heads if head.family is not None)
    labels = {str(head.config["suite"]) for head in heads if head.family is not None}
    suites = {wanted.label: wanted} if wanted else _known(sorted(labels))
    with Mirror(tracking, Roster(suites=suites, counts=counts), live=False) as mirror:
        for together in groups.values():
            mirror.show(together)
    if mirror.failed:
        raise Failed(f"{' and '.join(mirror.failed)} did not hear of all {counted(len(records), 'run')}")
    return len(records)


def _known(labels: Sequence[str]) -> dict[str, Suite]:
    found: dict[str, Suite] = {}
    for label in labels:
        try:
            found[label] = get_suite(label)
        except ValueError as error:
            note(
                f"{error}; its runs are told without scores (--suite names one of yours: a file, module:NAME)"
            )
    return found
