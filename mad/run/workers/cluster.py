"""The process that speaks with Ray, so that the driver goes on whatever Ray does to the process that uses it.

Ray takes signals for itself, waits for minutes where it lost its head, and ends its process at last. This one
has a keeper: where it is ended, so is the Ray that it started.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import math
import os
import queue
import re
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from typing import IO, Any

from mad.run.workers import keeper
from mad.run.workers.pool import Pool
from mad.run.workers.worker import Job, receive, send

START = "import sys; from mad.run.workers.cluster import main; main(*map(int, sys.argv[1:]))"
# Seconds between two looks at what was asked meanwhile and at what Ray started.
POLL = 0.2
# Addresses on this machine.
HERE = re.compile(r"local|(127\.0\.0\.1|localhost):\d+")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The first message. `address` of the cluster, "local" for a new one, which keeps its files in `folder`;
    `most` tasks at a time, None: as many as it can run.
    """

    address: str
    device: str
    most: int | None
    folder: str


def main(inbox: int, outbox: int) -> None:
    """With the numbers of two pipes. Answers: "note" with a text; "ready" with the number of tasks that can
    run at once; "begun" with a key; "done" with a key, and the kind and the value of an event; "lost" with a
    reason, at last.
    """
    messages, answers = os.fdopen(inbox, "rb", buffering=0), os.fdopen(outbox, "wb", buffering=0)
    wanted = receive(messages)
    os.environ |= _settings(wanted)
    threading.Thread(target=_watch, args=(answers,), daemon=True).start()
    try:
        _knock(wanted.address)
        import ray

        ray.init(
            address=wanted.address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if wanted.address == "local" else None,
        )
        _serve(ray, wanted, messages, answers)
    except Exception as error:  # Ray raises plain ones, too.
        _end(answers, f"{type(error).__name__}: {error}")


def _settings(wanted: Wanted) -> dict[str, str]:
    """What Ray reads as it is imported and as it starts. Nothing is sent to its makers. Where it runs here,
    it listens to no other machine; and where it is ours, to nobody else who works on this one.
    """
    settings = {"RAY_USAGE_STATS_ENABLED": "0"}
    if HERE.fullmatch(wanted.address):
        settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if wanted.address == "local":
        settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        settings["RAY_TMPDIR"] = wanted.folder
    return settings


def _knock(address: str) -> None:
    """OSError where nobody answers at HOST:PORT: Ray would try for minutes."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10.0).close()


def _watch(answers: IO[bytes]) -> None:
    """End where a process that Ray started here is killed: it would be waited for."""
    while True:
        time.sleep(POLL)
        for child in keeper.children():
            with contextlib.suppress(ChildProcessError):  # Ray has waited for it.
                ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG)
                if ended is not None and ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED):
                    _end(answers, f"a process of Ray's was ended by signal {ended.si_status}")


def _end(answers: IO[bytes], reason: str) -> None:
    send(answers, ("lost", reason))
    os._exit(1)  # Ray would tidy up for minutes.


def _serve(ray: Any, wanted: Wanted, messages: IO[bytes], answers: IO[bytes]) -> None:
    has = ray.cluster_resources()
    kind = "GPU" if wanted.device == "cuda" else "CPU"
    if not has.get(kind):
        send(answers, ("note", f"the cluster has no {kind} yet; groups wait until it has one"))
    most, needs = shares(has, wanted.device, wanted.most)
    # The driver repeats what came to nothing, and says so.
    task = ray.remote(max_retries=0, **needs)(_perform)
    asked: queue.SimpleQueue[tuple[str, Job, float]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(messages, asked), daemon=True).start()
    waiting: collections.deque[tuple[str, Job, float]] = collections.deque()
    sent: dict[Any, str] = {}
    send(answers, ("ready", most))
    while True:
        while not asked.empty() or not (waiting or sent):
            waiting.append(asked.get())
        while waiting and len(sent) < most:
            key, job, seconds = waiting.popleft()
            sent[task.remote(job, seconds)] = key
            send(answers, ("begun", key))
        done, _ = ray.wait(list(sent), timeout=POLL)
        for one in done:
            send(answers, ("done", (sent.pop(one), *_answer(ray, one))))


def shares(has: dict[str, float], device: str, most: int | None) -> tuple[int, dict[str, float]]:
    """How many tasks run at a time in a cluster that has so many CPUs and GPUs, and what each takes: a
    part of one where more are asked for than there are.
    """
    there = {kind: max(1, int(has.get(kind, 0))) for kind in ("CPU", *(["GPU"] if device == "cuda" else []))}
    most = most or there["GPU" if device == "cuda" else "CPU"]
    return most, {f"num_{kind.lower()}s": 1 / math.ceil(most / count) for kind, count in there.items()}


def _listen(messages: IO[bytes], asked: queue.SimpleQueue[tuple[str, Job, float]]) -> None:
    try:
        while True:
            asked.put(receive(messages))
    except (EOFError, OSError):
        os._exit(0)


def _answer(ray: Any, task: Any) -> tuple[str, Any]:
    errors = ray.exceptions
    try:
        return ray.get(task)
    except (
        errors.WorkerCrashedError,
        errors.OutOfMemoryError,
        errors.NodeDiedError,
        errors.RayTaskError,
        errors.TaskCancelledError,
    ) as error:
        return "lost", f"Ended: {error}"


@functools.cache
def _pool(device: str) -> Pool:
    """Of a process of Ray's on a node, which keeps its worker; one that had a GPU is not used again."""
    return Pool([device])


def _perform(job: Job, seconds: float) -> tuple[str, Any]:
    """On a node, in a worker that is watched and ended as those of every engine."""
    pool = _pool(job.device)
    pool.submit("", job, seconds=seconds)
    (answer,) = ((event.kind, event.value) for event in pool.events() if event.kind != "progress")
    return answer
