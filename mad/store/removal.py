"""Which runs `mad rm` means, and how it names them."""

from __future__ import annotations

from collections.abc import Mapping

from mad.messages import brief
from mad.store.store import Entry


def matches(entry: Entry, wanted: Mapping[str, str], *, imported: bool, unreadable: bool) -> bool:
    """Whether a row is all that was asked for; a record that cannot be understood is nothing but that."""
    record = entry.record
    if record is None:
        return not wanted and not imported
    if unreadable or (imported and not record.imported):
        return False
    known = record.known()
    return all(value in known.get(name, ()) for name, value in wanted.items())


def line(entry: Entry) -> str:
    """The row for a person."""
    record = entry.record
    if record is None:
        return brief(f"{entry.id}  not understood: {entry.reason}")
    mark = ", imported" if record.imported else ""
    what = f"{record.config.architecture.label}  {record.subject}"
    return brief(f"{entry.id}  {record.status}{mark}  {what}")
