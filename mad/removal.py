"""Which runs `mad rm` means, and how it names them."""

from __future__ import annotations

from collections.abc import Mapping

from mad.config import Record
from mad.messages import brief
from mad.store import Entry


def matches(entry: Entry, wanted: Mapping[str, str], *, imported: bool, unreadable: bool) -> bool:
    """Whether a row is all that was asked for; a record that cannot be understood is nothing but that."""
    record = entry.record
    if record is None:
        return not wanted and not imported
    if unreadable or (imported and not record.imported):
        return False
    architecture = record.config.architecture
    known: dict[str, set[str | None]] = {
        "status": {record.status},
        "architecture": {record.given, architecture.spec, architecture.label},
    }
    if isinstance(record, Record):
        suite = record.suite or ""
        known |= {"task": {record.config.task["name"]}, "suite": {suite, suite.partition("@")[0]}}
    else:
        known["architecture"].add(record.label)
        known["study"] = {record.study}
    return all(value in known.get(name, ()) for name, value in wanted.items())


def line(entry: Entry) -> str:
    """The row for a person."""
    record = entry.record
    if record is None:
        return brief(f"{entry.id}  not understood: {entry.reason}")
    where = record.config.task["name"] if isinstance(record, Record) else record.config.corpus.name
    mark = ", imported" if record.imported else ""
    return brief(f"{entry.id}  {record.status}{mark}  {record.config.architecture.label}  {where}")
