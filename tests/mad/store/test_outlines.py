"""The keys and seals beside the runs: a board reads its own runs alone, and believes no other text."""

import json
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mad.api import scores_of
from mad.data.outline import Outline
from mad.data.protocol import get_protocol, get_suite
from mad.data.records import Record
from mad.score import score
from mad.store import Store, database, entry
from mad.store.exchange import export_records, read_records
from mad.store.outlines import RULES
from tests.commands import Command
from tests.mad.records import TWO, group, record
from tests.mad.stores import filled

SPECS = {"a": "2*(mamba swiglu)", "b": "this:Layer", "c": "hyena swiglu"}
SMOKE, SOUND = get_suite("smoke"), get_protocol("sound")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = filled(tmp_path_factory.mktemp("made") / "store.sqlite", SPECS, studies=1)
    with Store(path) as store:
        store.commit([*group(TWO.settings[0], 0.5, 0.625), record(TWO.settings[0], 7e-3, status="failed")])
        store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.read_bytes()


@pytest.fixture
def path(made: bytes, tmp_path: Path) -> Path:
    (tmp_path / "store.sqlite").write_bytes(made)
    return tmp_path / "store.sqlite"


def run(path: Path, *statements: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    with sqlite3.connect(path) as db:
        found = [db.execute(statement, values).fetchall() for statement in statements]
    db.close()
    return found[-1]


def board(path: Path) -> Any:
    return scores_of(suite="smoke", store=path, reference=False)


def sealed(path: Path) -> bool:
    """Whether each run of the battery is read by its outline: of none the whole is needed."""

    def whole(*row: Any) -> None:
        raise AssertionError(f"{row} was read as a whole")

    with Store(path, read_only=True) as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr("mad.store.store.entry_of", whole)
        found = {run.id for run in store.outlines()}
        patch.undo()
        return found == {run.id for run in store.records()}


def older(path: Path) -> Path:
    """What the version before this table left."""
    run(path, "DROP TABLE outlines", "PRAGMA user_version = 3")
    return path


def test_the_board_of_outlines_is_that_of_whole_records(path: Path) -> None:
    with Store(path, read_only=True) as store:
        whole = score(store.records(), SMOKE, SOUND)
    assert len(whole.architectures) == 3 and board(path).architectures == whole.architectures


def test_an_outline_says_what_its_record_says_or_nothing(path: Path) -> None:
    with Store(path, read_only=True) as store:
        outlines = {run.id: run for run in store.outlines()}
        assert len(outlines) == len(store.records()) == 39
        for run in store.records():
            short = outlines[run.id]
            assert short.config.setting_key == run.config.setting_key
            assert short.config.architecture_key == run.config.architecture_key
            assert (short.config.task, short.config.protocol) == (run.config.task, run.config.protocol)
            assert short.config.architecture == run.config.architecture
            for name in Outline.model_fields:
                if name not in ("config", "metrics"):
                    assert getattr(short, name) == getattr(run, name), name
            if run.status == "ok":
                assert short.metrics is not None and run.metrics is not None
                assert short.metrics.test is not None and run.metrics.test is not None
                assert short.metrics.test.micro == run.metrics.test.micro
            for part, name in ((short, "environment"), (short.metrics, "curve"), (short.config, "epochs")):
                with pytest.raises(AttributeError):
                    getattr(part, name)


def test_an_outline_is_not_written(path: Path) -> None:
    with Store(path) as store:
        short = next(run for run in store.outlines() if run.status == "failed")
        with pytest.raises(ValueError, match="is the outline of a record"):
            store.commit([short])
        whole = store.get(short.id)
        assert whole is not None and whole.error


def test_a_board_reads_the_runs_of_its_suite_alone(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = board(path)
    with Store(path, read_only=True) as store:
        other = store.get(record(TWO.settings[0]).id)
    assert other is not None
    run(path, "UPDATE runs SET record = '{}' WHERE id = ?", values=(other.id,))
    assert board(path) == before and not caplog.records
    with Store(path, read_only=True) as store:
        assert other.id not in {run.id for run in store.outlines()}
    assert f"run {other.id} in store" in caplog.text


EDITS: dict[str, Callable[[dict[str, Any]], None]] = {
    "better": lambda made: made["metrics"]["test"].update(micro=1.0),
    "without metrics": lambda made: made.update(metrics=None),
    "without a split": lambda made: made["metrics"].update(test=None),
    "beyond bounds": lambda made: made["metrics"]["test"].update(micro=7.0),
    "no number": lambda made: made["config"].update(lr="fast"),
    "huge": lambda made: made["cost"].update(params=10**400),
    "another run": lambda made: made.update(id="0" * 20),
    "no time": lambda made: made.update(created="\x1b[2J"),
}


# Who can write the file can make up a better record, and seal it, just as well.
FORGED = [(edit, forged) for edit in EDITS for forged in (False, True) if (edit, forged) != ("better", True)]


@pytest.mark.parametrize(("edit", "forged"), FORGED)
def test_a_text_that_was_changed_is_named_and_set_aside(
    edit: str, forged: bool, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ((id, setting, architecture, text),) = run(
        path,
        "SELECT o.id, setting, architecture, record FROM outlines o JOIN runs r USING (id) "
        "WHERE status = 'ok' ORDER BY r.rowid LIMIT 1",
    )
    content = json.loads(text)
    EDITS[edit](content)
    changed = json.dumps(content)
    run(path, "UPDATE runs SET record = ? WHERE id = ?", values=(changed, id))
    if forged:
        start = zlib.crc32(f"{RULES} {id} {setting} {architecture}".encode())
        run(
            path,
            "UPDATE outlines SET seal = ? WHERE id = ?",
            values=(zlib.crc32(changed.encode(), start), id),
        )
    assert len(board(path).architectures) == 3
    assert len(caplog.records) == 1 and f"run {id} in store {path} cannot be understood" in caplog.text


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM outlines",
        "UPDATE outlines SET seal = seal + 1",
        "UPDATE outlines SET seal = 'x'",
        "UPDATE outlines SET setting = 'x' || substr(setting, 2)",
        "UPDATE outlines SET setting = CAST(x'ff00' AS TEXT)",
        "UPDATE outlines SET architecture = 7.5",
        "UPDATE outlines SET architecture = CAST(x'ff00' AS BLOB)",
        "UPDATE outlines SET id = substr(id, 2)",
        "INSERT INTO outlines SELECT 'nobody', setting, architecture, seal FROM outlines LIMIT 1",
    ],
)
def test_a_damaged_table_costs_time_and_no_run(statement: str, path: Path) -> None:
    before = board(path)
    run(path, statement)
    assert board(path) == before


def test_a_run_is_sealed_anew_whatever_happens_to_it(path: Path, tmp_path: Path) -> None:
    assert sealed(path)
    at = TWO.settings[0]
    with Store(path) as store:
        store.commit([record(at, 7e-3)])  # It failed before.
        ours = store.get(record(at, 7e-3).id)
        assert ours is not None and ours.status == "ok"
        store.relabel(ours, given="mine")
        export_records(store, tmp_path / "runs.jsonl")
        gone = store.find(ours.id)
        assert store.remove([gone]) == [gone]
        assert store._rows("SELECT count(*) FROM outlines") == store._rows("SELECT count(*) FROM runs")
        assert store.merge(read_records(tmp_path / "runs.jsonl")).added == 1
        assert store._rows("SELECT count(*) FROM outlines") == store._rows("SELECT count(*) FROM runs")
    assert sealed(path)


def test_a_store_of_an_older_version_is_read_as_it_is_and_brought_up_by_a_writer(path: Path) -> None:
    before = board(path)
    old = older(path).read_bytes()
    assert board(path) == before and path.read_bytes() == old
    with Store(path) as store:
        assert store._rows("PRAGMA user_version") == [(database.SCHEMA,)]
    assert sealed(path) and board(path) == before


def test_what_an_older_version_damaged_is_not_sealed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (id,) = run(older(path), "SELECT id FROM runs ORDER BY rowid LIMIT 1")[0]
    run(
        path,
        "UPDATE runs SET record = replace(record, '\"micro\":0.5,', '\"micro\":0.2501,') WHERE id = ?",
        values=(id,),
    )
    Store(path).close()
    assert len(board(path).architectures) == 3
    assert f"run {id} in store {path} cannot be understood" in caplog.text


def test_a_store_is_brought_up_whole_or_not_at_all(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    older(path)

    def broken(db: sqlite3.Connection, record: Record, text: bytes) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("mad.store.outlines.write", broken)
    with pytest.raises(ValueError, match="no space left"):
        Store(path)
    assert run(path, "PRAGMA user_version") == [(3,)]
    assert not run(path, "SELECT 1 FROM sqlite_master WHERE name = 'outlines'")
    monkeypatch.undo()
    monkeypatch.setattr(database, "MANY", 39)
    Store(path).close()
    assert "is brought to a new version, once: 39 runs to be read" in caplog.text and sealed(path)


@pytest.mark.parametrize("command", ["show", "rm"])
def test_a_run_that_is_named_by_its_id_is_the_only_one_read(
    command: str, path: Path, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(path, read_only=True) as store:
        id = store.records()[5].id
    read = []

    def understood(kind: Any, text: bytes) -> Any:
        read.append(text)
        return whole(kind, text)

    whole = entry.understood
    monkeypatch.setattr(entry, "understood", understood)
    status, out, err = cli(command, id[:8], *(["--dry-run"] if command == "rm" else []), "--store", path)
    assert status == 0 and id in out and len(read) == 1, err
