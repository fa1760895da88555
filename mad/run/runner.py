"""Run one group and make its records: the step between the trainer and the store."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import platform
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from architectures import ModelOptions, SequenceModel, account
from architectures.contract import causality
from architectures.elastic import Sampling
from architectures.model import check_size
from architectures.registry import get
from architectures.sizes.accounting import Account, account_model
from mad.data.records import Cost, Record, RunConfig, Status
from mad.messages import last_words
from mad.run.driver import one_driver
from mad.run.sweep import Cell, Group
from mad.run.trainer import ROWS, Outcome, Progress, Replicas, train
from synthetic_tasks import Task

REMEDY = "use a causal layer, or a task that is answered after its last token, such as compression"


@one_driver()
def run_group(
    group: Group,
    *,
    fabric: Fabric,
    replicas: Replicas = "auto",
    report: Callable[[Progress], None] = lambda progress: None,
    keep: Callable[[nn.Module], None] | None = None,
) -> list[Record]:
    """Train a group and return a record of each of its runs. What the training raises becomes "failed".

    So does a layer's sys.exit. An interruption (control-C) is not caught: the caller records it with
    `unfinished` and stops.
    """
    cell, task = group.cell, group.cell.task
    runs = group.runs
    environment = environment_of(fabric.device)
    if cell.failure is not None:
        return unfinished(group, "failed", environment, cell.failure)
    try:
        model = cell.architecture.build(task, group.seed)
        cost = cost_of(cell, task)
        outcomes = train(runs, task, model, fabric=fabric, replicas=replicas, report=report, keep=keep)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # A user's layer may raise anything; the record says what.
        return unfinished(group, "failed", environment, "".join(traceback.format_exception(error)))
    return [
        _record(group, run, outcome, cost, environment) for run, outcome in zip(runs, outcomes, strict=True)
    ]


def unfinished(
    group: Group, status: Status, environment: dict[str, Any], error: str | None = None
) -> list[Record]:
    """Records of a group that came to nothing; the next call replaces them."""
    return [
        Record(
            id=run.id,
            group=group.id,
            status=status,
            config=run,
            given=group.cell.architecture.given,
            suite=group.cell.suite,
            environment=environment,
            error=error,
            created=_now(),
        )
        for run in group.runs
    ]


def _record(
    group: Group, run: RunConfig, outcome: Outcome, cost: Cost, environment: dict[str, Any]
) -> Record:
    return Record(
        id=run.id,
        group=group.id,
        status=outcome.status,
        config=run,
        given=group.cell.architecture.given,
        suite=group.cell.suite,
        metrics=outcome.metrics,
        cost=cost.model_copy(
            update={"seconds": round(outcome.seconds, 3), "peak_memory": outcome.peak_memory}
        ),
        environment=environment if outcome.note is None else environment | {"note": outcome.note},
        created=_now(),
    )


@one_driver()
def cost_of(cell: Cell, task: Task) -> Cost:
    """Parameters, FLOPs and state of a cell's model at its task's length."""
    found = counted_cost(cell)
    if isinstance(found, Cost) and found.flops_per_token is not None:
        return found
    model = cell.architecture.build(task, 0)
    # A layer of the user's own need not know its FLOPs.
    with contextlib.suppress(RuntimeError):
        if isinstance(model, SequenceModel):
            return _cost(account_model(model, task.seq_len))
    return Cost(params=sum(p.numel() for p in model.parameters()))


@one_driver()
def counted_cost(cell: Cell) -> Cost | str:
    """The same without weights, on the meta device; what a user's code raised where it does not run there."""
    model = sketch_cell(cell)
    if isinstance(model, str):
        return model
    if not isinstance(model, SequenceModel):
        return Cost(params=sum(p.numel() for p in model.parameters()))
    where: dict[str, Any] = {"vocab_size": model.vocab_size, "dim": model.dim, "seq_len": model.max_len}
    try:
        return _cost(account(model.spec, readout=model.readout, options=model.options, **where))
    except BaseException as error:
        own = any(get(layer.name).source for layer in model.spec.walk())
        if not own or isinstance(error, KeyboardInterrupt):
            raise
        return Cost(params=sum(p.numel() for p in model.parameters()))


@one_driver()
def sketch_cell(cell: Cell) -> nn.Module | str:
    """The cell's model without weights; where a user's code does not allow that, what it raised.

    Refuses what would not fit into memory, with the gradient, two moments and a copy for each point of the
    grid.
    """
    task, architecture = cell.task, cell.architecture
    own = architecture.factory is not None or bool(architecture.config.sources)
    if architecture.config.dim is not None:
        check_size(
            architecture.config.spec,
            vocab_size=task.vocab_size,
            dim=architecture.config.dim,
            max_len=task.seq_len,
            readout=task.readout,
            options=ModelOptions(**architecture.config.options),
            copies=4 * len(cell.setting.grid),
        )
    try:
        with torch.device("meta"):
            model = architecture.build(task, 0)
    except (ValueError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if not own:
            raise
        return last_words("".join(traceback.format_exception_only(error)))
    return model


def check_sketch(cell: Cell) -> None:
    """What can be said of a cell without weights: its size, and whether a layer declares that it sees too
    much.
    """
    model, task = sketch_cell(cell), cell.task
    if isinstance(model, nn.Module) and task.readout == "every":
        causality.require_declared(model, task=_asked(task), remedy=REMEDY)


def _cost(found: Account) -> Cost:
    return Cost(
        params=found.params,
        core_params=found.core,
        flops_per_token=found.flops,
        training_flops_per_token=found.training_flops,
        state=found.state,
        nominal_state=found.nominal,
    )


@one_driver()
def check_cell(cell: Cell) -> Cell:
    """Build the cell's model and run some rows through it: what cannot work is refused before any training.

    A ValueError is the refusal. Whatever else a user's layer raises is the cell's `failure`, which becomes
    the record of its runs.
    """
    try:
        _check_model(cell)
    except (ValueError, KeyboardInterrupt):
        raise
    except BaseException as error:  # sys.exit, too.
        return dataclasses.replace(cell, failure="".join(traceback.format_exception(error)))
    return cell


def _check_model(cell: Cell) -> None:
    task = cell.task
    sketch_cell(cell)  # What does not fit is refused before memory is taken.
    rows = torch.from_numpy(task.draw(0, "train", ROWS).inputs)
    model = cell.architecture.build(task, 0)
    Sampling.of(model)
    with torch.no_grad():
        logits = model.eval()(rows[:2])
    expected = (2, task.seq_len, task.vocab_size)
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != expected:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(
            f"{cell.architecture.given} on {task} returned {got} for tokens {expected[:2]}; "
            f"a model returns logits (B, T, vocab_size) = {expected}"
        )
    causality.require(
        model,
        rows,
        task.vocab_size,
        who=cell.architecture.given,
        task=_asked(task),
        causal=task.readout == "every",
        remedy=REMEDY,
    )


def _asked(task: Task) -> str:
    return f"{task}, which is answered at every position" if task.readout == "every" else str(task)


def environment_of(device: torch.device) -> dict[str, Any]:
    """Where the numbers were made; not part of a run's identity."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "mad_suite": version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "device": device.type,
        "device_name": name,
        "threads": torch.get_num_threads(),
    }


@functools.cache
def version() -> str:
    try:
        return importlib.metadata.version("mad-suite")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"


@functools.cache
def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
