"""Run one group and make its records: the step between the trainer and the store."""

import dataclasses
import functools
import platform
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import nn

import architectures
import mad
import synthetic_tasks
from architectures.contract import causality
from architectures.elastic import Sampling
from mad.data.records import Cost, Record, Status
from mad.data.tasks import identify
from mad.run.cost import cost_of, require_memory, sketch_cell
from mad.run.driver import one_driver
from mad.run.place import Place
from mad.run.sweep import Cell, Group
from mad.run.trainer import PROBE_ROWS, Outcome, Progress, Replicas, train
from synthetic_tasks import Task

# Where our own code is.
HOUSE = [Path(folder) for package in (mad, architectures, synthetic_tasks) for folder in package.__path__]
# Characters of what a layer raised that are kept.
LONGEST_ERROR = 2**16
CAUSAL_REMEDY = "use a causal layer, or a task that is answered after its last token, such as compression"


@one_driver()
def run_group(
    group: Group,
    *,
    place: Place,
    replicas: Replicas = "auto",
    report: Callable[[Progress], None] = lambda progress: None,
    keep: Callable[[nn.Module], None] | None = None,
) -> list[Record]:
    """Train a group and return a record of each of its runs. What the training raises becomes "failed".

    So does a layer's sys.exit. An interruption (control-C) is not caught: the caller records it with
    `unfinished` and stops.
    """
    cell, task = group.cell, group.cell.task
    environment = environment_of(place.device)
    if cell.failure is not None:
        return unfinished(group, "failed", environment, cell.failure)
    try:
        model = cell.architecture.build(task, group.seed)
        cost = cell.cost or cost_of(cell, model)
        outcomes = train(group.runs, task, model, place=place, replicas=replicas, report=report, keep=keep)
    except KeyboardInterrupt:
        raise
    except torch.OutOfMemoryError as error:
        reason = f"MemoryError: {_too_large(cell, environment)} ({str(error).partition('. ')[0]})"
        return unfinished(group, "failed", environment, reason)
    except BaseException as error:  # A user's layer may raise anything; the record says what.
        return unfinished(group, "failed", environment, _told(error))
    return _records(group, [_measured(outcome, cost, environment) for outcome in outcomes])


def _too_large(cell: Cell, environment: dict[str, Any]) -> str:
    return (
        f"one replica of {cell.architecture.given} on {cell.task} with batches of {cell.setting.batch_size} "
        f"does not fit into the memory of {environment['device_name']}; take a smaller width, length or "
        "batch, or --precision bf16-mixed"
    )


def unfinished(
    group: Group, status: Status, environment: dict[str, Any], error: str | None = None
) -> list[Record]:
    """Records of a group that came to nothing; the next call replaces them."""
    return _records(
        group, [{"status": status, "environment": environment, "error": error} for _ in group.runs]
    )


def _told(error: BaseException) -> str:
    """Its traceback, of a long one the end, as text that can be written: it may hold a tensor, or no text."""
    text = "".join(traceback.format_exception(error))[-LONGEST_ERROR:]
    return text.encode(errors="backslashreplace").decode()


def _measured(outcome: Outcome, cost: Cost, environment: dict[str, Any]) -> dict[str, Any]:
    """What training adds to a record."""
    spent = {"seconds": round(outcome.seconds, 3), "peak_memory": outcome.peak_memory}
    return {
        "status": outcome.status,
        "metrics": outcome.metrics,
        "cost": cost.model_copy(update=spent),
        "environment": environment if outcome.note is None else environment | {"note": outcome.note},
    }


def _records(group: Group, found: list[dict[str, Any]]) -> list[Record]:
    fixed: dict[str, Any] = {
        "group": group.id,
        "given": group.cell.architecture.given,
        "suite": group.cell.suite,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return [
        Record(id=id, config=run, **fixed, **fields)
        for id, run, fields in zip(group.run_ids, group.runs, found, strict=True)
    ]


def check_sketch(cell: Cell) -> Cell:
    """What can be said of a cell without weights: its size, and whether a layer declares that it sees too
    much. The cell comes back as it was.
    """
    identify(cell.task)  # Refused where it cannot be.
    model, task = sketch_cell(cell), cell.task
    if isinstance(model, nn.Module) and task.readout == "every":
        causality.require_declared(model, task=_asked(task), remedy=CAUSAL_REMEDY)
    return cell


@one_driver()
def check_cell(cell: Cell) -> Cell:
    """Build the cell's model and run some rows through it: what cannot work is refused before any training.

    A ValueError is the refusal. What a user's layer raises as it runs, and whatever else it raises, is the
    cell's `failure`, which becomes the record of its runs. The cell comes back with the cost of its model.
    """
    try:
        return dataclasses.replace(cell, cost=_check_model(cell))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit, too.
        if isinstance(error, ValueError) and not _raised_by_a_layer(error):
            raise
        return dataclasses.replace(cell, failure=_told(error))


def _raised_by_a_layer(error: BaseException) -> bool:
    """Whether it comes out of a call of a module, and not from our own code."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    called = any(frame.f_code is nn.Module._call_impl.__code__ for frame in frames)
    last = Path(frames[-1].f_code.co_filename)
    return called and not any(last.is_relative_to(folder) for folder in HOUSE)


def _check_model(cell: Cell) -> Cost:
    task = cell.task
    require_memory(cell)  # Before any is taken.
    rows = torch.from_numpy(task.draw(0, "train", PROBE_ROWS).inputs)
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
        remedy=CAUSAL_REMEDY,
    )
    return cost_of(cell, model)


def _asked(task: Task) -> str:
    return f"{task}, which is answered at every position" if task.readout == "every" else str(task)


def environment_of(device: torch.device) -> dict[str, Any]:
    """Where the numbers were made; not part of a run's identity."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "mad_suite": mad.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "device": device.type,
        "device_name": name,
        # Which instructions torch's own kernels use: virtual machines give processors one name.
        "simd": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


@functools.cache
def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
