"""Stores that are not a file, not a store, damaged, locked or full: one sentence, nothing changed."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mad.data.protocol import SUITES
from mad.data.records import Record
from mad.store import Store
from mad.store.exchange import export_records, read_records
from scaling.lm.frames import curves_frame, language_frame
from scaling.lm.records import LanguageRecord
from tests.mad.language_records import language
from tests.mad.records import TWO, group, record

AT = TWO.settings[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Store(tmp_path / "store.sqlite") as store:
        store.commit([run for at in TWO.settings for run in group(at, 0.5, 0.625)])
        store.commit([language(2.0, seed=seed) for seed in range(3)])
    return tmp_path / "store.sqlite"


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal", ".lock"])
@pytest.mark.parametrize(("make", "what"), [(pipe, "pipe"), (listening, "socket"), (Path.mkdir, "folder")])
def test_what_is_not_a_file_is_never_opened(
    tmp_path: Path, end: str, make: Callable[[Path], None], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path(f"s{end}"))
    for read_only in (True, False):
        with pytest.raises(ValueError, match=f"is a {what}"):
            Store("s", read_only=read_only)
    assert os.listdir() == [f"s{end}"]


def test_a_device_gets_nothing_put_beside_it() -> None:
    for read_only in (True, False):
        with pytest.raises(ValueError, match="store /dev/null is a device; pass --store with"):
            Store("/dev/null", read_only=read_only)
    assert not [name for name in os.listdir("/dev") if name.startswith("null") and name != "null"]


def test_a_link_beside_a_store_is_not_followed(path: Path) -> None:
    lock = path.with_name("store.sqlite.lock")
    lock.unlink()
    lock.symlink_to("created")
    with pytest.raises(ValueError, match="store.sqlite.lock beside it is a link"):
        Store(path)
    assert not path.with_name("created").exists()


def test_a_path_that_leads_nowhere_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for wrong in ("file/store", "loop", "x" * 300, "~nobody-of-this-name/store"):
        with pytest.raises(ValueError, match="pass (another )?--store"):
            Store(wrong if wrong.startswith("~") else tmp_path / wrong)


def test_an_empty_file_is_no_store_to_read_and_one_to_write(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(ValueError, match="no store at"):
        Store(empty, read_only=True)
    with Store(empty) as store:
        store.commit([record(AT)])
        assert len(store.records()) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE runs; CREATE VIEW runs AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id FROM n) "
        "SELECT id, id AS group_id, id AS status, id AS created, id AS record FROM n",
        "CREATE TRIGGER more AFTER INSERT ON runs BEGIN DELETE FROM language; END",
        "ALTER TABLE runs ADD COLUMN more TEXT",
        "DROP TABLE language",
        "CREATE TABLE notes (text TEXT)",
    ],
)
def test_a_store_with_other_tables_than_ours_is_not_read(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as db:
        db.executescript(statement)
    db.close()
    for read_only in (True, False):
        with pytest.raises(ValueError, match="does not have the tables .* damaged: .* --store"):
            Store(path, read_only=read_only)


def test_a_store_that_was_analysed_is_still_one(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("ANALYZE")
    db.close()
    with Store(path) as store:
        assert len(store.records()) == 4


def test_another_program_that_holds_the_store_is_named_as_the_reason(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mad.store.database.WAIT", 0.05)
    with Store(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ValueError, match="database is locked; another program holds it: wait"):
            store.commit([record(AT, 5e-3)])
        other.execute("ROLLBACK")
        other.close()
        store.commit([record(AT, 5e-3)])


def test_a_full_disk_leaves_whole_groups(path: Path) -> None:
    """`max_page_count` refuses a page as a full disk does."""
    with Store(path) as store:
        before = store.records()
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count = {pages}")
        many = [record(AT, 1e-3 * (i + 3)) for i in range(40)]
        with pytest.raises(ValueError, match=f"store {path}: .* full; .* free some space"):
            store.commit(many)
        assert store.records() == before
        store._db.execute(f"PRAGMA max_page_count = {pages + 1000}")
        store.commit(many)
        assert len(store.records()) == 44


def _commands(path: Path, tmp_path: Path, more: Record) -> dict[str, Callable[[], object]]:
    def reading(of: Callable[[Store], object]) -> Callable[[], object]:
        def call() -> object:
            with Store(path, read_only=True) as store:
                return of(store)

        return call

    def writing() -> None:
        with Store(path) as store:
            store.commit([more])

    def merging() -> object:
        with Store(path) as store:
            return store.merge(read_records(tmp_path / "runs.jsonl"))

    return {
        "records": reading(Store.records),
        "export": reading(lambda store: export_records(store, tmp_path / "out.jsonl", overwrite=True)),
        "language": reading(language_frame),
        "curves": reading(curves_frame),
        "show": reading(lambda store: store.entries(prefix="abcdef")),
        "commit": writing,
        "import": merging,
    }


def _damaged(path: Path, tmp_path: Path, offsets: range) -> None:
    whole = path.read_bytes()
    with Store(path, read_only=True) as store:
        export_records(store, tmp_path / "runs.jsonl")
        records = {run.id: run for run in (*store.records(), *store.records(LanguageRecord))}
    more = record(AT, 7e-3)
    copy = tmp_path / "copy" / "store.sqlite"
    for offset in offsets:
        for name in _commands(copy, tmp_path, more):
            shutil.rmtree(copy.parent, ignore_errors=True)
            copy.parent.mkdir()
            copy.write_bytes(
                whole[:offset] + bytes(b ^ 0xFF for b in whole[offset : offset + 8]) + whole[offset + 8 :]
            )
            before = copy.read_bytes()
            try:
                _commands(copy, tmp_path, more)[name]()
            except ValueError as error:
                assert str(copy) in str(error), (offset, name, str(error))
                if name not in ("commit", "import"):
                    assert copy.read_bytes() == before
                continue
            # What is still read is what was stored.
            try:
                with Store(copy, read_only=True) as store:
                    found = [*store.records(), *store.records(LanguageRecord)]
            except ValueError:
                continue
            for run in found:
                # An import marks what it adds.
                kept = run.model_copy(update={"imported": False})
                assert kept == records.get(run.id, more), (offset, name)


def test_a_damaged_store_is_refused_or_read_in_part(path: Path, tmp_path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    _damaged(path, tmp_path, range(0, path.stat().st_size, path.stat().st_size // 12))


@pytest.mark.slow
def test_a_store_damaged_anywhere_is_refused_or_read_in_part(path: Path, tmp_path: Path) -> None:
    _damaged(path, tmp_path, range(0, path.stat().st_size, 61))


def test_a_record_that_cannot_be_understood_is_named_and_the_rest_is_read(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Store(path, read_only=True) as store:
        first, second, *rest = store.records()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE runs SET record = replace(record, '\"ok\"', '\"fine\"') WHERE id = ?", [first.id])
        db.execute("UPDATE runs SET record = CAST(x'ff00' AS TEXT) WHERE id = ?", [second.id])
        db.execute("UPDATE language SET record = 7 WHERE id = ?", [language(2.0, seed=1).id])
    db.close()
    with Store(path, read_only=True) as store:
        assert store.records() == store.records() == rest
        assert len(caplog.records) == 1, "said once"
        assert f"mad: run {first.id} in store {path} cannot be understood (status: " in caplog.text
        assert second.id in caplog.text and "`mad rm --unreadable`" in caplog.text
        assert {run.config.seed for run in store.records(LanguageRecord)} == {0, 2}
        assert "Input should be an object" in caplog.text
        assert len(language_frame(store)) == 2
        assert [entry.record for entry in store.entries(prefix=first.id)] == [None]
        with pytest.raises(ValueError, match=f"run {first.id} in store {path} cannot.*`mad rm {first.id}`"):
            store.get(first.id)


def test_a_row_under_the_name_of_another_run_is_not_believed(path: Path) -> None:
    with Store(path, read_only=True) as store:
        first, *_ = store.records()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE runs SET id = ? WHERE id = ?", ["0" * 20, first.id])
    db.close()
    with Store(path, read_only=True) as store, pytest.raises(ValueError, match=f"is that of run {first.id}"):
        store.get("0" * 20)


def test_a_note_is_one_line_on_standard_error(path: Path) -> None:
    with Store(path) as store:
        store.commit([run := record(SUITES["smoke"].settings[0])])
    with sqlite3.connect(path) as db:
        db.execute("UPDATE runs SET record = '{}' WHERE id = ?", [run.id])
    db.close()
    words = [sys.executable, "-m", "mad.cli", "leaderboard", "--suite", "smoke", "--store", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("mad: run ") and "cannot be understood (id: Field required)" in done.stderr
