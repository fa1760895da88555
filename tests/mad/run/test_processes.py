"""A process of ours ends whole, and says why."""

from __future__ import annotations

import os
import queue
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mad.messages import Failed
from mad.run.workers import pool
from mad.run.workers.pool import Pool
from mad.run.workers.process import Process
from mad.run.workers.worker import Job
from tests.mad.run.processes import alive, below, gone

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at /proc")

# What the code of a process begins with here: it sends pairs of a kind and a value.
SENDS = """
import os, pickle, signal, subprocess, sys, time
inbox, outbox = map(int, sys.argv[1:])
def tell(kind, value, body=None):
    body = pickle.dumps((kind, value)) if body is None else body
    os.write(outbox, len(body).to_bytes(8, "big") + body)
def read():
    with os.fdopen(inbox, "rb", closefd=False, buffering=0) as stream:
        left = int.from_bytes(stream.read(8), "big")
        while left:
            left -= len(stream.read(left))
def sleeper(**options):
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], **options).pid
"""


class Told:
    """A process, and what it says."""

    def __init__(self, code: str) -> None:
        self.said: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.process = Process(SENDS + code, said=lambda kind, value: self.said.put((kind, value)))
        self.process.start()

    def next(self) -> tuple[str, Any]:
        return self.said.get(timeout=30.0)

    def end(self) -> None:
        self.process.stop()
        self.process.wait()


@pytest.fixture
def start() -> Iterator[Any]:
    started: list[Told] = []

    def start(code: str) -> Told:
        started.append(Told(code))
        return started[-1]

    yield start
    for told in started:
        told.end()


LEAVES = """
tell("pids", [os.getpid(), os.getppid(), sleeper(), sleeper(start_new_session=True, env={})])
"""


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("os._exit(7)", "ended with status 7"),
        ("os.kill(os.getpid(), 9)", r"killed \(SIGKILL\), perhaps because .* memory: try fewer --workers"),
        ("os.kill(os.getpid(), 11)", r"killed \(SIGSEGV\)$"),
    ],
)
def test_whatever_a_process_left_ends_with_it_also_in_a_session_of_its_own(
    start: Any, end: str, words: str
) -> None:
    told = start(LEAVES + end)
    _, pids = told.next()
    kind, reason = told.next()
    assert kind == "lost" and re.search(words, reason)
    assert gone(pids, 5.0)


@pytest.mark.parametrize(("stopped", "keeper_too"), [(False, False), (True, False), (True, True)])
def test_whatever_a_process_left_ends_with_its_driver(
    stopped: bool, keeper_too: bool, tmp_path: Path
) -> None:
    """A driver that is killed says nothing, and a process that stands still hears nothing. Without a keeper
    it ends alone.
    """
    halt = "os.kill(os.getpid(), signal.SIGSTOP)" if stopped else "time.sleep(1000)"
    (tmp_path / "driver.py").write_text(
        f"""
import sys, time
from mad.run.workers.process import Process
Process({SENDS + LEAVES + halt!r}, said=lambda kind, value: print(*value, flush=True)).start()
time.sleep(1000)
"""
    )
    driver = subprocess.Popen([sys.executable, tmp_path / "driver.py"], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    pids = list(map(int, driver.stdout.readline().split()))
    assert len(pids) == 4 and all(map(alive, pids))
    if keeper_too:
        os.kill(pids[1], signal.SIGSTOP)
    driver.kill()
    if keeper_too:
        os.kill(pids[1], signal.SIGKILL)
    try:
        assert gone(pids[: 2 if keeper_too else 4], 10.0)
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)
    driver.communicate()


def test_a_process_ends_with_its_keeper(start: Any) -> None:
    told = start(LEAVES + "time.sleep(1000)")
    _, (own, keeper, child, escaped) = told.next()
    os.kill(keeper, signal.SIGKILL)
    assert gone([own, keeper, child], 5.0)
    os.kill(escaped, signal.SIGKILL)  # What left the group is out of reach then.
    kind, reason = told.next()
    assert kind == "lost" and "SIGKILL" in reason


def test_what_is_stopped_is_gone_when_it_was_waited_for(start: Any) -> None:
    told = start(LEAVES + "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)")
    _, pids = told.next()
    told.end()
    assert not any(map(alive, pids))


def test_orphans_that_end_first_leave_no_zombies(start: Any) -> None:
    told = start(
        """
for _ in range(40):
    subprocess.run(["sh", "-c", "true & true & exit"])
read()
tell("done", os.getppid())
time.sleep(1000)
"""
    )
    time.sleep(0.1)
    told.process.send(0)
    _, keeper = told.next()
    end = time.monotonic() + 5.0
    while len(below(keeper)) > 1 and time.monotonic() < end:
        time.sleep(0.05)
    assert len(below(keeper)) == 1


def test_an_answer_that_cannot_be_read_is_said(start: Any) -> None:
    told = start("tell(None, None, b'no pickle'); time.sleep(1000)")
    kind, reason = told.next()
    assert kind == "lost" and "its answer cannot be read (UnpicklingError" in reason


def test_what_is_printed_is_no_answer_and_belongs_to_one_message(start: Any) -> None:
    told = start(
        """
print("a banner", flush=True)
os.write(1, b"\\xff\\xfe words")
tell("ready", None)
read()
print("later", flush=True)
os._exit(3)
"""
    )
    assert told.next() == ("ready", None)
    end = time.monotonic() + 5.0
    while "words" not in told.process.printed and time.monotonic() < end:
        time.sleep(0.02)
    assert told.process.printed == "a banner\n\ufffd\ufffd words"
    told.process.send(1)
    assert told.next()[0] == "lost" and told.process.printed == "later"


def test_a_process_that_reads_nothing_holds_nobody_up(start: Any) -> None:
    told = start("tell('ready', None); os.kill(os.getpid(), signal.SIGSTOP)")
    told.next()
    told.process.send(b"x" * 2**22)
    told.end()
    assert told.next()[0] == "lost"


def test_a_flood_is_said_once_for_each_message(start: Any) -> None:
    told = start(
        """
tell("ready", os.getppid())
for _ in range(2):
    read()
    for _ in range(17):
        os.write(1, b"x" * 2**20)
time.sleep(1000)
"""
    )
    told.next()
    for _ in range(2):
        told.process.send(0)
        assert told.next() == ("lost", "it printed more than 16 MiB")


def test_processes_leave_no_files_and_no_threads_behind() -> None:
    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = held()
    told = [Told("tell('ready', None); time.sleep(1000)") for _ in range(8)]
    for one in told:
        one.next()
    for one in told:
        one.end()
    end = time.monotonic() + 5.0
    # What another test left may end meanwhile.
    while any(now > then for now, then in zip(held(), before, strict=True)) and time.monotonic() < end:
        time.sleep(0.05)
    assert all(now <= then for now, then in zip(held(), before, strict=True)), (held(), before)


# A worker that answers every job at once, and imports nothing for it.
PARROT = SENDS + "tell('ready', None)\nwhile True:\n    read()\n    tell('records', os.getpid())\n"
JOB = Job(verb="train", packed=b"", modules=(), task={}, precision="32-true", replicas="auto")


@pytest.fixture
def parrots(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setattr(pool, "START", PARROT)
    with Pool(["cpu", "cpu"]) as opened:
        yield opened


def test_a_worker_that_ended_while_it_was_idle_is_replaced(parrots: Pool) -> None:
    parrots.submit("a", JOB, seconds=60.0)
    (first,) = parrots.events()
    os.kill(first.value, signal.SIGKILL)
    assert gone([first.value], 5.0)
    kinds = []
    for key in "bc":
        parrots.submit(key, JOB, seconds=60.0)
        kinds += [event.kind for event in parrots.events()]
    # That it has ended may be heard of after it was given a job, which is lost then, and tried again.
    assert kinds[-1] == "records"


def test_a_driver_that_stood_still_takes_the_answers_that_came_in_time(parrots: Pool) -> None:
    for key in "ab":
        parrots.submit(key, JOB, seconds=60.0)
    assert {event.kind for event in parrots.events()} == {"records"}  # Both have started.
    for key in "ab":
        parrots.submit(key, JOB, seconds=1.0)
    events = parrots.events()
    next(events)
    time.sleep(1.5)
    assert next(events).kind == "records"


def test_a_worker_that_does_not_start_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "START", "import time; print('importing', flush=True); time.sleep(1000)")
    monkeypatch.setattr(pool, "STARTING", 0.5)
    with Pool(["cpu"]) as opened:
        opened.submit("a", JOB, seconds=60.0)
        with pytest.raises(Failed, match="(?s)3 workers ended before .*it took more than 0 s|1 s"):
            list(opened.events())


def test_where_no_process_can_be_started_the_remedy_is_said(parrots: Pool) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 1, hard))
    try:
        parrots.submit("a", JOB, seconds=60.0)
        with pytest.raises(Failed, match="no worker can be started .*ulimit -n.*--engine inline"):
            list(parrots.events())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_file_of_the_current_folder_is_not_imported_instead_of_pythons_own(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise RuntimeError('the wrong one')")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    assert start("import queue; tell('ready', None); time.sleep(1000)").next() == ("ready", None)
