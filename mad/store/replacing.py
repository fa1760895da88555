"""Which of two records of one run is kept."""

from __future__ import annotations

from dataclasses import dataclass, field

from mad.data.bounds import LARGEST_WHOLE
from mad.data.records import DONE
from mad.data.stored import StoredRecord

# How much a record says: an import keeps ours unless the other one says more.
COMPLETENESS = {"failed": 0, "interrupted": 0, "stopped": 1, "diverged": 2, "ok": 2}


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """`known` runs were here already; the `conflicting` of them had another result, and ours stayed."""

    added: int
    known: int
    replaced: int
    conflicts: int
    conflicting: tuple[str, ...] = field(default=(), compare=False)


def is_final(old: StoredRecord, new: StoredRecord) -> bool:
    return old.status in DONE and not old.gives_way_to(new)


def successor(old: StoredRecord, new: StoredRecord) -> StoredRecord:
    """What is stored when `new` arrives where `old` is; refuses to lose a result."""
    if old.status not in DONE:
        return new.model_copy(update={"attempts": min(old.attempts + 1, LARGEST_WHOLE)})
    if not is_final(old, new):
        return new
    raise ValueError(
        f"run {old.id} is stored as {old.status!r}, which is final, so {new.status!r} cannot replace it; "
        "run only what the store does not hold, or pass another --store"
    )
