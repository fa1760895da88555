"""Engines give the same records, and a group that goes wrong ends as one."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from mad.api import execute, prepare
from mad.data.records import Record
from mad.messages import Failed
from mad.run.engines import choose
from mad.run.place import find_place
from mad.run.workers import pool
from mad.run.workers.pool import slots
from mad.store import Store

LAYERS = '''
import os, sys, time
from torch import nn


class Layer(nn.Module):
    """Acts when it is called as in training, as a check does, or only where a gradient is asked for."""

    def __init__(self, dim):
        super().__init__()
        self.map = nn.Linear(dim, dim)

    def forward(self, x):
        y = self.map(x)
        if self.training and os.environ.get("MISBEHAVE") == "checked":
            self.act()
        if y.requires_grad:
            y.register_hook(lambda gradient: self.act())
        return y

    def act(self):
        pass


class Good(Layer):
    pass


class Quits(Layer):
    def act(self):
        os._exit(0)


class Killed(Layer):
    def act(self):
        os.kill(os.getpid(), 9)


class Floods(Layer):
    def act(self):
        while True:
            print("words without end " * 100)


class Hangs(Layer):
    def act(self):
        time.sleep(10000)


class Exits(Layer):
    def act(self):
        sys.exit(3)


class Raises(Layer):
    def act(self):
        print("last words")
        raise RuntimeError("boom")


class Starts(Layer):
    """Leaves a program behind, and its number."""

    def act(self):
        import subprocess
        started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(10000)"])
        with open(os.environ["STARTED"], "a") as file:
            file.write(f"{started.pid} {os.getpid()}\\n")
        os._exit(7)
'''
WORDS = {
    "Quits": "its process ended with status 0",
    "Killed": "its process was ended by SIGKILL",
    "Floods": "it printed more than 16 MiB",
    "Hangs": "it took more than 20 s",
    "Exits": "SystemExit: 3",
    "Raises": "RuntimeError: boom",
}


@pytest.fixture
def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "layers_of_an_engine.py").write_text(LAYERS)
    monkeypatch.syspath_prepend(tmp_path)
    return "layers_of_an_engine"


def run(store: Path | None, specs: list[str], engine: str, tasks: list[str], **options: Any) -> list[Record]:
    prepared = prepare(specs, suite="smoke", protocol="sound", device="cpu", tasks=tasks)
    return execute(prepared, store=store, engine=engine, workers=2, **options)[0]


def results(records: list[Record]) -> dict[str, Any]:
    """What must not depend on the engine."""
    return {record.id: (record.status, record.metrics, record.group, record.given) for record in records}


TASKS = ["in-context-recall", "compression"]
SPECS = ["2*(mh-attention swiglu)", "mamba", "gated-delta-net moe-mlp"]


@pytest.fixture
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("engine", ["process", pytest.param("ray", marks=pytest.mark.slow)])
def test_every_engine_gives_the_records_of_one_thread(engine: str, tmp_path: Path, one_thread: None) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    alone = run(tmp_path / "alone.sqlite", SPECS, "inline", TASKS)
    found = run(tmp_path / "found.sqlite", SPECS, engine, TASKS)
    assert results(found) == results(alone) and len(alone) == 2 * len(SPECS) * len(TASKS)
    assert {record.environment["threads"] for record in found} == {1}
    with Store(tmp_path / "found.sqlite", read_only=True) as opened:
        assert results(opened.records()) == results(alone)
    again = run(tmp_path / "found.sqlite", SPECS, engine, TASKS)
    assert sorted(again, key=lambda r: r.id) == sorted(
        opened_records(tmp_path / "found.sqlite"), key=lambda r: r.id
    )


def opened_records(path: Path) -> list[Record]:
    with Store(path, read_only=True) as opened:
        return opened.records()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["checked", "trained"])
def test_a_group_that_goes_wrong_is_tried_twice_and_recorded_and_the_others_go_on(
    when: str, layers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISBEHAVE", when)
    store = tmp_path / "s.sqlite"
    specs = [f"{layers}:{name}" for name in ["Good", *WORDS]]
    run(store, specs, "process", ["compression"], cell_timeout=20)
    found = opened_records(store)
    assert len(found) == 2 * len(specs)
    for record in found:
        name = record.given.partition(":")[2]
        if name == "Good":
            assert record.status == "ok"
            continue
        assert record.status == "failed" and WORDS[name] in str(record.error), record.error
        assert record.attempts == (2 if when == "trained" else 1)


@pytest.mark.slow
def test_what_a_layer_started_ends_with_its_worker(
    layers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    run(tmp_path / "s.sqlite", [f"{layers}:Starts"], "process", ["compression"])
    for line in (tmp_path / "started").read_text().splitlines():
        for number in map(int, line.split()):
            assert not alive(number)


def alive(number: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{number}/status").read_text()
    except FileNotFoundError:
        return False


def bench(store: Path, *words: str) -> subprocess.Popen[str]:
    """`mad bench` of two architectures on two tasks, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "mad.cli", "bench", *SPECS[:2], "--suite", "smoke", "--workers", "2"]
        + ["--tasks", ",".join(TASKS), "--store", str(store), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def children(number: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    try:
        found = [
            int(n)
            for task in Path(f"/proc/{number}/task").iterdir()
            for n in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return found + [number for child in found for number in children(child)]


def gone(numbers: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(map(alive, numbers)):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["process", "ray"])
@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_after_kills_at_random_instants_every_group_stands_once_with_the_same_numbers(
    engine: str, victim: str, tmp_path: Path, one_thread: None
) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    alone = run(tmp_path / "alone.sqlite", SPECS[:2], "inline", TASKS)
    drawn, store = random.Random(len(engine + victim)), tmp_path / "killed.sqlite"
    for _ in range(6):
        running = bench(store, "--engine", engine)
        end = time.monotonic() + drawn.uniform(0.5, 12.0)
        while running.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        others = children(running.pid)
        with contextlib.suppress(ProcessLookupError):
            if victim == "driver":
                running.kill()
            elif others:
                os.kill(drawn.choice(others), signal.SIGKILL)
        _, err = running.communicate(timeout=300)
        assert running.returncode in (0, 1, -signal.SIGKILL), err
        assert engine == "ray" or gone(others, 20.0)
    said = bench(store, "--engine", engine).communicate(timeout=300)
    assert "failed" not in said[1], said
    found = opened_records(store)
    assert results(found) == results(alone) and len(found) == len(alone)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_leaves_a_clean_store_and_no_process(
    name: str, layers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISBEHAVE", "trained")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    store = tmp_path / "s.sqlite"
    running = bench(store, f"{layers}:Hangs", "--engine", "process")
    while len(opened_if_there(store)) < 8:  # All but those that hang.
        time.sleep(0.2)
        assert running.poll() is None
    others = children(running.pid)
    running.send_signal(getattr(signal, name))
    _, err = running.communicate(timeout=60)
    assert (
        running.returncode == 128 + getattr(signal, name)
        and "interrupted; what was finished is stored" in err
    )
    assert others and gone(others, 10.0)
    statuses = [record.status for record in opened_records(store)]
    assert statuses.count("ok") == 8 and set(statuses) <= {"ok", "interrupted"} and "interrupted" in statuses


def opened_if_there(path: Path) -> list[Record]:
    try:
        return opened_records(path)
    except ValueError:
        return []


@pytest.mark.slow
def test_layers_of_the_program_itself_run_in_the_driver_and_need_no_guard(tmp_path: Path) -> None:
    """No worker imports the program: it would start itself again."""
    script = tmp_path / "program.py"
    script.write_text(
        """
import mad
from torch import nn
from architectures import Primitive
from architectures.registry import primitive

@primitive("of-the-program", mixes="time")
class OfTheProgram(Primitive):
    def __init__(self, config, *, dim, max_len, index=0, depth=1):
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.map = nn.Linear(dim, dim)
    def forward(self, x, ctx=None):
        return self.map(x)
    def flops(self, length):
        return 0
    def uncounted_flops(self, length):
        return 0

print("started")
asked = {"suite": "smoke", "tasks": ["compression"], "device": "cpu", "workers": 2}
print(len(mad.bench(["of-the-program", "mamba"], engine="process", **asked)), "rows")
"""
    )
    own = {"MAD_STORE": str(tmp_path / "s.sqlite"), "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [sys.executable, str(script)], env=os.environ | own, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["started", "2 rows"]
    assert {record.status for record in opened_records(tmp_path / "s.sqlite")} == {"ok"}


def test_workers_that_cannot_start_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pool, "START", "import sys; print('no such luck', file=sys.stderr); sys.exit(9)")
    with pytest.raises(
        Failed, match="(?s)3 workers ended before they were ready: no such luck.*status 9.*--engine inline"
    ):
        run(tmp_path / "s.sqlite", ["swiglu"], "process", ["compression"])


def test_processes_pay_where_there_are_cores_and_work(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = find_place("cpu")
    asked: dict[str, Any] = {"protocol": "sound", "device": "cpu"}
    small = prepare("mamba", suite="smoke", **asked).groups
    large = prepare("mamba", suite="quick", **asked).groups
    monkeypatch.setattr(pool, "cores", lambda: 4)
    assert choose(small, None, cpu) == "inline" and choose(large, None, cpu) == "process"
    assert (
        choose(large[:1], None, cpu) == "inline"
        and slots(cpu, None) == ["cpu"] * 4
        and slots(cpu, 3) == ["cpu"] * 3
    )
    monkeypatch.setattr(pool, "cores", lambda: 1)
    assert choose(large, None, cpu) == "inline"


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"cell_timeout": 0}, {"engine": "proces"}])
def test_what_no_engine_takes_is_refused_before_any_work(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1|more than 0|did you mean 'process'"):
        execute(
            prepare("swiglu", suite="smoke", protocol="sound", device="cpu"),
            store=tmp_path / "s.sqlite",
            **wrong,
        )
    assert not (tmp_path / "s.sqlite").exists()
