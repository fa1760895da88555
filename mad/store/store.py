"""Results: one SQLite file, at most one record per run.

A result is final. `ok` and `diverged` are never replaced; `stopped` only by a run of another group, because
it was stopped for its own; `failed` and `interrupted` by the next attempt. The records of a group are written
in one transaction, so that a killed driver leaves whole groups; several drivers on one machine write in turn.
Each kind of record has its own table, under the same rules.
"""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, overload

from mad.data.outline import Outline, Shared
from mad.data.records import DONE, Record
from mad.data.stored import StoredRecord
from mad.messages import note
from mad.store import outlines
from mad.store.checking import R, kinds, understood
from mad.store.database import DAMAGED, connect, reporting
from mad.store.entry import Entry, entry_of
from mad.store.location import SIDE_FILES, default_path
from mad.store.lock import Lock
from mad.store.outlines import Line
from mad.store.replacing import COMPLETENESS, ImportReport, is_final, successor

# Characters of an error that are kept, its end: what a layer raises may hold a tensor.
LONGEST_ERROR = 2**16
# Texts that are read in one query.
AT_ONCE = 256
# How many records that were set aside are named.
MOST_NAMED = 3


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
        entry = entry_of(kind.table, *rows[0])
        if entry.record is None:
            raise ValueError(f"{self._lost(entry)}; remove it with `mad rm {id}`, or pass another --store")
        return entry.record

    @overload
    def records(self) -> list[Record]: ...

    @overload
    def records(self, kind: type[R]) -> list[R]: ...

    def records(self, kind: type[StoredRecord] = Record) -> Sequence[StoredRecord]:
        """Every run of a kind that can be understood, the oldest first; a note names the others."""
        found = list(self.scan(kind.table))
        self._name([entry for entry in found if entry.record is None])
        return [entry.record for entry in found if entry.record is not None]

    def outlines(
        self, settings: Collection[str] | None = None, *, architectures: Collection[str] | None = None
    ) -> Iterator[Outline]:
        """The runs of the battery without what is long in them: those of the settings and of the
        architectures with these keys, or all, in no order. A note at the end names those that cannot be
        understood.
        """
        shared = Shared()
        asked, lost = (settings, architectures), []
        with self._snapshot():
            for line, text in self._texts(outlines.lines(self._db, settings, architectures)):
                run = outlines.believed(line, text, shared)
                if run is None:
                    entry = entry_of(Record.table, line.row, line.id, text)
                    if not isinstance(entry.record, Record):
                        lost.append(entry)
                        continue
                    run = outlines.outline_of(entry.record, text, shared)
                keys = run.config.setting_key, run.config.architecture_key
                if all(among is None or key in among for key, among in zip(keys, asked, strict=True)):
                    yield run
        self._name(lost)

    def entries(self, table: str | None = None, *, prefix: str = "") -> list[Entry]:
        """The rows of a table, or of all, whose id begins so; the oldest first, understood or not."""
        return list(self.scan(table, prefix=prefix))

    def scan(self, table: str | None = None, *, prefix: str = "") -> Iterator[Entry]:
        """The same one by one, for those who need not keep them."""
        # An id that is not text has no beginning.
        which = "WHERE id >= ? AND id < ?" if prefix else ""
        ends = (prefix, f"{prefix}{chr(sys.maxunicode)}") if prefix else ()
        with self._snapshot():
            for name in self._tables if table is None else {table} & set(self._tables):
                # Sorted without their texts, which are long.
                rows = self._rows(f"SELECT rowid FROM {name} {which} ORDER BY created, id", *ends)
                for (row,) in rows:
                    found = self._rows(f"SELECT rowid, id, record FROM {name} WHERE rowid = ?", row)
                    if not found:
                        raise ValueError(f"store {self.path}: its index names a missing row; {DAMAGED}")
                    yield entry_of(name, *found[0])

    def count(self) -> int:
        """How many runs of any kind there are, understood or not; none of them is read."""
        return sum(self._rows(f"SELECT count(*) FROM {name}")[0][0] for name in self._tables)

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
                if not (once and old is not None and is_final(old, record)):
                    self._put(record if old is None else successor(old, record))

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
                if entry.table == Record.table:
                    outlines.remove(self._db, entry.row)
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
        return entry in (entry_of(entry.table, *row) for row in rows)

    def _texts(self, lines: Sequence[Line]) -> Iterator[tuple[Line, Any]]:
        """Each line with the text of its record, some hundred in one query."""
        for start in range(0, len(lines), AT_ONCE):
            some = lines[start : start + AT_ONCE]
            marks = ", ".join("?" * len(some))
            query = f"SELECT rowid, record FROM {Record.table} WHERE rowid IN ({marks})"
            texts = dict(self._rows(query, *(line.row for line in some)))
            yield from ((line, texts[line.row]) for line in some)

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """What is read inside is of one moment, whatever others write."""
        with reporting(self.path):
            own = not self._db.in_transaction
            if own:
                self._db.execute("BEGIN")
            try:
                yield
            finally:
                if own:
                    self._db.execute("ROLLBACK")

    def _name(self, lost: Sequence[Entry]) -> None:
        """Note, once, which rows cannot be understood."""
        new = [entry for entry in lost if entry.id not in self._named]
        if not new:
            return
        self._named |= {entry.id for entry in new}
        said = "; ".join(map(self._lost, new[:MOST_NAMED]))
        more = f"; and {len(new) - MOST_NAMED} more" if len(new) > MOST_NAMED else ""
        note(f"{said}{more}. Set aside; `mad rm --unreadable` removes what cannot be understood")

    def _lost(self, entry: Entry) -> str:
        return f"run {entry.id} in store {self.path} cannot be understood ({entry.reason})"

    def _put(self, record: StoredRecord) -> None:
        if type(record) is not kinds()[record.table]:
            raise ValueError(f"run {record.id} is the outline of a record; commit the one of `Store.get`")
        if record.error is not None and len(record.error) > LONGEST_ERROR:
            record = record.model_copy(update={"error": f"...{record.error[-LONGEST_ERROR:]}"})
        if type(record) is not kinds()[record.table]:
            raise ValueError(
                f"run {record.id} is a {type(record).__name__}, which lacks a part; give the whole"
            )
        text = record.model_dump_json()
        # What is written must be readable, and a copy that was changed was never validated.
        understood(type(record), text)
        row = (record.id, record.grouped, record.status, record.created, text)
        self._db.execute(f"INSERT OR REPLACE INTO {record.table} VALUES (?, ?, ?, ?, ?)", row)
        if isinstance(record, Record):
            outlines.write(self._db, record, text.encode())
