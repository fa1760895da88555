"""Several programs with one store: they wait for each other, and none loses or repeats what another did."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from mad.data.records import Record
from mad.run.battery import execute, prepare
from mad.run.sweep import Group
from mad.run.watching import Watchers
from mad.store import Store
from mad.store.exchange import export_records
from tests.mad.records import TWO, record, records_in
from tests.programs import go_on, program, says

AT = TWO.settings[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


# Holds the store for one transaction, until it is told to go on.
HOLDER = """
with Store(sys.argv[1]) as store, store._transaction():
    print("held", flush=True)
    sys.stdin.readline()
    store._put(record(AT))
print("done", flush=True)
sys.stdin.readline()
"""


def test_many_drivers_write_the_same_groups_at_once_and_each_stands_once(path: Path) -> None:
    """They make the store together, too."""
    code = """
    print("ready", flush=True)
    sys.stdin.readline()
    own = int(sys.argv[2])
    store = Store(sys.argv[1])
    for i in range(40):
        seed = (i * (2 * own + 1) + own) % 40
        store.commit(group(AT, 0.5, 0.625, seed=seed), once=True)
        store.commit([record(AT, 5e-3, seed=100 + own, status="failed")], once=True)
    """
    with contextlib.ExitStack() as stack:
        drivers = [stack.enter_context(program(code, path, own)) for own in range(3)]
        for driver in drivers:
            says(driver, "ready")
        for driver in drivers:
            go_on(driver)
        for driver in drivers:
            _, err = driver.communicate(timeout=120)
            assert driver.returncode == 0, err
    found = records_in(path)
    assert sorted((r.config.seed, r.config.lr) for r in found if r.status == "ok") == [
        (seed, lr) for seed in range(40) for lr in AT.lrs
    ]
    assert {r.config.seed: r.attempts for r in found if r.status == "failed"} == {100: 40, 101: 40, 102: 40}


def test_a_writer_waits_for_another(path: Path) -> None:
    waiting = """
    print("ready", flush=True)
    with Store(sys.argv[1]) as store:
        store.commit([record(AT)], once=True)
        store.commit([record(AT, 2e-3)])
    """
    with contextlib.ExitStack() as stack:
        holder = stack.enter_context(program(HOLDER, path))
        says(holder, "held")
        other = stack.enter_context(program(waiting, path))
        says(other, "ready")
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(1.0)
        go_on(holder)
        _, err = other.communicate(timeout=60)
        assert other.returncode == 0, err
    assert len(records_in(path)) == 2


def test_who_holds_the_store_too_long_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mad.store.lock.WAIT", 0.1)
    with Store(path) as store, program(HOLDER, path, "a", "word") as holder:
        says(holder, "held")
        for write in (lambda: store.commit([record(AT)]), lambda: Store(path)):
            with pytest.raises(
                ValueError,
                match=rf"store {path} has been held for 0.1 s by process {holder.pid} \(-c .*a word\)",
            ) as refusal:
                write()
            assert "wait for it to end, or pass another --store and merge later" in str(refusal.value)
        with Store(path, read_only=True) as reader:
            assert reader.records() == []
        holder.kill()
        holder.wait()
        store.commit([record(AT, 2e-3)])  # What died holds nothing, and wrote nothing.
    assert [r.config.lr for r in records_in(path)] == [2e-3]


def test_a_group_belongs_to_who_claimed_it_until_he_lets_go_or_dies(path: Path) -> None:
    code = """
    store = Store(sys.argv[1])
    print(store.claim("a" * 20), store.claim("b" * 20), flush=True)
    sys.stdin.readline()
    store.release("a" * 20)
    store.commit([record(AT)])
    print("released", flush=True)
    sys.stdin.readline()
    """
    with Store(path) as store, program(code, path) as other:
        says(other, "True True")
        assert not store.claim("a" * 20) and not store.claim("b" * 20) and store.claim("c" * 20)
        store.commit([record(AT, 2e-3)])  # That a group is claimed keeps nobody from writing.
        go_on(other)
        says(other, "released")
        assert store.claim("a" * 20) and not store.claim("b" * 20)
        other.kill()
        other.wait()
        assert store.claim("b" * 20)
    assert len(records_in(path)) == 2


def test_a_store_that_another_has_open_is_not_discarded(path: Path) -> None:
    code = """
    store = Store(sys.argv[1])
    print("open", flush=True)
    sys.stdin.readline()
    store.commit([record(AT)])
    """
    mine = Store(path)
    with program(code, path) as other:
        says(other, "open")
        mine.discard()
        go_on(other)
        _, err = other.communicate(timeout=60)
        assert other.returncode == 0, err
    assert len(records_in(path)) == 1
    Store(path).discard()
    assert len(records_in(path)) == 1
    alone = path.with_name("alone.sqlite")
    Store(alone).discard()
    assert not [name for name in os.listdir(path.parent) if name.startswith("alone")]


def test_a_lock_file_that_is_removed_by_hand_is_made_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(path) as store:
        path.with_name("store.sqlite.lock").unlink()
        with program(HOLDER, path) as holder:
            says(holder, "held")
            with (
                monkeypatch.context() as patch,
                pytest.raises(ValueError, match="has been held for 0.1 s by"),
            ):
                patch.setattr("mad.store.lock.WAIT", 0.1)
                store.commit([record(AT, 2e-3)])
            go_on(holder)
            store.commit([record(AT, 2e-3)])
            says(holder, "done")
    assert len(records_in(path)) == 2


def test_what_changed_meanwhile_is_not_removed(path: Path) -> None:
    failed, other = record(AT, status="failed"), record(AT, 2e-3, status="failed")
    with Store(path) as store, Store(path) as second:
        store.commit([failed, other])
        entries = store.entries()
        second.commit([record(AT)])
        assert [entry.id for entry in store.remove(entries)] == [other.id]
        assert [(r.id, r.status) for r in store.records()] == [(failed.id, "ok")]


def test_a_label_goes_to_the_result_that_is_stored_by_then(path: Path) -> None:
    failed = record(AT, status="failed")
    with Store(path) as store, Store(path) as second:
        store.commit([failed])
        second.commit([record(AT)])
        assert store.relabel(failed, given="mine").status == "ok"
        (found,) = store.records()
        assert (found.status, found.given) == ("ok", "mine")


# `mad bench` that writes down which groups it runs. The first waits until two drivers are at work, or hangs.
DRIVER = """
import time
import mad.cli
from mad.run.engines import inline

log, run_group = sys.argv.pop(1), inline.run_group

def read():
    with open(log) as file:
        return file.read().split()

def logged(group, **options):
    with open(log, "a") as file:
        file.write(f"{os.getpid()}/{group.id}\\n")
    while len({line.split("/")[0] for line in read()}) < 2 or "HANG" in os.environ:
        time.sleep(0.05)
    return run_group(group, **options)

inline.run_group = logged
mad.cli.main()
"""


def driver(path: Path) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    words = ["bench", "swiglu", "--suite", "smoke", "--tasks", "compression,memorization", "--seeds", "2"]
    place = ["--device", "cpu", "--engine", "inline", "--store", path]
    return program(DRIVER, path.with_name("log"), *words, *place)


def lines(path: Path) -> list[str]:
    log = path.with_name("log")
    return log.read_text().split() if log.exists() else []


@pytest.mark.slow
def test_drivers_of_one_command_divide_its_groups(path: Path) -> None:
    with driver(path) as first, driver(path) as second:
        for each in (first, second):
            out, err = each.communicate(timeout=300)
            assert each.returncode == 0, err
            assert "2 seeds" in out and "[4/4]" in err, "each has the whole board"
    ran = [line.split("/") for line in lines(path)]
    assert len(ran) == len({group for _, group in ran}) == 4
    assert {number for number, _ in ran} == {str(first.pid), str(second.pid)}
    assert len(records_in(path)) == 8 and {r.attempts for r in records_in(path)} == {1}


@pytest.mark.slow
def test_what_a_killed_driver_had_begun_another_one_takes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("HANG", "yes")
        first = stack.enter_context(driver(path))
        patch.undo()
        while not lines(path):
            time.sleep(0.1)
            assert first.poll() is None
        second = stack.enter_context(driver(path))
        assert second.stderr is not None
        while "another driver of this store runs 1 group of these" not in second.stderr.readline():
            assert second.poll() is None
        first.kill()
        _, err = second.communicate(timeout=300)
        assert second.returncode == 0, err
    assert len(records_in(path)) == 8 and {r.status for r in records_in(path)} == {"ok"}
    numbers = [line.split("/")[0] for line in lines(path)]
    assert numbers.count(str(first.pid)) == 1 and numbers.count(str(second.pid)) == 4


# Has claimed a group, and stores what a file holds of it once it is told to.
OTHER = """
from mad.store.exchange import read_records

with Store(sys.argv[1]) as store:
    print(store.claim(sys.argv[2]), flush=True)
    sys.stdin.readline()
    store.commit(run for run in read_records(sys.argv[3]) if run.group == sys.argv[2])
"""


@pytest.mark.slow
def test_workers_leave_to_another_driver_what_it_runs(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tasks = ["compression", "memorization"]
    prepared = prepare("swiglu", suite="smoke", protocol="sound", device="cpu", tasks=tasks, seeds=2)
    groups = prepared.groups
    execute(prepared, store=path.with_name("alone.sqlite"), engine="inline")
    with Store(path.with_name("alone.sqlite")) as alone:
        export_records(alone, path.with_name("runs.jsonl"))
    ended: list[str] = []
    with program(OTHER, path, groups[0].id, path.with_name("runs.jsonl")) as other:
        says(other, "True")

        class Listening(Watchers):
            def ended(self, group: Group, records: list[Record]) -> None:
                ended.append(group.id)
                if len(ended) == 3:
                    go_on(other)

        execute(prepared, store=path, engine="process", workers=2, watcher=Listening())
    assert set(ended[:3]) == {group.id for group in groups[1:]} and ended[3:] == [groups[0].id]
    assert "another driver of this store runs 1 group of these" in caplog.text
    assert len(records_in(path)) == 8 and {r.attempts for r in records_in(path)} == {1}


@pytest.mark.slow
def test_of_two_drivers_that_are_killed_at_random_every_group_stands_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # As the workers have it.
    tasks = ["compression", "memorization"]
    prepared = prepare("swiglu", suite="smoke", protocol="sound", device="cpu", tasks=tasks, seeds=4)
    alone = execute(prepared, engine="process", store=path.with_name("alone.sqlite"))[0]
    words = ["swiglu", "--suite", "smoke", "--tasks", ",".join(tasks), "--seeds", "4", "--device", "cpu"]
    bench = "import mad.cli; sys.argv[0] = 'mad'; mad.cli.main()"
    drawn = random.Random(5)
    for turn in range(4):
        engine = ("inline", "process")[turn % 2]
        with contextlib.ExitStack() as stack:
            drivers = [
                stack.enter_context(program(bench, "bench", *words, "--engine", engine, "--store", path))
                for _ in range(2)
            ]
            deadline = time.monotonic() + drawn.uniform(3.0, 9.0)
            while time.monotonic() < deadline and any(driver.poll() is None for driver in drivers):
                time.sleep(0.05)
    with program(bench, "bench", *words, "--engine", "inline", "--store", path) as last:
        _, err = last.communicate(timeout=300)
        assert last.returncode == 0, err
    found = {run.id: (run.status, run.metrics, run.group) for run in records_in(path)}
    assert found == {run.id: (run.status, run.metrics, run.group) for run in alone}
    assert len(records_in(path)) == len(alone) == 16
