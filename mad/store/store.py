"""Results: one SQLite file, at most one record per run.

A result is final. `ok` and `diverged` are never replaced; `stopped` only by a run of another group, because
it was stopped for its own; `failed` and `interrupted` by the next attempt. The records of a group are written
in one transaction, so that a killed driver leaves whole groups; several drivers on one machine write in turn.
Each kind of record has its own table, under the same rules.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from mad.data.bounds import LARGEST_WHOLE
from mad.data.records import DONE, Record
from mad.data.stored import StoredRecord
from mad.messages import note
from mad.store.checking import R, kinds, understood
from mad.store.database import connect, reporting
from mad.store.location import SIDE_FILES, default_path
from mad.store.lock import Lock

# Characters of an error that are kept, its end: what a layer raises may hold a tensor.
LONGEST_ERROR = 2**16
# How many records that were set aside are named.
MOST_NAMED = 3
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


@dataclass(frozen=True)
class Entry:
    """A row of a store. `record` is None where it cannot be understood, and `reason` says why."""

    table: str
    row: int
    id: str
    record: StoredRecord | None
    reason: str = ""


class Store:
    """The records of all runs. Those who write take turns, one transaction at a time, and wait for each other
    (`mad.store.lock.WAIT` seconds at most); any number may read (`read_only=True`).
    """

    def __init__(self, path: str | Path | None = None, *, read_only: bool = False) -> None:
        try:
            self.path = default_path() if path is None else Path(path).expanduser().resolve()
        except (OSError, RuntimeError) as error:  # An unknown user's home, a link to itself.
            raise ValueError(f"store {path} cannot be found ({error}); pass another --store") from None
        self.read_only = read_only
        self._named: set[str] = set()
        with ExitStack() as opened, reporting(self.path):
            self._db, self._tables, self._lock = connect(self.path, opened, read_only=read_only)
            self._opened = opened.pop_all()

    @overload
    def get(self, id: str) -> Record | None: ...

    @overload
    def get(self, id: str, kind: type[R]) -> R | None: ...

    def get(self, id: str, kind: type[StoredRecord] = Record) -> StoredRecord | None:
        """The run with this id: of the battery, or of another kind."""
        if kind.table not in self._tables:
            return None
        rows = self._rows(f"SELECT rowid, id, record FROM {kind.table} WHERE id = ?", id)
        if not rows:
            return None
        entry = _entry(kind.table, *rows[0])
        if entry.record is None:
            raise ValueError(f"{self._lost(entry)}; remove it with `mad rm {id}`, or pass another --store")
        return entry.record

    @overload
    def records(self) -> list[Record]: ...

    @overload
    def records(self, kind: type[R]) -> list[R]: ...

    def records(self, kind: type[StoredRecord] = Record) -> Sequence[StoredRecord]:
        """Every run of a kind that can be understood, the oldest first; a note names the others."""
        entries = self.entries(kind.table)
        lost = [entry for entry in entries if entry.record is None and entry.id not in self._named]
        if lost:
            self._named |= {entry.id for entry in lost}
            said = "; ".join(map(self._lost, lost[:MOST_NAMED]))
            more = f"; and {len(lost) - MOST_NAMED} more" if len(lost) > MOST_NAMED else ""
            note(f"{said}{more}. Set aside; `mad rm --unreadable` removes what cannot be understood")
        return [entry.record for entry in entries if entry.record is not None]

    def entries(self, table: str | None = None, *, prefix: str = "") -> list[Entry]:
        """The rows of a table, or of all, whose id begins so; the oldest first, understood or not."""
        # An id that is not text has no beginning.
        which = "WHERE ?2 = '' OR substr(id, 1, ?1) = ?2 ORDER BY created, id"
        return [
            _entry(name, *row)
            for name in (self._tables if table is None else {table} & set(self._tables))
            for row in self._rows(f"SELECT rowid, id, record FROM {name} {which}", len(prefix), prefix)
        ]

    def find(self, beginning: str) -> Entry:
        """The one row whose id begins so, with 6 digits or more."""
        found = self.entries(prefix=beginning) if re.fullmatch("[0-9a-f]{6,20}", beginning) else []
        if len(found) != 1:
            count = "no run" if not found else f"{len(found)} runs"
            raise ValueError(
                f"{count} in {self.path} with an id that begins with {beginning!r}; give 6 digits or more"
            )
        return found[0]

    def hits(self, group_id: str, run_ids: Iterable[str]) -> dict[str, Record]:
        """The records of these runs that need not be run again in this group."""
        found = (record for id in run_ids if (record := self.get(id)) is not None)
        done = (record for record in found if record.status in DONE)
        return {run.id: run for run in done if run.status != "stopped" or run.group == group_id}

    def commit(self, records: Iterable[StoredRecord], *, once: bool = False) -> None:
        """Write records that belong together: all of them or, where one is refused, none.

        `once` leaves out those whose run has its result by now: another driver, or a group of another grid,
        came first. Else they are refused.
        """
        batch = list(records)
        with self._transaction():
            for record in batch:
                old = self.get(record.id, type(record))
                if not (once and old is not None and _is_final(old, record)):
                    self._put(record if old is None else _successor(old, record))

    def relabel(self, run: R, **labels: Any) -> R:
        """Say what a stored run counts to; its result stays."""
        with self._transaction():
            old = self.get(run.id, type(run))
            if old is None:
                raise ValueError(f"run {run.id} is not in {self.path}; commit it first")
            new = old.model_copy(update=labels)
            self._put(new)
        return new

    def claim(self, group_id: str) -> bool:
        """Take a group, to be run here; False where another program on this machine runs it.

        It is ours until `release`, until the store is closed or the process dies.
        """
        return self._writing().claim(group_id)

    def release(self, group_id: str) -> None:
        self._writing().release(group_id)

    def merge(self, records: Iterable[StoredRecord]) -> ImportReport:
        """Add records of another store, all or none, marked as imported; the fuller stays, else ours."""
        added = known = replaced = 0
        conflicting = []
        with self._transaction():
            for record in records:
                old = self.get(record.id, type(record))
                if old is None:
                    added += 1
                elif COMPLETENESS[record.status] > COMPLETENESS[old.status]:
                    replaced += 1
                else:
                    known += 1
                    both_final = record.status in ("ok", "diverged")
                    if both_final and (record.status, record.metrics) != (old.status, old.metrics):
                        conflicting.append(record.id)
                    continue
                self._put(record.model_copy(update={"imported": True}))
        counts = {"added": added, "known": known, "replaced": replaced, "conflicts": len(conflicting)}
        return ImportReport(**counts, conflicting=tuple(conflicting))

    def remove(self, entries: Iterable[Entry]) -> list[Entry]:
        """Take rows out, all of them or, where that fails, none; returns those that were still as given."""
        with self._transaction():
            gone = [entry for entry in entries if self._still(entry)]
            for entry in gone:
                self._db.execute(f"DELETE FROM {entry.table} WHERE rowid = ?", (entry.row,))
        return gone

    def close(self) -> None:
        self._opened.close()

    def discard(self) -> None:
        """Close the store and, if nothing is in it and no other program has it open, remove it."""
        lock = self._writing()
        with lock.held():
            unused = not self.entries() and self._is_alone()
            if unused:
                self._db.close()
                for end in SIDE_FILES:
                    if end != ".lock":
                        self.path.with_name(f"{self.path.name}{end}").unlink(missing_ok=True)
        self.close()
        if unused:
            lock.path.unlink(missing_ok=True)

    def _is_alone(self) -> bool:
        """Whether nobody else has the file open: SQLite takes no other mode while a file is shared."""
        self._db.execute("PRAGMA busy_timeout = 0")
        try:
            self._db.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.OperationalError:
            return False
        return True

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _rows(self, query: str, *values: str | int) -> list[tuple[Any, ...]]:
        with reporting(self.path):
            return self._db.execute(query, values).fetchall()

    def _writing(self) -> Lock:
        if self._lock is None:
            remedy = "open it without read_only=True to write"
            raise ValueError(f"store {self.path} was opened read-only; {remedy}")
        return self._lock

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with reporting(self.path), self._writing().held(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield

    def _still(self, entry: Entry) -> bool:
        rows = self._rows(f"SELECT rowid, id, record FROM {entry.table} WHERE rowid = ?", entry.row)
        return entry in (_entry(entry.table, *row) for row in rows)

    def _lost(self, entry: Entry) -> str:
        return f"run {entry.id} in store {self.path} cannot be understood ({entry.reason})"

    def _put(self, record: StoredRecord) -> None:
        if record.error is not None and len(record.error) > LONGEST_ERROR:
            record = record.model_copy(update={"error": f"...{record.error[-LONGEST_ERROR:]}"})
        text = record.model_dump_json()
        # What is written must be readable, and a copy that was changed was never validated.
        understood(type(record), text)
        row = (record.id, record.grouped, record.status, record.created, text)
        self._db.execute(f"INSERT OR REPLACE INTO {record.table} VALUES (?, ?, ?, ?, ?)", row)


def _entry(table: str, row: int, id: Any, text: Any) -> Entry:
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


def _is_final(old: StoredRecord, new: StoredRecord) -> bool:
    return old.status in DONE and not old.gives_way_to(new)


def _successor(old: StoredRecord, new: StoredRecord) -> StoredRecord:
    """What is stored when `new` arrives where `old` is; refuses to lose a result."""
    if old.status not in DONE:
        return new.model_copy(update={"attempts": min(old.attempts + 1, LARGEST_WHOLE)})
    if not _is_final(old, new):
        return new
    raise ValueError(
        f"run {old.id} is stored as {old.status!r}, which is final, so {new.status!r} cannot replace it; "
        "run only what the store does not hold, or pass another --store"
    )
