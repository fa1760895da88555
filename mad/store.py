"""Results: one SQLite file, one writer, at most one record a run.

A result is final. `ok` and `diverged` are never replaced; `stopped` only by a run of another group, because
it was stopped for its own; `failed` and `interrupted` by the next attempt. The records of a group are written
in one transaction, so that a killed driver leaves whole groups. Runs of the battery are in one table,
language-model runs in a second one, under the same rules.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from mad.config import DONE, Record
from mad.language import LanguageRecord, Role, check_language
from mad.location import default_path, network_file_system, writer_lock

__all__ = ["AnyRecord", "ImportReport", "Store", "check", "default_path"]

AnyRecord = Record | LanguageRecord

# 2 added the table of language-model runs.
SCHEMA = 2
APPLICATION = 0x4D414453  # "MADS": tells our files from other SQLite databases.
# How much a record says: an import keeps ours unless the other one says more.
WORTH = {"failed": 0, "interrupted": 0, "stopped": 1, "diverged": 2, "ok": 2}


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """`known` runs were here already; of those, `conflicts` had another result, and ours stayed."""

    added: int
    known: int
    replaced: int
    conflicts: int


class Store:
    """The records of all runs. One writer at a time; any number of readers (`read_only=True`)."""

    def __init__(self, path: str | Path | None = None, *, read_only: bool = False) -> None:
        self.path = default_path() if path is None else Path(path).expanduser().resolve()
        self.read_only = read_only
        with ExitStack() as opened:
            try:
                self._db = self._open(opened)
            except sqlite3.DatabaseError as error:
                raise ValueError(
                    f"{self.path} is no store that SQLite can open ({error}); pass another --store"
                ) from None
            except OSError as error:
                raise ValueError(
                    f"store {self.path} cannot be opened ({error}); pass another --store"
                ) from None
            self._opened = opened.pop_all()

    def get(self, id: str) -> Record | None:
        row = self._db.execute("SELECT record FROM runs WHERE id = ?", (id,)).fetchone()
        return None if row is None else Record.model_validate_json(row[0])

    def records(self) -> list[Record]:
        """Every record, the oldest first."""
        rows = self._db.execute("SELECT record FROM runs ORDER BY created, id")
        return [Record.model_validate_json(row[0]) for row in rows]

    def count(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM runs").fetchone()[0])

    def language(self, id: str) -> LanguageRecord | None:
        """The language-model run with this id."""
        if not self._has_language:
            return None
        row = self._db.execute("SELECT record FROM language WHERE id = ?", (id,)).fetchone()
        return None if row is None else LanguageRecord.model_validate_json(row[0])

    def language_records(self) -> list[LanguageRecord]:
        """Every language-model run, the oldest first; none in a store of version 1."""
        if not self._has_language:
            return []
        rows = self._db.execute("SELECT record FROM language ORDER BY created, id")
        return [LanguageRecord.model_validate_json(row[0]) for row in rows]

    def hits(self, group_id: str, run_ids: Iterable[str]) -> dict[str, Record]:
        """The records of these runs that need not be run again in this group."""
        found = {id: record for id in run_ids if (record := self.get(id)) is not None}
        return {
            id: record
            for id, record in found.items()
            if record.status in DONE and (record.status != "stopped" or record.group == group_id)
        }

    def commit(self, records: Iterable[Record]) -> None:
        """Write the records of a group: all of them or, where one is refused, none."""
        batch = list(records)
        with self._transaction():
            for record in batch:
                check(record)
                old = self.get(record.id)
                self._put(record if old is None else _successor(old, record))

    def commit_language(self, records: Iterable[LanguageRecord]) -> None:
        """Write language-model runs: all of them or, where one is refused, none."""
        batch = list(records)
        with self._transaction():
            for record in batch:
                check(record)
                old = self.language(record.id)
                self._put(record if old is None else _successor(old, record))

    def relabel_language(
        self, id: str, *, study: str | None, role: Role, budget: float | None, label: str
    ) -> LanguageRecord:
        """Say what a stored language-model run counts to; its result stays."""
        with self._transaction():
            old = self.language(id)
            if old is None:
                raise ValueError(f"no language-model run {id} in {self.path}; train it first")
            new = old.model_copy(update={"study": study, "role": role, "budget": budget, "label": label})
            self._put(new)
        return new

    def merge(self, records: Iterable[AnyRecord]) -> ImportReport:
        """Add records of another store, all or none. Of two of a run the fuller stays, else ours."""
        added = known = replaced = conflicts = 0
        with self._transaction():
            for record in records:
                check(record)
                old = self._same(record)
                if old is None:
                    added += 1
                elif WORTH[record.status] > WORTH[old.status]:
                    replaced += 1
                else:
                    known += 1
                    both_final = record.status in ("ok", "diverged")
                    conflicts += both_final and (record.status, record.metrics) != (old.status, old.metrics)
                    continue
                self._put(record)
        return ImportReport(added=added, known=known, replaced=replaced, conflicts=conflicts)

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, opened: ExitStack) -> sqlite3.Connection:
        missing = f"no store at {self.path}; run `mad bench` first, or pass --store with the path of one"
        network = network_file_system(self.path)
        if self.path.is_dir():
            raise ValueError(f"store {self.path} is a folder; pass --store with the path of a file in it")
        if self.read_only and not self.path.exists():
            raise ValueError(missing)
        if network and not self.read_only:
            raise ValueError(
                f"store {self.path} is on a network file system ({network}), where SQLite loses data; pass "
                "--store with a path on a local disk, and move results with `mad export` and `mad import`"
            )
        if self.read_only:
            db = opened.enter_context(_reader(self.path, shared=bool(network)))
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            opened.enter_context(writer_lock(self.path))
            db = sqlite3.connect(self.path, isolation_level=None)
            opened.callback(db.close)
        application, version, tables = (
            db.execute(query).fetchone()[0]
            for query in (
                "PRAGMA application_id",
                "PRAGMA user_version",
                "SELECT count(*) FROM sqlite_master",
            )
        )
        if (application, version, tables) == (0, 0, 0):
            if self.read_only:
                raise ValueError(missing)
        elif application != APPLICATION:
            raise ValueError(f"{self.path} is a SQLite database, but no store of mad; pass another --store")
        elif version > SCHEMA:
            raise ValueError(
                f"store {self.path} was written by a newer version (schema {version}, known is {SCHEMA}); "
                "upgrade with `pip install -U mad-suite`, or pass another --store"
            )
        if not self.read_only:
            db.execute("PRAGMA journal_mode = WAL")
            if version < SCHEMA:
                _migrate(db, version)
        self._has_language = version >= 2 or not self.read_only
        return db

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self.read_only:
            raise ValueError(
                f"store {self.path} was opened read-only; open it without read_only=True to write"
            )
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield

    def _same(self, record: AnyRecord) -> AnyRecord | None:
        return self.get(record.id) if isinstance(record, Record) else self.language(record.id)

    def _put(self, record: AnyRecord) -> None:
        table, group = ("runs", record.group) if isinstance(record, Record) else ("language", record.study)
        row = (record.id, group, record.status, record.created, record.model_dump_json())
        self._db.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?)", row)


def check(record: AnyRecord) -> None:
    """Refuse a record that is not what its configuration or its status says."""
    if isinstance(record, LanguageRecord):
        check_language(record)
        return
    if record.id != record.config.id:
        raise ValueError(
            f"id {record.id} does not match its configuration, which has id {record.config.id}; "
            "the record was edited or damaged: take it from its source again"
        )
    metrics = record.metrics
    if record.status not in DONE:
        return
    if metrics is None or (record.status == "ok" and (metrics.validation is None or metrics.test is None)):
        raise ValueError(f"run {record.id} is {record.status!r} but lacks its metrics; run it again")
    values = [metrics.chance, metrics.ceiling]
    for measure in (metrics.validation, metrics.test):
        values += [] if measure is None else [measure.micro, measure.macro, measure.macro_batches]
    for value in values:
        if not 0 <= value <= 1:
            raise ValueError(
                f"run {record.id} has an accuracy of {value}, which must be from 0 to 1; run it again"
            )


_R = TypeVar("_R", Record, LanguageRecord)


def _successor(old: _R, new: _R) -> _R:
    """What is stored when `new` arrives where `old` is; refuses to lose a result."""
    if old.status not in DONE:
        return new.model_copy(update={"attempts": old.attempts + 1})
    if isinstance(old, Record) and isinstance(new, Record):
        if old.status == "stopped" and old.group != new.group:
            return new
    raise ValueError(
        f"run {old.id} is stored as {old.status!r}, which is final, so {new.status!r} cannot replace it; "
        "run only what the store does not hold, or pass another --store"
    )


def _migrate(db: sqlite3.Connection, version: int) -> None:
    """Bring an empty file or a store of an older version to this one; records stay as they are."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        if version < 1:
            db.execute(
                "CREATE TABLE runs (id TEXT PRIMARY KEY, group_id TEXT NOT NULL, status TEXT NOT NULL, "
                "created TEXT NOT NULL, record TEXT NOT NULL)"
            )
            db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.execute(
            "CREATE TABLE language (id TEXT PRIMARY KEY, study TEXT, status TEXT NOT NULL, "
            "created TEXT NOT NULL, record TEXT NOT NULL)"
        )
        db.execute(f"PRAGMA user_version = {SCHEMA}")


@contextmanager
def _reader(path: Path, *, shared: bool) -> Iterator[sqlite3.Connection]:
    """Readers of a WAL file need shared memory beside it; where that cannot be, a file at rest is read."""
    at_rest = shared or not os.access(path.parent, os.W_OK)
    log = path.with_name(f"{path.name}-wal")
    if at_rest and log.exists() and log.stat().st_size:
        raise ValueError(
            f"store {path} is in use or was not closed, and its folder is shared or read-only; "
            "copy it to a local disk together with its -wal file and pass --store with the copy"
        )
    db = sqlite3.connect(
        f"{path.as_uri()}?{'immutable=1' if at_rest else 'mode=ro'}", uri=True, isolation_level=None
    )
    try:
        yield db
    finally:
        db.close()
