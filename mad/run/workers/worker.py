"""A worker: a process that runs one group at a time, as the driver asks over a pipe.

Jobs and answers have pipes of their own; whatever a layer prints, on standard output too, the driver reads as
one. `mad.run.workers.keeper` ends what a worker started.
"""

from __future__ import annotations

import importlib
import os
import pickle
import queue
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Literal

from architectures.outside.identity import code_hash
from architectures.registry import get
from mad.data.tasks import identify
from mad.run.place import Place, find_place
from mad.run.runner import check_cell, run_group
from mad.run.sweep import Cell, Group
from mad.run.trainer import Progress, Replicas

HEADER = 8  # bytes, the length of the message that follows
PIECE = 2**20  # of a message that are read at a time
REPORT_EVERY = 0.2  # seconds; an evaluation is reported at once


Verb = Literal["check", "train"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be done with a cell or a group that travels pickled, after the import of the modules that
    register its layers and its task; `task` identifies that one.
    """

    verb: Verb
    packed: bytes
    modules: tuple[str, ...]
    task: dict[str, Any]
    precision: str
    replicas: Replicas
    device: str = "cpu"  # of the worker that gets it


class Unportable(Exception):
    """What only its own process can run: its code is not found elsewhere, or not the same."""


def pack(verb: Verb, what: Cell | Group, place: Place, replicas: Replicas) -> Job:
    """Raises `Unportable` where layers, task or factory live in the program itself."""
    cell = what.cell if isinstance(what, Group) else what
    architecture = cell.architecture
    owners: list[Any] = [type(cell.task)]
    if architecture.spec is not None:
        owners += [get(layer.name).cls for layer in architecture.spec.walk()]
    modules = tuple(dict.fromkeys(owner.__module__ for owner in owners))
    if "__main__" in modules or not architecture.stored:
        raise Unportable("it is defined in the program itself")
    try:
        packed = pickle.dumps(what)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise Unportable(str(error)) from error
    return Job(
        verb=verb,
        packed=packed,
        modules=modules,
        # Of a group as it was when its runs were named: the file may have changed since.
        task=what.runs[0].task if isinstance(what, Group) else identify(cell.task),
        precision=place.precision,
        replicas=replicas,
    )


def unpack(job: Job) -> Cell | Group:
    """Raises `Unportable` where this process does not find the very same code."""
    try:
        for module in job.modules:
            importlib.import_module(module)
        what: Cell | Group = pickle.loads(job.packed)
        cell = what.cell if isinstance(what, Group) else what
        architecture = cell.architecture
        if identify(cell.task) != job.task:
            raise Unportable(f"task {cell.task.name} is another one in a new process")
        for name, source in architecture.config.sources.items():
            found = get(name).source if architecture.factory is None else code_hash(architecture.factory)
            if found != source:
                raise Unportable(f"{name} is another one in a new process")
    except Unportable:
        raise
    except Exception as error:
        raise Unportable(f"{type(error).__name__}: {error}") from error
    return what


def perform(job: Job, report: Callable[[Progress], None]) -> tuple[str, Any]:
    """The answer to a job: the kind of an event and its value."""
    try:
        what = unpack(job)
    except Unportable as error:
        return "unportable", str(error)
    if isinstance(what, Cell):
        try:
            return "checked", check_cell(what)
        except ValueError as error:
            return "refused", str(error)
    place = find_place(job.device, job.precision)
    with place.current():
        return "records", run_group(what, place=place, replicas=job.replicas, report=report)


def send(stream: IO[bytes], message: Any) -> None:
    body = pickle.dumps(message)
    left = memoryview(len(body).to_bytes(HEADER, "big") + body)
    while left:
        left = left[stream.write(left) :]
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """The next message; EOFError where the other side is gone."""
    size = int.from_bytes(_exactly(stream, HEADER), "big")
    return pickle.loads(_exactly(stream, size))


def _exactly(stream: IO[bytes], size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        if not (more := stream.read(min(size - len(found), PIECE))):
            raise EOFError
        found += more
    return bytes(found)


def main(jobs: int, answers: int) -> None:
    """With the numbers of the two pipes."""
    for number in (jobs, answers):
        os.set_inheritable(number, False)
    inbox, outbox = os.fdopen(jobs, "rb", buffering=0), os.fdopen(answers, "wb", buffering=0)
    asked: queue.SimpleQueue[Job] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(inbox, asked), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The driver says when to end.
    last = 0.0

    def report(progress: Progress) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= REPORT_EVERY or progress.points:
            last = now
            send(outbox, ("progress", progress))

    send(outbox, ("ready", None))
    while True:
        send(outbox, perform(asked.get(), report))


def _listen(inbox: IO[bytes], asked: queue.SimpleQueue[Job]) -> None:
    """Without a driver, and where no keeper ends it, a worker ends itself and its process group."""
    try:
        while True:
            asked.put(receive(inbox))
    except (EOFError, OSError):
        os.killpg(os.getpid(), signal.SIGKILL)
