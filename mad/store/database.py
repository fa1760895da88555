"""The file of a store: how it is opened, what must be in it, and what its errors mean."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from mad.data.records import Record
from mad.messages import counted, note
from mad.store import outlines
from mad.store.checking import LONGEST, kinds
from mad.store.location import check_regular, network_file_system
from mad.store.lock import WAIT, Lock

# 2 added the table of language-model runs, 3 the mark of imported records, 4 the outlines of the runs.
SCHEMA = 4
OUTLINED = 4
# Runs from which on people are told that the store is brought to a new version: some seconds.
MANY = 20_000
APPLICATION = 0x4D414453  # "MADS": tells our files from other SQLite databases.
COLUMNS = "status TEXT NOT NULL, created TEXT NOT NULL, record TEXT NOT NULL"
DAMAGED = "it is damaged: `sqlite3 FILE .recover` saves what can be saved, and --store names another one"
# By the start of SQLite's name of the error.
REMEDIES = {
    "SQLITE_FULL": "the disk is full: what was stored before is whole; free some space and run it again",
    "SQLITE_BUSY": "another program holds it: wait for that to end, or pass another --store",
    "SQLITE_READONLY": "it may not be written: see to its permissions, or pass another --store",
    "SQLITE_CANTOPEN": "see to the permissions of its folder, or pass another --store",
    "SQLITE_IOERR": "the disk did not do its part: see that it is there and has space, and run it again",
    "SQLITE_NOTADB": "it is not a store: pass another --store",
}


@contextmanager
def reporting(path: Path) -> Iterator[None]:
    """What SQLite or the system refuses, as one sentence with the store and the remedy."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "")
        remedy = next((words for start, words in REMEDIES.items() if name.startswith(start)), DAMAGED)
        raise ValueError(f"store {path}: {error}; {remedy}") from error
    except UnicodeDecodeError as error:  # In what SQLite has to say of a damaged file.
        raise ValueError(f"store {path}: {error.object!r}; {DAMAGED}") from error
    except OSError as error:
        raise ValueError(f"store {path} cannot be opened ({error}); pass another --store") from error


def connect(
    path: Path, opened: ExitStack, *, read_only: bool
) -> tuple[sqlite3.Connection, list[str], Lock | None]:
    """The database, the tables that it has, and the lock of those who write. `opened` gets what is to be
    closed.
    """
    missing = f"no store at {path}; run `mad bench` first, or pass --store with the path of one"
    check_regular(path)
    network = network_file_system(path)
    if read_only:
        if not path.exists():
            raise ValueError(missing)
        db = opened.enter_context(_reader(path, shared=bool(network)))
        if not (version := _version(db, path)):
            raise ValueError(missing)
        return db, _tables(version), None
    if network:
        raise ValueError(
            f"store {path} is on a network file system ({network}), where SQLite loses data; pass "
            "--store with a path on a local disk, and move results with `mad export` and `mad import`"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = opened.enter_context(closing(Lock(path)))
    with lock.held():
        db = opened.enter_context(closing(sqlite3.connect(path, timeout=WAIT, isolation_level=None)))
        version = _version(db, path)
        db.execute("PRAGMA journal_mode = WAL")
        if version < SCHEMA:
            _migrate(db, path, version)
    return db, _tables(SCHEMA), lock


def _version(db: sqlite3.Connection, path: Path) -> int:
    """The version of a store, after a look at whether it is one; 0 where the file is empty."""
    # Text that is no UTF-8 concerns one record, and what a file defines beside its tables is not run.
    db.text_factory = bytes
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 8 * LONGEST)
    db.execute("PRAGMA trusted_schema = OFF")
    application, version, tables = (
        db.execute(query).fetchone()[0]
        for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    version = max(version, 0)
    if (application, version, tables) == (0, 0, 0):
        return 0
    if application != APPLICATION:
        raise ValueError(f"{path} is a SQLite database, but no store of mad; pass another --store")
    if version > SCHEMA:
        raise ValueError(
            f"store {path} was written by a newer version (schema {version}, known is {SCHEMA}); "
            "upgrade with `pip install -U mad-suite`, or pass another --store"
        )
    _check_tables(db, path, _definitions(version))
    return int(version)


def _tables(version: int, *, after: int = 0) -> list[str]:
    """The tables that came with the versions up to this one."""
    return [name for name, kind in kinds().items() if after < kind.since <= version]


def _definitions(version: int, *, after: int = 0) -> dict[str, str]:
    """What a store has that those versions made, by name."""
    known = kinds()
    made = {
        name: f"CREATE TABLE {name} (id TEXT PRIMARY KEY, {known[name].column}, {COLUMNS})"
        for name in _tables(version, after=after)
    }
    return made | ({outlines.TABLE: outlines.DEFINITION} if after < OUTLINED <= version else {})


def _check_tables(db: sqlite3.Connection, path: Path, expected: dict[str, str]) -> None:
    """A store is its tables and nothing else: a view or a trigger would run as it is read or written."""
    rows = db.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    found = {
        name: sql for kind, name, sql in rows if not (kind == b"table" and name.startswith(b"sqlite_stat"))
    }
    foreign = {name.decode() for name, sql in found.items() if COLUMNS.encode() in sql} - set(kinds())
    if foreign:
        raise ValueError(
            f"store {path} has records of the kind {min(foreign)!r}, which no package here declares; install "
            "the one that does, or pass another --store"
        )
    if found != {name.encode(): sql.encode() for name, sql in expected.items()}:
        raise ValueError(
            f"store {path} does not have the tables {', '.join(expected)} as mad makes them; {DAMAGED}"
        )


def _migrate(db: sqlite3.Connection, path: Path, version: int) -> None:
    """Bring an empty file or a store of an older version to this one; records stay as they are."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        for definition in _definitions(SCHEMA, after=version).values():
            db.execute(definition)
        if 0 < version < OUTLINED:
            (count,) = db.execute(f"SELECT count(*) FROM {Record.table}").fetchone()
            if count >= MANY:
                note(f"store {path} is brought to a new version, once: {counted(count, 'run')} to be read")
            outlines.fill(db)
        db.execute(f"PRAGMA application_id = {APPLICATION}")
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
    how = "immutable=1" if at_rest else "mode=ro"
    with closing(sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, isolation_level=None)) as db:
        yield db
