"""The table beside the runs that says of each what it was asked and who answered, so that a board reads its
own runs alone and need not check again what was checked when it was written.

It is believed where its seal is that of the run's text: nothing else wrote that text. A run without a row
here, or with another seal, is read and checked as a whole. The seal tells damage and not malice, and what is
read under it is within bounds.
"""

from __future__ import annotations

import re
import sqlite3
import zlib
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from mad.data.outline import Outline, Shared, outlined
from mad.data.records import Record
from mad.store.entry import entry_of

TABLE = "outlines"
DEFINITION = (
    f"CREATE TABLE {TABLE} (id TEXT PRIMARY KEY, setting TEXT NOT NULL, architecture TEXT NOT NULL, "
    "seal INTEGER NOT NULL) WITHOUT ROWID"
)
# Of what a record is checked for when it is written; a new rule is a new number, and breaks every seal.
RULES = 1
KEY = re.compile(b"[0-9a-f]{20}")
Told = Sequence[Any]  # What the table says of a run beside its id.
NOTHING: Told = (None, None, None)


class Line(NamedTuple):
    """A row of the runs, and what this table says of it: nothing, where `seal` is None."""

    row: int
    id: Any
    setting: bytes | None
    architecture: bytes | None
    seal: int | None


def write(db: sqlite3.Connection, record: Record, text: bytes) -> None:
    """Seal a record that was checked."""
    keys = (record.config.setting_key, record.config.architecture_key)
    row = (record.id, *keys, _seal(text, record.id, *keys))
    db.execute(f"INSERT OR REPLACE INTO {TABLE} VALUES (?, ?, ?, ?)", row)


def remove(db: sqlite3.Connection, row: int) -> None:
    """Before the row of the runs is removed."""
    db.execute(f"DELETE FROM {TABLE} WHERE id = (SELECT id FROM {Record.table} WHERE rowid = ?)", (row,))


def there(db: sqlite3.Connection) -> bool:
    """Whether the store has this table: those of older versions do not."""
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (TABLE,)).fetchone())


def fill(db: sqlite3.Connection) -> None:
    """Seal every run that stands its check: those of a store that had no such table."""
    for row in db.execute(f"SELECT rowid, id, record FROM {Record.table}"):
        record = entry_of(Record.table, *row).record
        if isinstance(record, Record):
            write(db, record, row[2])


def lines(
    db: sqlite3.Connection, settings: Collection[str] | None, architectures: Collection[str] | None = None
) -> list[Line]:
    """A line for each run of these settings and architectures, or of all, and for each that may be one."""
    told: dict[Any, Told] = {}
    if there(db):
        told = {id: rest for id, *rest in db.execute(f"SELECT id, setting, architecture, seal FROM {TABLE}")}
    asked = [None if keys is None else {key.encode() for key in keys} for keys in (settings, architectures)]
    found = []
    for row, id in db.execute(f"SELECT rowid, id FROM {Record.table}"):
        setting, architecture, seal = told.get(id, NOTHING)
        # A key that is none was damaged, and may have been any.
        if all(
            keys is None or key in keys or not (type(key) is bytes and KEY.fullmatch(key))
            for keys, key in zip(asked, (setting, architecture), strict=True)
        ):
            found.append(Line(row, id, setting, architecture, seal))
    return sorted(found, key=lambda line: line.row)


def believed(line: Line, text: Any, shared: Shared) -> Outline | None:
    """The outline of a run whose text is as it was sealed; None where it is not, or not within bounds."""
    if not (isinstance(text, bytes) and isinstance(line.seal, int)):
        return None
    try:
        parts: tuple[Any, ...] = line[1:4]
        id, setting, architecture = (str(part, "ascii") for part in parts)
        if line.seal != _seal(text, id, setting, architecture):
            return None
        made = outlined(text, setting, architecture, shared)
    except (ValueError, TypeError):
        return None
    return made if made.id == id else None


def outline_of(record: Record, text: bytes, shared: Shared) -> Outline:
    """The outline of a record that was checked as a whole."""
    return outlined(text, record.config.setting_key, record.config.architecture_key, shared)


def _seal(text: bytes, *words: str) -> int:
    return zlib.crc32(text, zlib.crc32(" ".join((str(RULES), *words)).encode()))
