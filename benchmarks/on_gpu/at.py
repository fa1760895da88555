"""Where a part measures, and with what clock; what several parts measure on."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mad.data.protocol import get_protocol, get_suite
from mad.data.records import RunConfig
from mad.run.batched import Batched
from mad.run.batches import Split, load, order
from mad.run.cost import training_work
from mad.run.place import Place
from mad.run.sweep import Cell, Group, plan

Row = dict[str, Any]
# A part yields the names of its rows with what measures them. A row may say `failed`, and why.
Part = Callable[["At"], Iterator[tuple[str, Callable[[], Row]]]]

ARCHITECTURES = (
    "transformer++",
    "striped-hyena",
    "mamba",
    "2*(gated-delta-net swiglu)",
    "2*(mamba2 swiglu)",
    "2*(rwkv7 rwkv7-channel-mix)",
)


@dataclass(frozen=True, kw_only=True)
class At:
    """A device; `dry`: everything once, in tiny sizes; `found`: the rows so far, by part and name."""

    device: torch.device
    dry: bool = False
    deadline: float = float("inf")
    found: dict[str, dict[str, Row]] = field(default_factory=dict)

    @property
    def architectures(self) -> tuple[str, ...]:
        return ARCHITECTURES[:: len(ARCHITECTURES) - 1] if self.dry else ARCHITECTURES

    @property
    def replicas(self) -> tuple[int, ...]:
        return (1, 2) if self.dry else (1, 6, 24)

    def cells(self, spec: str, suite: str = "baseline") -> list[Cell]:
        return _cells(spec, "smoke" if self.dry else suite)

    def now(self) -> float:
        """When the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def per_step(self, run: Callable[[int], object], seconds: float = 0.4) -> float:
        """Seconds per step of `run(steps)`, once it is warm, from about so many seconds of them."""

        def timed(steps: int) -> float:
            start = self.now()
            run(steps)
            return (self.now() - start) / steps

        run(1 if self.dry else 3)
        return timed(1) if self.dry else timed(max(3, min(100, int(seconds / timed(2)))))


@functools.cache
def _cells(spec: str, suite: str) -> list[Cell]:
    return plan([spec], get_suite(suite), get_protocol("sound"))


def runs_of(cell: Cell, count: int) -> list[RunConfig]:
    """Replicas at learning rates of their own."""
    return [Group(cell, 0).runs[0].model_copy(update={"lr": 1e-3 * (1 + r / 24)}) for r in range(count)]


def rows_of(cell: Cell, device: torch.device, seed: int = 0) -> tuple[Split, list[Tensor]]:
    """Some training data of a cell and its batches, to be used again and again."""
    size = min(cell.setting.batch_size, cell.setting.train_examples)
    rows = min(cell.setting.train_examples, 4 * size)
    data = load(cell.task, seed=seed, split="train", rows=rows, device=device, training=True)
    return data, list(itertools.islice(order(seed, rows, size, device), rows // size))


@dataclass
class Steps:
    """Steps of replicas that are batched, as the trainer makes them."""

    cell: Cell
    count: int
    place: Place
    compile: bool = False

    def __post_init__(self) -> None:
        runs = [r.model_copy(update={"compile": self.compile}) for r in runs_of(self.cell, self.count)]
        model = self.cell.architecture.build(self.cell.task, 0).to(self.place.device)
        self.data, self.batches = rows_of(self.cell, self.place.device)
        self.learner = Batched(model, runs, self.place)
        if self.count > 1:
            self.learner.fit(self.data, len(self.batches[0]))

    def __call__(self, steps: int) -> list[float]:
        """Their mean losses."""
        batches = list(itertools.islice(itertools.cycle(self.batches), steps))
        alive = [True] * self.count
        return self.learner.advance(self.data, batches, 0, alive, lambda replica, done: None)


def flops_of(cell: Cell) -> float:
    """Of one step of one replica, forward and backward."""
    return training_work(cell) / cell.setting.steps


@functools.cache
def ceiling(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOP/s of a square matrix product."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    out = torch.empty_like(a)

    def run(steps: int) -> None:
        for _ in range(steps):
            torch.mm(a, a, out=out)

    return 2 * size**3 / At(device=device, dry=size < 1000).per_step(run)


def ceiling_at(at: At, precision: str) -> float:
    dtype = torch.float32 if precision == "32-true" else torch.bfloat16
    return ceiling(at.device, dtype, 256 if at.dry else 8192)


def gap(found: Tensor, exact: Tensor) -> float:
    """The largest difference, over the largest value."""
    exact = exact.detach().double().cpu()
    error = (found.detach().double().cpu() - exact).abs().max() / exact.abs().max().clamp(min=1e-30)
    return float(error)


def judged(row: Row, **limits: float) -> Row:
    """The row, failed where a figure is above its limit, or no number."""
    over = [
        f"{name} {row[name]:.1e} > {limit:.0e}" for name, limit in limits.items() if not row[name] <= limit
    ]
    return row | ({"failed": ", ".join(over)} if over else {})
