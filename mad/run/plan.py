"""What a sweep is before it runs: its cells, its work in FLOPs, and about how long it takes."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.fabric import Fabric
from rich.console import Console

from mad.api import Prepared
from mad.commands.listings import new_table
from mad.data.records import Cost
from mad.messages import counted, printable
from mad.progress import clock
from mad.run.engines.inline import missing
from mad.run.runner import cost_of, counted_cost
from mad.run.sweep import Cell, Group
from mad.store import Store, default_path

# A step takes 1.4 to 4 times its FLOPs at the speed of a product, 2.3 in the middle: six architectures on the
# quick and baseline settings, one CPU core.
SLOWER = 2.3


@dataclass(frozen=True)
class Estimate:
    """Groups, runs, steps, and the seconds that they take if none stops early, but for those `unknown`."""

    groups: int
    runs: int
    steps: int
    seconds: float
    unknown: tuple[str, ...] = ()


def work(cell: Cell, cost: Cost | None = None) -> float:
    """Training FLOPs of one run of a cell; 6 per parameter and token where unknown."""
    if cell.failure is not None:
        return 0.0
    cost = cost or cost_of(cell, cell.task)
    per_token = cost.training_flops_per_token or 6.0 * cost.params
    return per_token * _tokens(cell) * cell.setting.steps


def _tokens(cell: Cell) -> int:
    """Of a step."""
    return cell.task.seq_len * min(cell.setting.batch_size, cell.setting.train_examples)


def estimate(groups: list[Group], fabric: Fabric) -> Estimate:
    """From the work of each cell and the speed of the device at products of its size; no weights are made."""
    seconds, unknown = 0.0, set[str]()
    for group in groups:
        cell = group.cell
        cost = counted_cost(cell)
        if isinstance(cost, str):
            unknown.add(f"{cell.architecture.given}, which was not built without weights ({cost})")
            continue
        dim = cell.architecture.config.dim or 128
        speed = _flops_per_second(_tokens(cell), dim, fabric.device)
        seconds += SLOWER * work(cell, cost) * len(cell.setting.grid) / speed
    runs = sum(len(group.cell.setting.grid) for group in groups)
    steps = sum(len(group.cell.setting.grid) * group.cell.setting.steps for group in groups)
    return Estimate(len(groups), runs, steps, seconds, tuple(sorted(unknown)))


@functools.cache
def _flops_per_second(tokens: int, dim: int, device: torch.device) -> float:
    """Of a product (tokens, dim) (dim, dim) with its gradients."""
    x = torch.randn(min(tokens, 4096), dim, device=device, requires_grad=True)
    w = torch.randn(dim, dim, device=device, requires_grad=True)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        gradients = torch.autograd.grad((x @ w).sum(), (x, w))
        gradients[1].sum().item()  # waits for the device
        times.append(time.perf_counter() - start)
    return 6 * x.shape[0] * dim**2 / min(times[1:])


def headline(prepared: Prepared, store: Path | None) -> str:
    """One line: what is about to run, and where its results go."""
    suite, protocol = prepared.cells[0].suite, prepared.cells[0].protocol
    names = len({cell.architecture.given for cell in prepared.cells})
    runs = sum(len(group.cell.setting.grid) for group in prepared.groups)
    return (
        f"{suite}, protocol {protocol.name}@{protocol.version}: {counted(names, 'architecture')}, "
        f"{counted(len(prepared.groups), 'group')}, {counted(runs, 'run')}; store {store or default_path()}"
    )


def show_plan(prepared: Prepared, store: Path | None, console: Console) -> None:
    """Print the cells, what is stored already, and how long the rest takes."""
    path = store or default_path()
    groups = prepared.groups
    if path.exists():
        with Store(path, read_only=True) as opened:
            groups = [g for g in groups if not g.cell.architecture.stored or missing(g, opened)]
    table = new_table("architecture", "task", "examples", "grid", "seeds", "steps a run")
    for cell in prepared.cells:
        setting = cell.setting
        table.add_row(
            printable(cell.architecture.given),
            printable(str(cell.task)),
            f"{setting.train_examples:,}",
            str(len(setting.grid)),
            str(len(cell.seeds)),
            f"{setting.steps:,}",
        )
    console.print(table, markup=False)
    found = estimate(groups, prepared.fabric)
    cached = len(prepared.groups) - len(groups)
    console.print(
        f"{counted(len(prepared.cells), 'cell')}, {counted(found.groups, 'group')} to run "
        f"({cached} stored already), {counted(found.runs, 'run')}, {counted(found.steps, 'step')}\n"
        f"about {clock(found.seconds)} here, give or take a factor of two; less where a task is solved early"
    )
    for name in found.unknown:
        console.print(printable(f"without the time of {name}"), markup=False, soft_wrap=True)
