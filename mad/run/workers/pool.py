"""Worker processes as the driver sees them: started, given jobs, listened to, ended whole."""

from __future__ import annotations

import collections
import dataclasses
import queue
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

from mad.children import cores
from mad.messages import Failed
from mad.run.place import Place
from mad.run.workers.jobs import Event
from mad.run.workers.process import Process
from mad.run.workers.worker import Job

# What imports make stays: to look through it again and again for garbage takes a fifth of their time.
START = (
    "import gc, sys; gc.set_threshold(50_000); "
    "from mad.run.workers.worker import main; main(*map(int, sys.argv[1:]))"
)
# Seconds that a worker may take to start.
STARTING = 600.0
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
        self._busy: dict[_Worker, str] = {}
        self._false_starts = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers."""
        workers = [*self._idle, *self._starting, *self._busy]
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.wait()

    @property
    def running(self) -> list[str]:
        return list(self._busy.values())

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
            limited = [*self._busy, *self._starting]
            due = min((worker.deadline for worker in limited), default=float("inf"))
            try:
                worker, kind, value = self._said.get(timeout=min(max(due - time.monotonic(), 0.0), 60.0))
            except queue.Empty:  # Only then is somebody late: this process may have stood still itself.
                for worker in limited:
                    if time.monotonic() > worker.deadline:
                        yield from self._lose(worker, f"it took more than {worker.limit:,.0f} s")
                continue
            if worker.stopped:
                continue
            if kind == "lost":
                yield from self._lose(worker, value)
            elif kind == "ready":
                self._false_starts = 0
                self._starting.remove(worker)
                self._idle.append(worker)
            elif kind == "progress":
                yield Event(key=self._busy[worker], kind=kind, value=value)
            else:
                key = self._busy.pop(worker)
                self._idle.append(worker)
                self._assign()
                yield Event(key=key, kind=kind, value=value)

    def _assign(self) -> None:
        while self._waiting and self._idle:
            key, job, seconds = self._waiting.popleft()
            worker = self._idle.pop()
            self._busy[worker] = key
            worker.give(job, seconds=seconds)
        while self._free and len(self._waiting) > len(self._starting):
            worker = _Worker(self._free.pop(), self._said)
            self._starting.append(worker)
            try:
                worker.start()
            except (OSError, RuntimeError) as error:  # No process, no thread or no file handle is left.
                worker.stop()
                self._starting.remove(worker)
                self._count -= 1  # The others go on without this slot.
                if not (self._busy or self._idle or self._starting):
                    raise Failed(
                        f"no worker can be started ({error}); allow more processes (ulimit -u) and open "
                        "files (ulimit -n), or run in one process with --engine inline"
                    ) from error

    def _lose(self, worker: _Worker, reason: str) -> Iterator[Event]:
        """End a worker, with the job that it has."""
        worker.stop()
        worker.wait()
        self._free.append(worker.device)
        reason = f"{worker.printed}\nEnded: {reason}".strip()
        if worker in self._busy:
            yield Event(key=self._busy.pop(worker), kind="lost", value=reason)
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


class _Worker(Process):
    """What it says is known by it."""

    def __init__(self, device: str, said: queue.SimpleQueue[tuple[_Worker, str, Any]]) -> None:
        super().__init__(START, threads=1, said=lambda kind, value: said.put((self, kind, value)))
        self.device = device
        self.limit = STARTING

    def start(self) -> None:
        super().start()
        self.deadline = time.monotonic() + self.limit

    def give(self, job: Job, *, seconds: float) -> None:
        """Send a job, which has this long."""
        self.limit, self.deadline = seconds, time.monotonic() + seconds
        self.send(dataclasses.replace(job, device=self.device))


def slots(place: Place, workers: int | None) -> list[str]:
    """The device of each worker: one per core of a CPU, one per accelerator, or `workers` in all, which share
    the accelerators evenly where they are more.
    """
    devices = [str(device) for device in place.devices]
    count = workers or (cores() if place.device.type == "cpu" else len(devices))
    return [devices[i % len(devices)] for i in range(count)]
