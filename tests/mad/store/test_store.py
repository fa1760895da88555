import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from mad.data.records import Record, Status
from mad.store import database as module
from mad.store.exchange import export_records, read_records
from mad.store.location import network_file_system
from mad.store.store import ImportReport, Store, default_path
from tests.mad.records import TWO, group, imported, record, records_in

AT = TWO.settings[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "store.sqlite"


DATES = ("2027-01-01", "2026-01-01", "2026-01-01")


def lines(*records: Record) -> str:
    return "".join(f"{r.model_dump_json()}\n" for r in records)


def test_a_group_comes_back_as_it_was_stored(path: Path) -> None:
    runs = group(AT, 0.5, 0.6)
    with Store(path) as store:
        store.commit(runs)
        assert store.get(runs[1].id) == runs[1]
        assert store.get("nothing") is None
    with Store(path, read_only=True) as store:
        assert len(store.records()) == 2
        assert {r.id: r for r in store.records()} == {r.id: r for r in runs}


def test_records_are_sorted_by_time_then_id(path: Path) -> None:
    late, *early = (record(AT, lr, created=when) for lr, when in zip((1e-3, 2e-3, 3e-3), DATES, strict=True))
    with Store(path) as store:
        store.commit([late, *early])
        assert store.records() == [*sorted(early, key=lambda r: r.id), late]


def test_hits_are_finished_runs_and_stopped_ones_of_the_same_group_only(path: Path) -> None:
    statuses: tuple[Status, ...] = ("ok", "diverged", "stopped", "failed", "interrupted")
    runs = {
        status: record(AT, 1e-3 * (i + 1), status=status, group="mine") for i, status in enumerate(statuses)
    }
    ids = [r.id for r in runs.values()]
    with Store(path) as store:
        store.commit(runs.values())
        assert store.hits("mine", ids) == {runs[s].id: runs[s] for s in ("ok", "diverged", "stopped")}
        assert set(store.hits("other", ids)) == {runs["ok"].id, runs["diverged"].id}
        assert store.hits("mine", ["nothing"]) == {}


@pytest.mark.parametrize("old", ["ok", "diverged"])
@pytest.mark.parametrize("new", ["ok", "diverged", "stopped", "failed", "interrupted"])
@pytest.mark.parametrize("other_group", ["mine", "theirs"])
def test_a_result_is_never_overwritten(path: Path, old: Any, new: Any, other_group: str) -> None:
    first = record(AT, status=old, group="mine")
    with Store(path) as store:
        store.commit([first])
        with pytest.raises(ValueError, match=f"stored as '{old}', which is final"):
            store.commit([record(AT, status=new, group=other_group, test=0.9)])
        assert store.records() == [first]


@pytest.mark.parametrize("new", ["ok", "stopped", "diverged", "failed"])
def test_a_stopped_run_gives_way_to_another_group_only(path: Path, new: Any) -> None:
    with Store(path) as store:
        store.commit([record(AT, status="stopped", group="mine")])
        with pytest.raises(ValueError, match="'stopped', which is final"):
            store.commit([record(AT, status=new, group="mine")])
        theirs = record(AT, status=new, group="theirs")
        store.commit([theirs])
        assert store.records() == [theirs]


def test_a_failure_gives_way_to_the_next_attempt_which_is_counted(path: Path) -> None:
    with Store(path) as store:
        tries: tuple[Status, ...] = ("failed", "interrupted", "ok")
        for attempts, status in enumerate(tries, 1):
            run = record(AT, status=status)
            store.commit([run])
            found = store.get(run.id)
            assert found is not None and (found.status, found.attempts) == (status, attempts)


def test_attempts_beyond_what_a_record_may_count_do_not_cost_the_next_result(path: Path) -> None:
    with Store(path) as store:
        store.commit([record(AT, status="failed").model_copy(update={"attempts": 2**53})])
        run = record(AT, status="ok")
        store.commit([run])
        found = store.get(run.id)
        assert found is not None and (found.status, found.attempts) == ("ok", 2**53)


def test_one_refused_record_keeps_out_its_whole_group(path: Path) -> None:
    kept, other = record(AT, 1e-3), record(AT, 2e-3)
    with Store(path) as store:
        store.commit([kept])
        with pytest.raises(ValueError, match="final"):
            store.commit([other, kept])
        assert store.records() == [kept]


def test_a_record_must_be_what_it_says(path: Path) -> None:
    run = record(AT)
    broken = {
        "does not match its configuration": run.model_copy(update={"id": "0" * 20}),
        "'ok' but lacks its metrics": run.model_copy(update={"metrics": None}),
        "'diverged', and yet has a score": record(AT).model_copy(update={"status": "diverged"}),
    }
    with Store(path) as store:
        for message, bad in broken.items():
            with pytest.raises(ValueError, match=message):
                store.commit([bad])
        assert len(store.records()) == 0


def test_of_an_error_without_end_the_end_is_kept(path: Path) -> None:
    run = record(AT, status="failed").model_copy(update={"error": "x" * 10**7 + "the reason"})
    with Store(path) as store:
        store.commit([run])
        found = store.get(run.id)
    assert found is not None and found.error is not None
    assert len(found.error) < 70_000 and found.error.endswith("the reason")


def test_what_one_writes_another_reads_and_adds_to(path: Path) -> None:
    with Store(path) as first, Store(path, read_only=True) as reader:
        first.commit([record(AT)])
        assert len(reader.records()) == 1
        with Store(path) as second:
            second.commit([record(AT, 2e-3)])
        first.commit([record(AT, 3e-3)])
        assert len(reader.records()) == 3


def test_two_names_of_one_file_share_the_lock(path: Path, tmp_path: Path) -> None:
    alias = tmp_path / "alias.sqlite"
    alias.symlink_to(path)
    with Store(path) as store, Store(alias) as other:
        assert store.path == other.path


def test_a_reader_cannot_write(path: Path) -> None:
    Store(path).close()
    with Store(path, read_only=True) as store, pytest.raises(ValueError, match="read-only"):
        store.commit([record(AT)])


def test_a_missing_store_is_named_with_the_way_to_make_one(path: Path) -> None:
    with pytest.raises(ValueError, match=f"no store at {path}; run `mad bench` first, or pass --store"):
        Store(path, read_only=True)
    assert not path.parent.exists()


def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, and long enough to hold a header " * 10)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.close()
    before = text.read_bytes(), other.read_bytes()
    for read_only in (False, True):
        with pytest.raises(ValueError, match=r"notes.txt: .* it is not a store: pass another --store"):
            Store(text, read_only=read_only)
        with pytest.raises(ValueError, match="other.sqlite is a SQLite database, but no store of mad"):
            Store(other, read_only=read_only)
        with pytest.raises(ValueError, match="is a folder"):
            Store(tmp_path, read_only=read_only)
    assert (text.read_bytes(), other.read_bytes()) == before


def test_a_store_of_a_newer_version_is_refused(path: Path) -> None:
    Store(path).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {module.SCHEMA + 1}")
    db.close()
    for read_only in (False, True):
        with pytest.raises(ValueError, match=r"newer version \(schema 5, known is 4\); upgrade with"):
            Store(path, read_only=read_only)


def test_the_lock_is_free_after_a_refusal(tmp_path: Path) -> None:
    text = tmp_path / "store.sqlite"
    text.write_text("not a database " * 100)
    for _ in range(2):
        with pytest.raises(ValueError, match="is not a store"):
            Store(text)
    text.unlink()
    Store(text).close()


MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb /home/local\\040disk ext4 rw 0 0
host:/x /mnt/far fuse.sshfs rw 0 0
tmpfs /home/ram tmpfs rw 0 0
/dev/sdc /scratch/fast xfs rw 0 0
scratch /scratch lustre rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/root/store.sqlite", None),
        ("/home/ada/store.sqlite", "nfs4"),
        ("/homework/store.sqlite", None),
        ("/home/local disk/store.sqlite", None),
        ("/home/ram/store.sqlite", None),
        ("/mnt/far/deep/store.sqlite", "fuse.sshfs"),
        ("/scratch/me/store.sqlite", "lustre"),
        ("/scratch/fast/store.sqlite", None),
    ],
)
def test_the_deepest_mount_decides_whether_a_path_is_on_the_network(path: str, expected: str | None) -> None:
    assert network_file_system(Path(path), MOUNTS) == expected


def test_a_network_file_system_is_refused_for_writing_only(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(path) as store:
        store.commit([record(AT)])
    monkeypatch.setattr(module, "network_file_system", lambda path: "nfs4")
    with pytest.raises(
        ValueError, match=r"network file system \(nfs4\).*local disk.*`mad export` and `mad import`"
    ):
        Store(path)
    with Store(path, read_only=True) as store:
        assert len(store.records()) == 1
    path.with_name("store.sqlite-wal").write_bytes(b"not empty")
    with pytest.raises(ValueError, match="in use or was not closed"):
        Store(path, read_only=True)


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"MAD_STORE": "/x/my.sqlite", "XDG_DATA_HOME": "/data"}, "/x/my.sqlite"),
        ("linux", {"XDG_DATA_HOME": "/data"}, "/data/mad-suite/store.sqlite"),
        ("linux", {"MAD_STORE": ""}, "/h/.local/share/mad-suite/store.sqlite"),
        ("darwin", {}, "/h/Library/Application Support/mad-suite/store.sqlite"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/mad-suite/store.sqlite"),
    ],
)
def test_the_default_path_is_the_users(
    platform: str, environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MAD_STORE", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/h", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("mad.store.location.sys.platform", platform)
    assert default_path() == Path(expected)


# Commits groups of six; argv: the store, and the statement before which the process kills itself (0: never).
WRITER = """
import os, signal, sys
from mad.store import Store
from tests.mad.records import TWO, group, setting

at = setting("in-context-recall[vocab_size=8, seq_len=16]", lrs=(1e-4, 5e-4, 1e-3), weight_decays=(0.0, 0.1))
store, deadly, seen = Store(sys.argv[1]), int(sys.argv[2]), 0

def count(statement):
    global seen
    seen += statement.split()[0] in ("BEGIN", "INSERT", "COMMIT")
    if seen == deadly:
        os.kill(os.getpid(), signal.SIGKILL)

start = len(store.records()) // 6
store.commit(group(at, *[0.5] * 6, seed=start, group=f"seed {start}"))
if deadly:
    store._db.set_trace_callback(count)
print("ready", flush=True)
for seed in range(start + 1, 10**6):
    store.commit(group(at, *[0.5] * 6, seed=seed, group=f"seed {seed}"))
"""


def writer(path: Path, deadly: int) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), str(deadly)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def groups_in(path: Path) -> dict[str, int]:
    found = records_in(path)
    return {name: sum(r.group == name for r in found) for name in {r.group for r in found}}


# 1 BEGIN, 2 to 7 the six records, 8 COMMIT.
@pytest.mark.slow
@pytest.mark.parametrize("deadly", [2, 5, 7, 8])
def test_a_writer_killed_inside_a_transaction_leaves_whole_groups(path: Path, deadly: int) -> None:
    with writer(path, deadly) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert groups_in(path) == {"seed 0": 6}
    with writer(path, 0) as process:  # The dead one's lock is gone, and its store can be written again.
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_whole_groups(path: Path) -> None:
    stored = 0
    for turn in range(6):
        with writer(path.with_name(f"{turn}.sqlite"), 0) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            time.sleep(0.01 + 0.017 * turn)
            process.kill()
        counts = groups_in(path.with_name(f"{turn}.sqlite"))
        assert set(counts.values()) == {6}
        stored += len(counts)
    assert stored > 6


def test_what_is_exported_is_imported(path: Path, tmp_path: Path) -> None:
    runs = [*group(AT, 0.5, 0.6), record(AT, 5e-3, status="failed")]
    file = tmp_path / "runs.jsonl"
    with Store(path) as store:
        store.commit(runs)
        assert export_records(store, file) == 3
    ids = [json.loads(line)["id"] for line in file.read_text().splitlines()]
    assert ids == sorted(r.id for r in runs)
    with Store(tmp_path / "other.sqlite") as other:
        assert other.merge(read_records(file)) == ImportReport(added=3, known=0, replaced=0, conflicts=0)
        assert other.merge(read_records(file)) == ImportReport(added=0, known=3, replaced=0, conflicts=0)
        assert {r.id: r for r in other.records()} == {r.id: imported(r) for r in runs}
        again = tmp_path / "again.json"
        export_records(other, again)
    assert again.read_bytes() == file.read_bytes()


def test_an_export_is_whole_or_not_there_and_overwrites_only_when_told(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text("mine\n")
    with Store(path) as store:
        store.commit([record(AT)])
        with pytest.raises(ValueError, match="exists; choose another name, or replace it with --force"):
            export_records(store, file)

        def fails(descriptor: int) -> None:
            raise OSError("no space left")

        with monkeypatch.context() as broken, pytest.raises(OSError, match="no space left"):
            broken.setattr(os, "fsync", fails)
            export_records(store, file, overwrite=True)
        assert file.read_text() == "mine\n"
        assert export_records(store, file, overwrite=True) == 1
        with pytest.raises(
            ValueError, match=r"suffix '.jsnl'; did you mean '.jsonl'\? choose|suffix '.jsnl'"
        ):
            export_records(store, tmp_path / "runs.jsnl")
        with pytest.raises(ValueError, match="is in no folder; create"):
            export_records(store, tmp_path / "nowhere" / "runs.jsonl")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "runs.jsonl"]


def test_an_import_refuses_a_damaged_line_by_number_and_adds_nothing(path: Path, tmp_path: Path) -> None:
    good, bad = record(AT, 1e-3), record(AT, 2e-3)
    edited = bad.model_dump(mode="json")
    edited["config"]["lr"] = 5e-3
    unknown = bad.model_dump(mode="json") | {"bonus": 1}
    broken = {
        rf"line 3: id {bad.id} does not match its configuration": json.dumps(edited),
        "line 3: bonus: Extra inputs are not permitted": json.dumps(unknown),
        "line 3: Invalid JSON": '{"id": ',
        "line 3: config.lr: Input should be a finite number": lines(bad).replace('"lr":0.002', '"lr":NaN'),
        "line 3: metrics.validation.micro: .* less than": lines(bad).replace('"micro":0.5', '"micro":7.0'),
        "line 3: schema_version": lines(bad).replace('"schema_version":1', '"schema_version":2'),
    }
    file = tmp_path / "runs.jsonl"
    with Store(path) as store:
        for message, line in broken.items():
            file.write_text(lines(good) + "\n" + line)
            with pytest.raises(ValueError, match=f"runs.jsonl {message}"):
                store.merge(read_records(file))
            assert len(store.records()) == 0
        with pytest.raises(ValueError, match="is not a file"):
            store.merge(read_records(tmp_path / "missing.jsonl"))


def test_an_import_keeps_ours_unless_theirs_says_more(path: Path, tmp_path: Path) -> None:
    def run(i: int, status: Any, test: float = 0.5) -> Record:
        return record(AT, 1e-3 * (i + 1), status=status, test=test)

    ours = [run(0, "ok"), run(1, "failed"), run(2, "stopped"), run(3, "ok"), run(4, "failed"), run(5, "ok")]
    theirs = [
        run(0, "ok", 0.7),
        run(1, "ok"),
        run(2, "diverged"),
        run(3, "failed"),
        run(4, "failed"),
        run(5, "ok"),
    ]
    file = tmp_path / "runs.jsonl"
    file.write_text(lines(*theirs))
    with Store(path) as store:
        store.commit(ours)
        assert store.merge(read_records(file)) == ImportReport(added=0, known=4, replaced=2, conflicts=1)
        assert store.merge(read_records(file)).conflicting == (ours[0].id,)
        expected = [ours[0], imported(theirs[1]), imported(theirs[2]), ours[3], ours[4], ours[5]]
        assert [store.get(r.id) for r in ours] == expected
        assert store.merge(read_records(file)) == ImportReport(added=0, known=6, replaced=0, conflicts=1)


def test_an_import_runs_no_code(path: Path, tmp_path: Path) -> None:
    who = record(AT).config.architecture.model_copy(update={"spec": "antigravity:fly"})
    file = tmp_path / "runs.jsonl"
    file.write_text(lines(record(AT, who=who)))
    with Store(path) as store:
        assert store.merge(read_records(file)).added == 1
    assert "antigravity" not in sys.modules


def test_parquet_says_what_it_needs(path: Path, tmp_path: Path) -> None:
    with Store(path) as store:
        store.commit(group(AT, 0.5, 0.6))
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "pyarrow", None)
            with pytest.raises(ValueError, match="`pip install pyarrow`"):
                export_records(store, tmp_path / "runs.parquet")
            assert [p.name for p in tmp_path.iterdir()] == ["new"]
        assert export_records(store, tmp_path / "runs.parquet") == 2
        expected = store.records()
    with Store(tmp_path / "other.sqlite") as other:
        assert other.merge(read_records(tmp_path / "runs.parquet")).added == 2
        assert other.records() == list(map(imported, expected))
        (tmp_path / "bad.parquet").write_bytes(b"PAR1 but not really")
        with pytest.raises(ValueError, match="bad.parquet cannot be read"):
            other.merge(read_records(tmp_path / "bad.parquet"))
