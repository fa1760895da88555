"""What a sweep is before it runs: its cells, its work in FLOPs, and the time by a few measured steps."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.fabric import Fabric
from rich.console import Console

from mad.api import Prepared
from mad.data import load
from mad.engines.inline import missing
from mad.learners import Turns
from mad.listings import new_table
from mad.messages import printable
from mad.progress import clock
from mad.runner import cost_of
from mad.store import Store, default_path
from mad.sweep import Cell, Group


@dataclass(frozen=True)
class Estimate:
    """Groups, runs, steps, and the seconds that they take if none stops early."""

    groups: int
    runs: int
    steps: int
    seconds: float


def work(cell: Cell) -> float:
    """Training FLOPs of one run of a cell: three times the forward pass; 6 a parameter and token where
    unknown.
    """
    if cell.failure is not None:
        return 0.0
    task, cost = cell.task, cost_of(cell, cell.task)
    per_token = 3 * cost.flops_per_token if cost.flops_per_token else 6.0 * cost.params
    return (
        per_token
        * task.seq_len
        * min(cell.setting.batch_size, cell.setting.train_examples)
        * cell.setting.steps
    )


def estimate(groups: list[Group], fabric: Fabric) -> Estimate:
    """Measure a few steps of each architecture on its first setting, and scale by the work of the others."""
    rates: dict[str, float] = {}
    seconds = 0.0
    for group in groups:
        cell = group.cell
        name = cell.architecture.given
        if name not in rates:
            rates[name] = _seconds_per_step(group, fabric) / (work(cell) / cell.setting.steps)
        seconds += rates[name] * work(cell) * len(cell.setting.grid)
    runs = sum(len(group.cell.setting.grid) for group in groups)
    steps = sum(len(group.cell.setting.grid) * group.cell.setting.steps for group in groups)
    return Estimate(len(groups), runs, steps, seconds)


def _seconds_per_step(group: Group, fabric: Fabric) -> float:
    cell = group.cell
    rows = min(cell.setting.batch_size, cell.setting.train_examples)
    data = load(cell.task, seed=group.seed, split="train", rows=rows, device=fabric.device, training=True)
    learner = Turns(cell.architecture.build(cell.task, 0).to(fabric.device), group.runs[:1], fabric)
    batch = torch.arange(rows, device=fabric.device)
    learner.advance(data, [batch], 0, [True], lambda replica, step: None)
    start = time.perf_counter()
    learner.advance(data, [batch] * 3, 0, [True], lambda replica, step: None)
    return (time.perf_counter() - start) / 3


def headline(prepared: Prepared, store: Path | None) -> str:
    """One line: what is about to run, and where its results go."""
    suite, protocol = prepared.cells[0].suite, prepared.cells[0].protocol
    names = len({cell.architecture.given for cell in prepared.cells})
    runs = sum(len(group.cell.setting.grid) for group in prepared.groups)
    return (
        f"{suite}, protocol {protocol.name}@{protocol.version}: {names} architecture{'s' * (names > 1)}, "
        f"{len(prepared.groups)} groups, {runs} runs; store {store or default_path()}"
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
        f"{len(prepared.cells)} cells, {found.groups} groups to run ({cached} stored already), "
        f"{found.runs} runs, {found.steps:,} steps\n"
        f"at most about {clock(found.seconds)} here; less where a task is solved early"
    )
