"""Several accelerators, on a machine that has none: what each worker gets, and what it makes of it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mad.run.battery import prepare
from mad.run.engines import Options, choose, inline, ray
from mad.run.place import Place, find_place
from mad.run.workers import pool, worker
from mad.run.workers.cluster import shares
from mad.run.workers.pool import Pool, slots
from mad.run.workers.worker import pack, perform


@pytest.fixture(autouse=True)
def three_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)


def test_there_is_a_worker_for_each_device_and_more_share_them_evenly() -> None:
    for every in (find_place("cuda"), find_place("auto")):
        assert slots(every, None) == ["cuda:0", "cuda:1", "cuda:2"]
        assert slots(every, 2) == ["cuda:0", "cuda:1"]
        assert slots(every, 5) == ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda:1"]
    assert slots(find_place("cuda:1"), None) == ["cuda:1"]
    assert slots(find_place("cuda:0"), 3) == ["cuda:0"] * 3
    assert slots(Place(torch.device("mps:0"), alone=False), 2) == ["mps:0"] * 2
    assert slots(find_place("cpu"), 2) == ["cpu"] * 2


def test_several_devices_are_a_reason_for_processes() -> None:
    groups = prepare("mamba", suite="quick", protocol="sound", device="cpu").groups
    assert choose(groups, None, Options(place=find_place("cuda"))) == "process"
    assert choose(groups, None, Options(place=find_place("cuda:2"))) == "inline"


# A worker that answers with its device, once all have one.
ECHO = """
import os, sys, time
from pathlib import Path
from mad.run.workers.worker import receive, send
inbox, outbox = open(int(sys.argv[1]), "rb"), open(int(sys.argv[2]), "wb")
send(outbox, ("ready", None))
folder = Path(os.environ["FOLDER"])
while True:
    job = receive(inbox)
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < 3:
        time.sleep(0.01)
    send(outbox, ("records", job.device))
"""


def test_each_worker_has_a_device_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "START", ECHO)
    monkeypatch.setenv("FOLDER", str(tmp_path))
    (group, *_) = prepare("swiglu", suite="smoke", protocol="sound", device="cpu").groups
    with Pool(slots(find_place("cuda"), None)) as workers:
        for key in "abc":
            workers.submit(key, pack("train", group, find_place("cuda"), "auto"), seconds=60)
        assert sorted(event.value for event in workers.events()) == ["cuda:0", "cuda:1", "cuda:2"]


def test_a_group_is_run_with_its_device_as_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    ran: list[tuple[torch.device, list[torch.device]]] = []

    @contextlib.contextmanager
    def device(asked: torch.device) -> Iterator[None]:
        current.append(asked)
        yield
        current.pop()

    def run_group(group: Any, *, place: Place, **options: Any) -> list[Any]:
        ran.append((place.device, list(current)))
        return []

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(worker, "run_group", run_group)
    monkeypatch.setattr(inline, "run_group", run_group)
    groups = prepare("swiglu", suite="smoke", protocol="sound", device="cpu", tasks=["compression"]).groups
    place = find_place("cuda:1")
    job = dataclasses.replace(pack("train", groups[0], place, "auto"), device="cuda:2")
    perform(job, lambda progress: None)
    list(inline.run(groups, None, Options(place=place)))
    assert ran == [(torch.device(name), [torch.device(name)]) for name in ("cuda:2", "cuda:1")]
    with find_place("cpu").current():
        assert current == []


@pytest.mark.parametrize(
    ("device", "workers", "most", "needs"),
    [
        ("cpu", None, 4, {"num_cpus": 1}),
        ("cpu", 8, 8, {"num_cpus": 1 / 2}),
        ("cuda", None, 3, {"num_cpus": 1, "num_gpus": 1}),
        ("cuda", 2, 2, {"num_cpus": 1, "num_gpus": 1}),
        ("cuda", 5, 5, {"num_cpus": 1 / 2, "num_gpus": 1 / 2}),
    ],
)
def test_tasks_of_ray_take_a_share_where_there_are_more_than_devices(
    device: str, workers: int | None, most: int, needs: dict[str, float]
) -> None:
    assert shares({"CPU": 4.0, "GPU": 3.0}, device, workers) == (most, needs)


def test_ray_is_not_told_a_device_by_number() -> None:
    groups = prepare("swiglu", suite="smoke", protocol="sound", device="cpu").groups
    with pytest.raises(ValueError, match="not cuda:1; choose --device cuda"):
        list(ray.run(groups, None, Options(place=find_place("cuda:1"))))
