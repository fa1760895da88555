"""How long a sweep will take: the work in FLOPs, and the speed of a few measured steps."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from lightning.fabric import Fabric

from mad.data import load
from mad.runner import cost_of
from mad.sweep import Cell, Group
from mad.trainer import Turns


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
