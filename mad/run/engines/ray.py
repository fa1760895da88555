"""The groups of a sweep as tasks of Ray: on this machine, or on the cluster that an address names.

Each node needs this package, and the modules of the user's own where it finds them; what a node cannot find
runs in the driver. Extra `ray`.
"""

from __future__ import annotations

import importlib.util
import os
import queue
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from mad.data.records import Record
from mad.messages import Failed, note
from mad.run.engines import Options
from mad.run.sweep import Group
from mad.run.workers import jobs
from mad.run.workers.cluster import START, Wanted
from mad.run.workers.jobs import Event
from mad.run.workers.process import Process
from mad.run.workers.worker import Job
from mad.store import Store

# Seconds that Ray may take to start, or to be reached.
STARTING = 60.0

TAKES = ("workers", "cell_timeout", "ray_address")


def run(
    groups: Sequence[Group], store: Store | None, options: Options
) -> Generator[tuple[Group, list[Record]]]:
    """See `Engine`. Ray is started here, and ended afterwards, unless the program did that or an address
    names it.
    """
    if options.place.device.type == "cuda" and options.place.alone:
        raise ValueError(
            f"engine ray gives each group a device of its own choice, not {options.place.device}; choose "
            "--device cuda, and limit what Ray sees with CUDA_VISIBLE_DEVICES"
        )
    if importlib.util.find_spec("ray") is None:
        raise ValueError("engine ray needs Ray, which is not installed: pip install 'mad-suite[ray]'")
    with _Tasks(options) as tasks:
        yield from jobs.run(groups, store, options, tasks)


class _Tasks:
    """See `jobs.Carrier`: what `mad.run.workers.cluster` does with Ray, as the driver sees it."""

    def __init__(self, options: Options) -> None:
        self._said: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._process = Process(START, said=lambda kind, value: self._said.put((kind, value)))
        self._device = options.place.device.type
        address = options.ray_address or os.environ.get("RAY_ADDRESS") or _address_of_the_program()
        # For the logs and sockets of a Ray of our own.
        self._folder = tempfile.TemporaryDirectory(prefix="mad-", ignore_cleanup_errors=True)
        self._wanted = Wanted(
            address=address or "local",
            device=self._device,
            most=options.workers,
            folder=os.environ.get("RAY_TMPDIR", self._folder.name),
        )
        self._most = self._unfinished = 0
        self.running: list[str] = []

    def __enter__(self) -> _Tasks:
        try:
            self._process.start()
            self._process.send(self._wanted)
            while (said := self._said.get(timeout=STARTING))[0] == "note":
                note(said[1])
            if said[0] == "lost":
                raise self._failed(said[1])
            self._most = int(said[1])
        except queue.Empty:
            self._end()
            raise self._failed(f"no answer within {STARTING:.0f} s") from None
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def room(self) -> int:
        return self._most - self._unfinished

    def submit(self, key: str, job: Job, *, seconds: float) -> None:
        self._unfinished += 1
        self._process.send((key, replace(job, device=self._device), seconds))

    def events(self) -> Iterator[Event]:
        while self._unfinished:
            said, value = self._said.get()
            if said == "lost":
                raise self._failed(value)
            if said == "begun":
                self.running.append(value)
                continue
            key, kind, value = value
            self.running.remove(key)
            self._unfinished -= 1
            yield Event(key=key, kind=kind, value=value)

    def _end(self) -> None:
        self._process.stop()
        self._process.wait()
        self._folder.cleanup()

    def _failed(self, reason: str) -> Failed:
        words = "".join(f" ({line})" for line in self._process.printed.splitlines()[-1:])
        where = "" if self._wanted.address == "local" else f" at {self._wanted.address}"
        return Failed(
            f"Ray{where} ended, or was not reached: {reason}{words}; what was finished is stored: see to Ray "
            "and run the same command again, or take another --engine"
        )


def _address_of_the_program() -> str | None:
    """Where the program itself uses Ray."""
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().gcs_address if ray is not None and ray.is_initialized() else None
