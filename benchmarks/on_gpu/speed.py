"""Part 2: run-steps per second, a run-step being one optimiser step of one run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, TensorDataset
from training import Module

from mad.run.place import PRECISIONS, Place
from mad.run.sweep import Cell
from on_gpu.at import At, Row, Steps, ceiling_at, flops_of, rows_of

Measured = Iterator[tuple[str, Callable[[], Row]]]


def products(at: At) -> Measured:
    """The ceiling: a large matrix product in each precision."""
    for precision in PRECISIONS:
        yield precision, partial(_product, at, precision)


def _product(at: At, precision: str) -> Row:
    return {"TFLOP/s": ceiling_at(at, precision) / 1e12}


def recall(at: At) -> Measured:
    """In-context recall: replicas batched, over one at a time in a plain Lightning Trainer."""
    for precision in PRECISIONS[:1] if at.dry else PRECISIONS:
        for spec in at.architectures:
            yield f"{spec}, {precision}", partial(_rates, at, at.cells(spec)[0], precision)


def settings(at: At) -> Measured:
    """The same at the other baseline settings."""
    for i in range(1, 2 if at.dry else 6):
        for spec in at.architectures:
            cell = at.cells(spec)[i]
            yield f"{spec}, {cell.task.name}", partial(_rates, at, cell, "32-true")


def _rates(at: At, cell: Cell, precision: str) -> Row:
    place = Place(at.device, precision)
    row: Row = {"Trainer": 1 / trainer_step(at, cell, precision)}
    for count in at.replicas:
        steps = Steps(cell, count, place)
        row[f"x{count}"] = count / at.per_step(steps)
        if steps.learner.at_once < count:
            row["note"] = steps.learner.note
    best = row[f"x{at.replicas[-1]}"]
    row[f"x{at.replicas[-1]} over Trainer"] = best / row["Trainer"]
    return row | {"of ceiling": best * flops_of(cell) / ceiling_at(at, precision)}


def trainer_step(at: At, cell: Cell, precision: str) -> float:
    """Seconds per step of one run in a plain Lightning Trainer: DataLoader, torchmetrics, log."""
    warm, timed = (1, 1) if at.dry else (5, 20)
    data, batches = rows_of(cell, torch.device("cpu"))
    order: Any = [batch.tolist() for batch in ((warm + timed) * batches)[: warm + timed]]
    module = Module(cell.architecture.build(cell.task, 0), cell.task.vocab_size)
    ends: list[float] = []

    def batch_end(*_: Any) -> None:
        if len(ends) in (warm - 1, warm + timed - 1):
            ends.append(at.now())
        else:
            ends.append(0.0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It advises workers and a progress bar.
        trainer = lightning.Trainer(
            accelerator="gpu" if at.device.type == "cuda" else "cpu",
            devices=[at.device.index or 0] if at.device.type == "cuda" else 1,
            precision=precision,  # type: ignore[arg-type]
            max_epochs=1,
            callbacks=[LambdaCallback(on_train_batch_end=batch_end)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(TensorDataset(data.inputs, data.targets), batch_sampler=order))
    return (ends[-1] - ends[warm - 1]) / timed


def graphs(at: At) -> Measured:
    """Six replicas batched, each step a replay of one CUDA graph; an experiment, with a constant rate."""
    for spec in at.architectures:
        yield spec, partial(_graph, at, at.cells(spec)[0])


def _graph(at: At, cell: Cell) -> Row:
    count = at.replicas[1]
    steps = Steps(cell, count, Place(at.device))
    learner, data, batch = steps.learner, steps.data, steps.batches[0]
    tokens, targets = data.inputs[batch], data.targets[batch]

    def run(steps: int = 1) -> None:
        for _ in range(steps):
            contexts = learner.objective.contexts(0, 0)
            losses, _ = learner.call(learner.parameters, learner.buffers, tokens, targets, contexts)
            losses.sum().backward()
            learner.optimizer.step(1e-3)
            torch._foreach_zero_(learner.optimizer.gradients)

    row: Row = {"eager": count / at.per_step(run)}
    if at.device.type != "cuda":
        return row | {"graph": "needs CUDA"}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(3)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError as error:
        return row | {"graph": f"not captured: {str(error).splitlines()[0][:80]}"}

    def replay(steps: int) -> None:
        for _ in range(steps):
            graph.replay()

    row["graph"] = count / at.per_step(replay)
    return row | {"gain": row["graph"] / row["eager"]}


def fused(at: At) -> Measured:
    """Three cells of one shape as one batch: each replica has data of its own."""
    for spec in at.architectures:
        yield spec, partial(_fused, at, at.cells(spec)[0])


def _fused(at: At, cell: Cell) -> Row:
    count = at.replicas[1]
    alone = Steps(cell, count, Place(at.device))
    together = Steps(cell, 3 * count, Place(at.device))
    learner = together.learner
    parts = [rows_of(cell, at.device, seed) for seed in range(3)]
    tokens, targets = (
        torch.cat([_repeat(getattr(data, name)[batches[0]], count) for data, batches in parts])
        for name in ("inputs", "targets")
    )

    def loss(parameters: Any, buffers: Any, tokens: Tensor, targets: Tensor) -> Tensor:
        given = (tokens, targets, *learner.objective.contexts(0, 0))
        return torch.func.functional_call(learner.objective, parameters | buffers, given)[0]

    call = torch.vmap(loss, randomness="same")

    def run(steps: int) -> None:
        for _ in range(steps):
            call(learner.parameters, learner.buffers, tokens, targets).sum().backward()
            learner.optimizer.step(1e-3)
            torch._foreach_zero_(learner.optimizer.gradients)

    row = {"one cell at a time": count / at.per_step(alone), "three fused": 3 * count / at.per_step(run)}
    return row | {"gain": row["three fused"] / row["one cell at a time"]}


def _repeat(x: Tensor, count: int) -> Tensor:
    return x.expand(count, *x.shape)


def kernels(at: At) -> Measured:
    """What a step of six batched replicas is spent on: the five kernels that take the device most time."""
    for spec in at.architectures:
        yield spec, partial(_profile, at, at.cells(spec)[0])


def _profile(at: At, cell: Cell) -> Row:
    cuda = at.device.type == "cuda"
    steps, count = Steps(cell, at.replicas[1], Place(at.device)), 1 if at.dry else 5
    seconds = at.per_step(steps)
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    with profile(activities=[activity], acc_events=True) as found:
        steps(count)
        at.now()
    events = [
        (e.self_device_time_total if cuda else e.self_cpu_time_total, e.count, e.key)
        for e in found.key_averages()
        if (e.device_type == torch.autograd.DeviceType.CUDA) == cuda
    ]
    total = sum(time for time, _, _ in events)
    row: Row = {
        "ms a step": 1e3 * seconds,
        "busy": total / 1e6 / count / seconds,
        "kernels a step": sum(n for _, n, _ in events) / count,
    }
    top = sorted(events, reverse=True)[:5]
    return row | {f"top {i}": f"{100 * t / total:.0f} % {key[:40]}" for i, (t, _, key) in enumerate(top, 1)}
