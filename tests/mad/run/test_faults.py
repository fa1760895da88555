"""Whatever a layer, a signal or the system does: the store is clean, nothing runs on, a repeat completes."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import resource
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mad.data.records import Record
from mad.run.sweep import Group
from mad.run.watching import Watchers
from mad.run.workers.process import Process
from tests.mad.run.processes import Run, alive, below, called, catches, mad
from tests.mad.run.sweeps import SPECS, TASKS, opened_records, results, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at /proc"),
]

LAYERS = '''
import multiprocessing, os, posix, subprocess, sys, time
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


class Vanishes(Layer):
    def act(self):
        posix._exit(0)


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


class Stops(Layer):
    def act(self):
        os.kill(os.getpid(), 19)


class Exits(Layer):
    def act(self):
        sys.exit(3)


class Raises(Layer):
    def act(self):
        print("last words")
        raise RuntimeError("boom")


class Babbles(Layer):
    """No text, and more of it than anybody reads."""

    def act(self):
        os.write(1, bytes(range(128, 256)))
        raise RuntimeError("x" * 10**6 + "\\udcff")


class Forks(Layer):
    def act(self):
        os.fork()


class Starts(Layer):
    """Leaves programs behind, one in a session of its own and without a mark."""

    def act(self):
        sleep = [sys.executable, "-c", "import time; time.sleep(10000)"]
        left = [subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True, env={})]
        left.append(multiprocessing.get_context("fork").Process(target=time.sleep, args=(10000,)))
        left[-1].start()
        with open(os.environ["STARTED"], "a") as file:
            file.write(" ".join(str(one.pid) for one in left) + f" {os.getpid()} {os.getppid()}\\n")
        posix._exit(7)
'''
WORDS = {
    "Quits": "os._exit(0) is refused here",
    "Vanishes": "its process ended with status 0",
    "Killed": "its process was killed (SIGKILL), perhaps because the system ran out of memory",
    "Floods": "it printed more than 16 MiB",
    "Hangs": "it took more than 10 s",
    "Stops": "it took more than 10 s",
    "Exits": "SystemExit: 3",
    "Raises": "RuntimeError: boom",
    "Babbles": "xxxxx",
    "Forks": "os.fork() is refused here",
    "Starts": "its process ended with status 7",
}


def bench(store: Path, *words: str, env: dict[str, str] | None = None) -> Run:
    """`mad bench` of two architectures on two tasks."""
    asked = ["bench", *SPECS[:2], "--suite", "smoke", "--workers", "2", "--tasks", ",".join(TASKS)]
    return Run(mad(*asked, "--store", str(store), *words), env)


@pytest.fixture
def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "layers_of_an_engine.py").write_text(LAYERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    return "layers_of_an_engine"


@dataclass
class Undisturbed:
    """What a run gives that nothing disturbs, and the seconds that it takes with two workers."""

    results: dict[str, Any]
    seconds: float

    def completes(self, store: Path) -> None:
        """Whole groups stand in the store. A repeat completes them, and their numbers are the same."""
        groups = collections.Counter(record.group for record in opened_if_there(store))
        assert set(groups.values()) <= {2}
        run(store, SPECS[:2], "inline", TASKS)
        found = opened_records(store)
        assert len(found) == len(self.results) and results(found) == self.results


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    store = tmp_path_factory.mktemp("undisturbed") / "s.sqlite"
    running = bench(store, "--engine", "process")
    assert running.end()[0] == 0
    return Undisturbed(results(opened_records(store)), running.seconds)


def opened_if_there(path: Path) -> list[Record]:
    try:
        return opened_records(path)
    except ValueError:
        return []


@pytest.mark.parametrize("when", ["checked", "trained"])
def test_a_group_that_goes_wrong_is_tried_twice_and_recorded_and_the_others_go_on(
    when: str, layers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISBEHAVE", when)
    store = tmp_path / "s.sqlite"
    names = list(WORDS) if when == "trained" else ["Killed", "Hangs", "Quits", "Starts"]
    specs = [f"{layers}:{name}" for name in ["Good", *names]]
    run(store, specs, "process", ["compression"], cell_timeout=10)
    found = opened_records(store)
    assert len(found) == 2 * len(specs)
    for record in found:
        name = record.given.partition(":")[2]
        if name == "Good":
            assert record.status == "ok"
            continue
        assert record.status == "failed" and WORDS[name] in str(record.error), record.error
        assert record.attempts == (2 if when == "trained" else 1)
        assert len(str(record.error)) < 2**17
    started = [line.split() for line in (tmp_path / "started").read_text().splitlines()]
    assert len(started) == 2 and not any(alive(int(number)) for line in started for number in line)
    shown = next(record.id for record in found if record.given.endswith("Killed"))
    told = subprocess.run(mad("show", shown, "--store", str(store)), capture_output=True, text=True)
    assert "Ended: its process was killed (SIGKILL), perhaps because the system ran out" in told.stdout


def test_workers_end_at_once_where_the_program_gives_up(tmp_path: Path) -> None:
    """Not when its error is forgotten, which may be never."""

    class GivesUp(Watchers):
        def ended(self, group: Group, records: list[Record]) -> None:
            raise LookupError("of the program")

    with pytest.raises(LookupError) as raised:
        run(tmp_path / "s.sqlite", SPECS[:2], "process", TASKS, watcher=GivesUp())
    assert not [number for number in below(os.getpid()) if "keeper" in called(number)]
    assert raised.value.__traceback__ is not None


def test_a_layer_that_ends_the_program_fails_the_run_of_mad_train(layers: str, tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"
    words = ["train", f"{layers}:Quits", "compression[seq_len=8]", "--examples", "64", "--store", str(store)]
    told = subprocess.run(mad(*words), capture_output=True, text=True)
    assert told.returncode == 1 and "os._exit(0) is refused here" in told.stderr
    assert [record.status for record in opened_records(store)] == ["failed"]


def instants(count: int, seed: str) -> list[float]:
    """Shares of a run's time, drawn one from each of as many parts of it."""
    drawn = random.Random(seed)
    return [(part + drawn.random()) / count for part in range(count)]


@pytest.mark.parametrize("share", instants(8, "driver"), ids="{:.2f}".format)
def test_a_driver_that_is_killed_leaves_whole_groups_and_no_process(
    share: float, tmp_path: Path, one_thread: None, undisturbed: Undisturbed
) -> None:
    store = tmp_path / "s.sqlite"
    running = bench(store, "--engine", "process")
    running.watch_for(share * undisturbed.seconds)
    running.process.kill()
    running.end()
    assert not running.left()
    undisturbed.completes(store)


@pytest.mark.parametrize("first", instants(4, "worker"), ids="{:.2f}".format)
def test_workers_and_keepers_that_are_killed_are_replaced(
    first: float, tmp_path: Path, one_thread: None, undisturbed: Undisturbed
) -> None:
    drawn, store = random.Random(first), tmp_path / "s.sqlite"
    running = bench(store, "--engine", "process")
    for share in (first, first + drawn.uniform(0.0, 0.5)):
        if running.watch_for(share * undisturbed.seconds) and running.watch(lambda: bool(running.below())):
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(drawn.choice(running.below()), signal.SIGKILL)
    status, _, err = running.end()
    # The same group may have been hit twice.
    assert status == 0 or "failed: Ended: its process was killed (SIGKILL)" in err, err
    assert not running.left()
    undisturbed.completes(store)


SIGNALS = [
    pytest.param(name, whole, share, id=f"{name}-{whole}")
    for (name, whole), share in zip(
        [(name, whole) for name in ("SIGINT", "SIGTERM", "SIGHUP") for whole in ("driver", "group")],
        random.Random("order").sample(instants(6, "signal"), 6),
        strict=True,
    )
]


@pytest.mark.parametrize(("name", "whole", "share"), SIGNALS)
def test_a_signal_ends_it_with_one_line(
    name: str, whole: str, share: float, tmp_path: Path, one_thread: None, undisturbed: Undisturbed
) -> None:
    store, number = tmp_path / "s.sqlite", getattr(signal, name)
    running = bench(store, "--engine", "process")
    # Before, Python itself starts, in its own way.
    assert running.watch(lambda: catches(running.process.pid, signal.SIGTERM))
    if running.watch_for(share * undisturbed.seconds):  # else it was faster
        (os.killpg if whole == "group" else os.kill)(running.process.pid, number)
    status, _, err = running.end()
    assert not running.left()
    said = [line for line in err.splitlines() if line.startswith("mad: ")]
    if "[4/4]" not in err:  # else it was done
        assert status == 128 + number, (status, err)
        # Before the command is read, nobody knows that it has a store.
        done = (
            "what was finished is stored" if store.exists() or "nothing" not in err else "nothing was written"
        )
        assert said == [f"mad: interrupted; {done}, run the same command to go on"], err
    assert "Traceback" not in err and "Exception ignored" not in err
    undisturbed.completes(store)


def test_what_ran_when_a_signal_came_is_recorded_as_interrupted(
    layers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISBEHAVE", "trained")
    store = tmp_path / "s.sqlite"
    running = bench(store, f"{layers}:Hangs", "--engine", "process")
    assert running.watch(lambda: len(opened_if_there(store)) == 8)  # All but those that hang.
    running.process.send_signal(signal.SIGINT)
    assert running.end()[0] == 130 and not running.left()
    statuses = [record.status for record in opened_records(store)]
    assert statuses.count("ok") == 8 and set(statuses) == {"ok", "interrupted"}


def test_a_disk_that_is_full_is_said_and_leaves_whole_groups(
    tmp_path: Path, one_thread: None, undisturbed: Undisturbed
) -> None:
    """The driver may write no more than it has written, as soon as it has stored something."""
    store = tmp_path / "s.sqlite"
    running = bench(store, "--engine", "process")
    assert running.watch(lambda: bool(opened_if_there(store)))
    log = store.with_name("s.sqlite-wal")
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (log.stat().st_size, log.stat().st_size))
    status, _, err = running.end()
    assert status == 2 and f"store {store}: " in err and "has space, and run it again" in err, err
    assert "Traceback" not in err and not running.left()
    undisturbed.completes(store)


def test_a_driver_without_standard_input_and_without_a_listener_goes_on(
    tmp_path: Path, one_thread: None, undisturbed: Undisturbed
) -> None:
    store = tmp_path / "s.sqlite"
    words = bench_words = mad("bench", *SPECS[:2], "--suite", "smoke", "--tasks", ",".join(TASKS))
    words = [
        "sh",
        "-c",
        'exec "$@" <&- 2>&-',
        "sh",
        *bench_words,
        "--engine",
        "process",
        "--store",
        str(store),
    ]
    running = Run(words)
    assert running.end()[0] == 0 and not running.left()
    undisturbed.completes(store)


def env_of_ray() -> dict[str, str]:
    """A secret of its own, and a head that is missed sooner than after a minute."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """For the files of Ray, whose sockets need a short path."""
    with tempfile.TemporaryDirectory(prefix="mad-", ignore_cleanup_errors=True) as name:
        monkeypatch.setenv("TMPDIR", name)
        yield Path(name)


@pytest.mark.parametrize("victim", ["driver", "gcs_server", "raylet", "worker", "cluster"])
def test_of_ray_nothing_is_left_whatever_is_killed(
    victim: str, tmp_path: Path, folder: Path, one_thread: None, undisturbed: Undisturbed
) -> None:
    pytest.importorskip("ray")
    drawn, store = random.Random(victim), tmp_path / "s.sqlite"
    running = bench(store, "--engine", "ray", env=env_of_ray())
    code = {"worker": "mad.run.workers.worker", "cluster": "mad.run.workers.cluster"}.get(victim, victim)

    def victims() -> list[int]:
        found = [number for number in running.below() if code in called(number)]
        # The keeper has the code among its arguments, too.
        return [running.process.pid] if victim == "driver" else found

    assert running.watch(lambda: bool(victims())), running.end()
    running.watch_for(running.seconds + drawn.uniform(0.0, 6.0))
    for number in victims()[-1:]:
        os.kill(number, signal.SIGKILL)
    status, _, err = running.end()
    assert "Traceback" not in err
    if victim == "worker":
        assert status == 0, err
    elif victim != "driver" and status != 0:
        assert status == 1 and "mad: Ray ended, or was not reached: " in err, err
    assert not running.left() and (victim == "driver" or not list(folder.iterdir()))
    undisturbed.completes(store)


def test_a_cluster_whose_head_is_killed_is_said(
    tmp_path: Path,
    folder: Path,
    one_thread: None,
    undisturbed: Undisturbed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = env_of_ray() | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_ADDRESS": ""}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    start = ["start", "--head", "--block", "--port", str(port), "--node-ip-address", "127.0.0.1"]
    start += ["--num-cpus", "2", "--include-dashboard", "false", "--disable-usage-stats"]
    code = f"import sys; sys.argv[1:] = {start!r}; from ray.scripts.scripts import main; main()"
    heard: list[tuple[str, Any]] = []
    cluster = Process(code, said=lambda kind, value: heard.append((kind, value)))
    store = tmp_path / "s.sqlite"
    try:
        cluster.start()
        running = bench(store, "--engine", "ray", "--ray-address", f"127.0.0.1:{port}")
        while not heard and not opened_if_there(store) and running.process.poll() is None:
            running.watch_for(running.seconds + 0.2)
        assert opened_if_there(store), (cluster.printed, running.end())
        (head,) = [n for n in below(os.getpid()) if "gcs/gcs_server" in called(n)]
        os.kill(head, signal.SIGKILL)
        status, _, err = running.end()
        assert (status == 0 or f"mad: Ray at 127.0.0.1:{port} ended" in err) and "Traceback" not in err
    finally:
        below_it = below(os.getpid())
        cluster.stop()
        cluster.wait()
    assert not running.left() and not [n for n in below_it if alive(n) and "ray" in called(n)]
    undisturbed.completes(store)


def test_ray_listens_to_no_other_machine(tmp_path: Path, folder: Path) -> None:
    pytest.importorskip("ray")
    running = bench(tmp_path / "s.sqlite", "--engine", "ray")
    assert running.watch(lambda: any("ray::" in called(number) for number in running.below()))
    own = {
        os.readlink(link)
        for number in running.below()
        for link in Path(f"/proc/{number}/fd").glob("*")
        if link.is_symlink() and os.path.lexists(link)
    }
    listening, loopback = (
        "0A",
        ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"),
    )
    rows = [
        line.split()
        for kind in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()
    ]
    found = [row[1] for row in rows if row[3] == listening and f"socket:[{row[9]}]" in own]
    assert found and all(address.startswith(loopback) for address in found), found
    running.process.send_signal(signal.SIGTERM)
    assert running.end()[0] == 143 and not running.left() and not list(folder.iterdir())
