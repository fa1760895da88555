"""What a cell's model costs, whether it fits and about how long a sweep takes: counted without weights where
the code of its layers allows that.
"""

import contextlib
import functools
import time
import traceback
from dataclasses import dataclass

import torch
from torch import nn

from architectures import ModelOptions, SequenceModel, account
from architectures.model import check_size, sketched
from architectures.sizes.accounting import Account, account_model
from mad.data.records import Cost
from mad.messages import last_words
from mad.run.driver import one_driver
from mad.run.place import Place
from mad.run.sweep import Cell, Group


@one_driver()
def cost_of(cell: Cell, model: nn.Module | None = None) -> Cost:
    """Parameters, FLOPs and state of a cell's model at its task's length; `model` is that one, if built."""
    if cell.architecture.spec is not None:
        found = counted_cost(cell)
        if isinstance(found, Cost) and found.flops_per_token is not None:
            return found
    model = cell.architecture.build(cell.task, 0) if model is None else model
    # A layer of the user's own need not know its FLOPs.
    with contextlib.suppress(RuntimeError):
        if isinstance(model, SequenceModel):
            return _cost(account_model(model, cell.task.seq_len))
    return _parameters(model)


@one_driver()
def counted_cost(cell: Cell) -> Cost | str:
    """The same without weights, on the meta device; what a user's code raised where it does not run there."""
    model = sketch_cell(cell)
    if isinstance(model, str):
        return model
    if not isinstance(model, SequenceModel):
        return _parameters(model)
    try:
        size = {"vocab_size": model.vocab_size, "dim": model.dim, "seq_len": model.max_len}
        return _cost(account(model.spec, **size, readout=model.readout, options=model.options))
    except BaseException as error:
        if not cell.architecture.config.sources or isinstance(error, KeyboardInterrupt):
            raise
        return _parameters(model)


@one_driver()
def sketch_cell(cell: Cell) -> nn.Module | str:
    """The cell's model without weights; where a user's code does not allow that, what it raised."""
    task, architecture, config = cell.task, cell.architecture, cell.architecture.config
    try:
        require_memory(cell)
        if architecture.spec is not None and config.dim is not None:
            size = (task.vocab_size, config.dim, task.seq_len)
            return sketched(architecture.spec, *size, task.readout, ModelOptions(**config.options))
        with torch.device("meta"):
            return architecture.build(task, 0)
    except (ValueError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if architecture.factory is None and not config.sources:
            raise
        return last_words("".join(traceback.format_exception_only(error)))


def require_memory(cell: Cell) -> None:
    """Refuse a spec whose model would not fit into memory, with the gradient, two moments and a copy for each
    point of the grid.
    """
    task, architecture = cell.task, cell.architecture
    if architecture.spec is not None and (dim := architecture.config.dim) is not None:
        options, copies = ModelOptions(**architecture.config.options), 4 * len(cell.setting.grid)
        sizes = task.vocab_size, dim, task.seq_len, task.readout, options
        check_size(architecture.spec, *sizes, copies=copies)


def _parameters(model: nn.Module) -> Cost:
    return Cost(params=sum(p.numel() for p in model.parameters()))


def _cost(found: Account) -> Cost:
    return Cost(
        params=found.params,
        core_params=found.core,
        flops_per_token=found.flops,
        training_flops_per_token=found.training_flops,
        state=found.state,
        nominal_state=found.nominal,
    )


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


def training_work(cell: Cell, cost: Cost | None = None) -> float:
    """Training FLOPs of one run of a cell; 6 per parameter and token where unknown."""
    if cell.failure is not None:
        return 0.0
    cost = cost or cell.cost or cost_of(cell)
    per_token = cost.training_flops_per_token or 6.0 * cost.params
    return per_token * _tokens(cell) * cell.setting.steps


def work(cell: Cell, cost: Cost | None = None) -> float:
    """FLOPs of one run of a cell: of its training and its evaluations, one more than on the curve."""
    if cell.failure is not None:
        return 0.0
    setting, cost = cell.setting, cost or cell.cost or cost_of(cell)
    rows = (setting.evaluations + 1) * setting.validation_examples + setting.test_examples
    evaluated = (cost.flops_per_token or 2.0 * cost.params) * cell.task.seq_len * rows
    return training_work(cell, cost) + evaluated


def _tokens(cell: Cell) -> int:
    """Of a step."""
    return cell.task.seq_len * min(cell.setting.batch_size, cell.setting.train_examples)


def estimate(groups: list[Group], place: Place) -> Estimate:
    """From the work of each cell and the speed of the device at products of its size; no weights are made."""
    seconds, unknown = 0.0, set[str]()
    for group in groups:
        cell = group.cell
        cost = cell.cost or counted_cost(cell)
        if isinstance(cost, str):
            unknown.add(f"{cell.architecture.given}, which was not built without weights ({cost})")
            continue
        dim = cell.architecture.config.dim or 128
        speed = _flops_per_second(_tokens(cell), dim, place.device)
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
