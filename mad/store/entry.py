"""A row of a store: a record, or what is there instead of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mad.data.stored import StoredRecord
from mad.store.checking import kinds, understood


@dataclass(frozen=True)
class Entry:
    """A row of a store. `record` is None where it cannot be understood, and `reason` says why."""

    table: str
    row: int
    id: str
    record: StoredRecord | None
    reason: str = ""


def entry_of(table: str, row: int, id: Any, text: Any) -> Entry:
    """The row, its record checked."""
    name = id.decode(errors="replace") if isinstance(id, bytes) else str(id)
    try:
        if not isinstance(text, bytes):
            raise ValueError("its text is missing")
        record = understood(kinds()[table], text)
        if record.id != name:
            raise ValueError(f"its text is that of run {record.id}")
    except ValueError as error:
        return Entry(table, row, name, None, str(error))
    return Entry(table, row, name, record)
