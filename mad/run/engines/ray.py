"""The groups of a sweep as tasks of Ray: on this machine, or on the cluster that an address names.

Each node needs this package, and the modules of the user's own where it finds them; what a node cannot find
runs in the driver. Extra `ray`.
"""

from __future__ import annotations

import collections
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from mad.data.records import Record
from mad.messages import Failed
from mad.run.engines import Options
from mad.run.malloc import GLIBC
from mad.run.sweep import Group
from mad.run.workers import jobs
from mad.run.workers.jobs import Event
from mad.run.workers.worker import Job, perform
from mad.store import Store

# Seconds between two looks at what Ray does, and until it must have answered to a connection.
POLL = 1.0


def run(
    groups: Sequence[Group], store: Store | None, options: Options
) -> Iterator[tuple[Group, list[Record]]]:
    """See `Engine`. Ray is started here, and ended afterwards, unless it runs or an address names it."""
    if options.place.device.type == "cuda" and options.place.alone:
        raise ValueError(
            f"engine ray gives each group a device of its own choice, not {options.place.device}; choose "
            "--device cuda, and limit what Ray sees with CUDA_VISIBLE_DEVICES"
        )
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        here = options.ray_address is None  # Other machines have paths of their own.
        path = {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)} if here else {}
        ray.init(
            address=options.ray_address,
            log_to_driver=False,
            include_dashboard=False if here else None,
            logging_level="error",
            runtime_env={"env_vars": GLIBC | path},
        )
    carrier = _Tasks(ray, options)
    try:
        yield from jobs.run(groups, store, options, carrier)
    except ray.exceptions.RayError as error:
        raise Failed(
            f"Ray ended ({type(error).__name__}); what was finished is stored: run the same command again"
        ) from error
    finally:
        carrier.cancel()
        if ours:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "engine ray needs Ray, which is not installed: pip install 'mad-suite[ray]'"
        ) from error
    return ray


def _perform(job: Job) -> tuple[str, Any]:
    """On a node. One thread, as in every engine of several processes."""
    import torch

    torch.set_num_threads(1)
    return perform(job, lambda progress: None)


class _Tasks:
    """See `jobs.Carrier`. No more are sent than the cluster can run at once, so that their time counts."""

    def __init__(self, ray: Any, options: Options) -> None:
        self.ray = ray
        self.device = options.place.device.type
        has = {name: max(1, int(ray.cluster_resources().get(name, 1))) for name in ("CPU", "GPU")}
        kinds = ["CPU", "GPU"] if self.device == "cuda" else ["CPU"]
        self.most = options.workers or has[kinds[-1]]
        # Where more are to run than there are cores or devices, each takes a share of one.
        needs = {f"num_{name.lower()}s": 1 / math.ceil(self.most / has[name]) for name in kinds}
        # The driver repeats what came to nothing, and says so.
        self.task = ray.remote(max_retries=0, **needs)(_perform)
        self.waiting: collections.deque[tuple[str, Job, float]] = collections.deque()
        self.sent: dict[Any, tuple[str, float, float]] = {}  # key, limit and deadline

    @property
    def running(self) -> list[str]:
        return [key for key, _, _ in self.sent.values()]

    @property
    def room(self) -> int:
        return self.most - len(self.sent) - len(self.waiting)

    def submit(self, key: str, job: Job, *, seconds: float) -> None:
        self.waiting.append((key, replace(job, device=self.device), seconds))

    def events(self) -> Iterator[Event]:
        while self.waiting or self.sent:
            while self.waiting and len(self.sent) < self.most:
                key, job, seconds = self.waiting.popleft()
                self.sent[self.task.remote(job)] = key, seconds, time.monotonic() + seconds
            done, _ = self.ray.wait(list(self.sent), timeout=POLL)
            for task in done:
                key = self.sent.pop(task)[0]
                kind, value = self._answer(task)
                yield Event(key=key, kind=kind, value=value)
            for task, (key, limit, deadline) in list(self.sent.items()):
                if time.monotonic() > deadline:
                    del self.sent[task]
                    self.ray.cancel(task, force=True)
                    yield Event(key=key, kind="lost", value=f"Ended: it took more than {limit:,.0f} s")

    def cancel(self) -> None:
        """End what runs."""
        if self.ray.is_initialized():
            for task in self.sent:
                self.ray.cancel(task, force=True)

    def _answer(self, task: Any) -> tuple[str, Any]:
        errors = self.ray.exceptions
        try:
            return self.ray.get(task)
        except (
            errors.WorkerCrashedError,
            errors.OutOfMemoryError,
            errors.NodeDiedError,
            errors.RayTaskError,
            errors.TaskCancelledError,
        ) as error:
            return "lost", f"Ended: {error}"
