"""Worker processes as the driver sees them: started, given jobs, listened to, ended whole."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

from mad.messages import Failed
from mad.run.malloc import GLIBC
from mad.run.place import Place
from mad.run.workers.jobs import Event
from mad.run.workers.worker import Job, end_group, receive, send

START = "from mad.run.workers.worker import main; main()"
# Of what a worker prints, what is kept, and what is too much, in bytes.
KEPT, FLOOD = 4096, 2**24
# Seconds in which what a worker had sent before its end arrives.
LAST_WORDS = 5.0
# How many workers in a row may end before they are ready.
FALSE_STARTS = 3


class Pool:
    """A worker of one thread for each slot, started as jobs come; the first submitted is the first run.

    `slots` names the device of each worker. Usage: `submit` jobs, then iterate over `events()`, in which more
    may be submitted.
    """

    def __init__(self, slots: Sequence[str]) -> None:
        self._count = len(slots)
        self._free = list(reversed(slots))
        self._waiting: collections.deque[tuple[str, Job, float]] = collections.deque()
        self._said: queue.SimpleQueue[tuple[_Worker, str, Any]] = queue.SimpleQueue()
        self._idle: list[_Worker] = []
        self._starting: list[_Worker] = []
        self._busy: dict[_Worker, tuple[str, float]] = {}  # with the limit in seconds
        self._false_starts = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in [*self._idle, *self._starting, *self._busy]:
            worker.close()

    @property
    def running(self) -> list[str]:
        return [key for key, _ in self._busy.values()]

    @property
    def room(self) -> int:
        return self._count - len(self._busy) - len(self._waiting)

    def submit(self, key: str, job: Job, *, seconds: float) -> None:
        """Add a job that may run so long."""
        self._waiting.append((key, job, seconds))

    def events(self) -> Iterator[Event]:
        """What happens, until nothing waits or runs. A job ends with one event that is not "progress"."""
        while self._waiting or self._busy:
            self._assign()
            for worker in [worker for worker in self._busy if time.monotonic() > worker.deadline]:
                limit = self._busy[worker][1]
                yield from self._lose(worker, f"it took more than {limit:,.0f} s")
            due = min((worker.deadline for worker in self._busy), default=float("inf"))
            try:
                worker, kind, value = self._said.get(timeout=min(max(due - time.monotonic(), 0.0), 60.0))
            except queue.Empty:
                continue
            if worker.closed:
                continue
            if kind in ("flood", "ended"):
                yield from self._lose(worker, value)
            elif kind == "ready":
                self._false_starts = 0
                self._starting.remove(worker)
                self._idle.append(worker)
            elif kind == "progress":
                yield Event(key=self._busy[worker][0], kind=kind, value=value)
            else:
                key, _ = self._busy.pop(worker)
                self._idle.append(worker)
                self._assign()
                yield Event(key=key, kind=kind, value=value)

    def _assign(self) -> None:
        while self._waiting and self._idle:
            key, job, seconds = self._waiting.popleft()
            worker = self._idle.pop()
            self._busy[worker] = key, seconds
            worker.give(job, seconds=seconds)
        while self._free and len(self._waiting) > len(self._starting):
            self._starting.append(_Worker(self._free.pop(), self._said))

    def _lose(self, worker: _Worker, reason: str) -> Iterator[Event]:
        """End a worker, with the job that it has."""
        worker.close()
        self._free.append(worker.device)
        reason = f"{worker.printed}\nEnded: {reason}".strip()
        if worker in self._busy:
            yield Event(key=self._busy.pop(worker)[0], kind="lost", value=reason)
        elif worker in self._idle:
            self._idle.remove(worker)
        else:
            self._starting.remove(worker)
            self._false_starts += 1
            if self._false_starts >= FALSE_STARTS:
                raise Failed(
                    f"{FALSE_STARTS} workers ended before they were ready: {reason}; repair that, or run in "
                    "one process with --engine inline"
                )


class _Worker:
    """One process, in a process group of its own. What it says goes into `said`."""

    def __init__(self, device: str, said: queue.SimpleQueue[tuple[_Worker, str, Any]]) -> None:
        self.device, self.said = device, said
        self.closed = False
        self.deadline = float("inf")
        self._printed: collections.deque[bytes] = collections.deque()
        self._process = subprocess.Popen(
            [sys.executable, "-c", START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=GLIBC
            | os.environ
            | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
            | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
        )
        self._listeners = [threading.Thread(target=f, daemon=True) for f in (self._hear, self._drain)]
        for thread in [*self._listeners, threading.Thread(target=self._await, daemon=True)]:
            thread.start()

    def give(self, job: Job, *, seconds: float) -> None:
        """Send a job, which has this long."""
        self.deadline = time.monotonic() + seconds
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # It is gone, and that is said.
            send(self._process.stdin, dataclasses.replace(job, device=self.device))

    def close(self) -> None:
        """End the process and whatever it started."""
        self.closed = True
        if self._process.poll() is None:
            end_group(self._process.pid)
            self._process.wait()
        for thread in self._listeners:
            thread.join(LAST_WORDS)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            with contextlib.suppress(OSError):  # What was not sent is lost with it.
                stream.close()

    @property
    def printed(self) -> str:
        """The end of what it printed."""
        return b"".join(self._printed)[-KEPT:].decode(errors="replace").strip()

    def _hear(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(EOFError, OSError, ValueError):
            while True:
                kind, value = receive(self._process.stdout)
                self.said.put((self, kind, value))

    def _drain(self) -> None:
        assert self._process.stderr is not None
        count = kept = 0
        while chunk := os.read(self._process.stderr.fileno(), 65536):
            if count <= FLOOD < count + len(chunk):
                self.said.put((self, "flood", f"it printed more than {FLOOD >> 20} MiB"))
            count += len(chunk)
            self._printed.append(chunk)
            kept += len(chunk)
            while kept - len(self._printed[0]) > KEPT:
                kept -= len(self._printed.popleft())

    def _await(self) -> None:
        # What it started is ended while the number of the group still belongs to it.
        if hasattr(os, "waitid"):
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
                end_group(self._process.pid)
        status = self._process.wait()
        for thread in self._listeners:
            thread.join(LAST_WORDS)
        self.said.put((self, "ended", _ended(status)))


def _ended(status: int) -> str:
    if status >= 0:
        return f"its process ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        return f"its process was ended by signal {-status}"
    hint = ", perhaps because the system ran out of memory" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"


def slots(place: Place, workers: int | None) -> list[str]:
    """The device of each worker: one per core of a CPU, one per accelerator, or `workers` in all, which share
    the accelerators evenly where they are more.
    """
    devices = [str(device) for device in place.devices]
    count = workers or (cores() if place.device.type == "cpu" else len(devices))
    return [devices[i % len(devices)] for i in range(count)]


def cores() -> int:
    """How many cores this process may use: those of its affinity, within the quota of its control group."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        count = min(count, max(1, int(quota) // int(period)))  # "max" is no number: no quota
    return count
