"""A sweep before it runs: its work in FLOPs, and about how long it takes."""

import functools
import time
from dataclasses import dataclass

import torch
from lightning.fabric import Fabric

from mad.data.records import Cost
from mad.run.cost import cost_of, counted_cost
from mad.run.sweep import Cell, Group

# A step takes 1.4 to 4 times its FLOPs at the speed of a product, 2.3 in the middle: six architectures on the
# quick and baseline settings, one CPU core.
STEP_OVERHEAD = 2.3


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
    cost = cost or cell.cost or cost_of(cell)
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
        seconds += STEP_OVERHEAD * work(cell, cost) * len(cell.setting.grid) / speed
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
