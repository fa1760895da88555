"""Replicas that a device does not hold all at once, and steps for which it need not be waited."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import architectures
from architectures.functional.fold import Folded
from mad.data.records import Record
from mad.run import memory
from mad.run.batched import Batched
from mad.run.batches import load
from mad.run.learners import Objective, Turns
from mad.run.place import Place
from mad.run.runner import run_group
from mad.run.sweep import Group
from mad.run.trainer import Outcome
from synthetic_tasks import Task
from tests.mad.run.test_trainer import CPU, Branching, cell, curve, trained

BATCH = 32
LRS = tuple(1e-3 * n for n in range(1, 7))


@dataclass
class Device:
    """Memory for the activations of so many rows: in `forward`, while a gradient is wanted, in `backward`."""

    forward: float = float("inf")
    evaluation: float = float("inf")
    backward: float = float("inf")

    def hold(self, rows: int, limit: float) -> None:
        if rows > limit:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {rows} rows. GPU 0 has less")


device = Device()


@pytest.fixture(autouse=True)
def roomy() -> Any:
    vars(device).update(vars(Device()))
    yield
    vars(device).update(vars(Device()))


class _Held(Folded):
    """The identity, which sees the rows of all replicas."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        device.hold(x.shape[0], device.forward)
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        device.hold(grad.shape[0], device.backward)
        return grad.clone()


class Hungry(nn.Module):
    """Half of its parameters have their gradient when memory runs out in the backward pass."""

    count: Tensor

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.embedding = nn.Embedding(task.vocab_size, 16)
        self.drop = nn.Dropout(0.2)
        self.inner, self.outer = nn.Linear(16, 16), nn.Linear(16, task.vocab_size)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, tokens: Tensor) -> Tensor:
        x = _Held.apply(self.inner(self.drop(self.embedding(tokens))))
        if self.training:
            self.count = self.count + 1
        else:
            device.hold(x.shape[0], device.evaluation)
        return self.outer(x.relu() + 0.01 * self.count)


def hungry(task: Task) -> nn.Module:
    return Hungry(task)


def replicas(**limits: float) -> list[Outcome]:
    vars(device).update(limits)
    return trained(hungry, lrs=LRS, replicas="batched", validation_examples=32, test_examples=32)


def same(found: list[Outcome], expected: list[Outcome]) -> None:
    for one, other in zip(found, expected, strict=True):
        for field in ("accuracy", "loss", "train_loss"):
            assert curve(one, field) == pytest.approx(curve(other, field), rel=1e-4), field


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("fits, at_once", [(5, 3), (2, 2), (1, 1)])
def test_out_of_memory_halves_the_batch_and_changes_no_number(where: str, fits: int, at_once: int) -> None:
    expected = replicas()
    assert expected[0].note is None and curve(expected[0])[-1] < curve(expected[0])[0]
    found = replicas(**{where: fits * BATCH})
    same(found, expected)
    assert {o.note for o in found} == {
        f"replicas ran {at_once} at a time: all 6 do not fit into the device's memory"
    }
    assert found[0].metrics.steps == 24


def test_memory_that_runs_out_later_costs_no_step() -> None:
    expected, calls = replicas(), 0

    def tick(progress: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 9:
            device.backward = 2 * BATCH

    found = trained(
        hungry, lrs=LRS, replicas="batched", report=tick, validation_examples=32, test_examples=32
    )
    same(found, expected)
    assert found[0].note is not None and "2 at a time" in found[0].note


def test_one_replica_that_does_not_fit_is_a_failed_cell_that_says_why() -> None:
    device.forward = BATCH - 1
    for lrs in (LRS, LRS[:1]):
        at = cell(f"{__name__}:hungry", lrs=lrs)
        records: list[Record] = run_group(Group(at, 0), place=CPU, replicas="batched")
        assert {r.status for r in records} == {"failed"}
        error = records[0].error or ""
        assert "batches of 32 does not fit into the memory of" in error and "take a smaller" in error
        assert "Tried to allocate 32 rows" in error or "CUDA out of memory" in error


@pytest.mark.parametrize(
    "count, one, two, free, expected",
    [
        (24, 100, 150, 10_000, 24),  # 0.9 * 10,000 is 100 and 178 more.
        (24, 100, 150, 1_000, 12),  # 17 fit: two batches, of equal size
        (6, 100, 150, 250, 3),  # 3 fit
        (7, 100, 150, 250, 3),
        (6, 100, 150, 10, 1),  # not even one: it is tried
        (6, 100, 100, 120, 6),  # The second took nothing.
    ],
)
def test_replicas_at_once_follow_from_what_one_and_two_take(
    count: int, one: int, two: int, free: int, expected: int
) -> None:
    assert memory.at_once(count, one, two, free) == expected


def test_a_plan_is_measured_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = replicas()

    def taken(call: Callable[[], object], at: torch.device) -> int:
        """In rows, by the largest that the call asks for."""
        for rows in range(BATCH, 10 * BATCH, BATCH):
            device.forward = rows
            try:
                call()
            except torch.OutOfMemoryError:
                continue
            return rows
        raise AssertionError

    monkeypatch.setattr(memory, "taken", taken)
    monkeypatch.setattr(memory, "room", lambda at: 2 * BATCH / memory.USABLE)
    found = trained(hungry, lrs=LRS, replicas="batched", validation_examples=32, test_examples=32)
    assert found[0].note is not None and "2 at a time" in found[0].note
    same(found, expected)


class Waiting(TorchDispatchMode):
    """Refuses what makes the host wait for the device."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2")
    armed = True

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.armed = False
        yield
        self.armed = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert not (self.armed and name in self.WAITS), f"aten::{name} waits for the device"
        return func(*args, **(kwargs or {}))


class Seen(Exception):
    """Enough was seen."""


def watch(
    kind: type[Turns] | type[Batched], given: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step of two replicas, to its end."""
    waiting, contexts = Waiting(), Objective.contexts

    def on_the_host(objective: Objective, seed: int, step: int) -> Any:  # as sizes of nested layers are drawn
        with waiting.paused():
            return contexts(objective, seed, step)

    def tick(replica: int, done: int) -> None:
        raise Seen

    monkeypatch.setattr(Objective, "contexts", on_the_host)
    at = cell(given, train_examples=8, batch_size=8)
    model = at.architecture.build(at.task, 0).to(device)
    learner = kind(model, Group(at, 0).runs, Place(torch.device(device)))
    rows = load(at.task, seed=0, split="train", rows=8, device=torch.device(device), training=True)
    with waiting, pytest.raises(Seen):
        learner.advance(rows, [torch.arange(8, device=device)], 0, [True, True], tick)


@pytest.mark.parametrize("name", architectures.names())
def test_no_step_waits_for_the_device_or_mixes_it_with_the_host(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tensor that a layer makes on the host meets those of another device: one without values does.
    watch(Batched, architectures.get(name).example, "meta", monkeypatch)


@pytest.mark.parametrize("kind", [Turns, Batched])
def test_no_step_waits_for_its_values(
    kind: type[Turns] | type[Batched], monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(kind, "mamba matformer-mlp", "cpu", monkeypatch)


def test_a_layer_that_waits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="_local_scalar_dense waits"):
        watch(Turns, f"{Branching.__module__}:Branching", "cpu", monkeypatch)


class Homebound(nn.Module):
    """Makes a tensor on the host, whatever the device of its input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x) * torch.arange(x.shape[-1])


def test_a_layer_that_mixes_devices_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="device"):
        watch(Batched, f"{__name__}:Homebound", "meta", monkeypatch)
