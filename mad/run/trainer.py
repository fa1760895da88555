"""Train the replicas of a group: one function, `train`, and the lean loop under it.

Replicas share the seed's data, order and initial weights, and differ in learning rate and weight decay. On
an accelerator they are one model with stacked parameters; on a CPU, where that is slower, they advance in
turns of one evaluation interval. Either way they stop at the same steps and give the same numbers.
"""

import itertools
import math
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from architectures.contract.causality import require_trained
from mad.data.records import ACCURACY_TOLERANCE, Metrics, Point, RunConfig
from mad.run.batched import Batched
from mad.run.batches import Split, order, split_of
from mad.run.learners import Turns
from mad.run.optim import learning_rate
from mad.run.place import Place
from synthetic_tasks import Task
from synthetic_tasks.task import SPLITS

# Of a task's inputs, to look for later tokens that are seen.
PROBE_ROWS = 64
# Of a loss that is measured twice, relative.
LOSS_TOLERANCE = 0.01
Replicas = Literal["auto", "batched", "turns"]


@dataclass(frozen=True)
class Progress:
    """Where a group stands: `accuracy` is the best so far on the split that the protocol watches.

    points  of an evaluation that was just made, one for each replica, None where it has diverged before;
            empty between evaluations
    """

    step: int
    steps: int
    replica: int
    replicas: int
    accuracy: float | None = None
    points: tuple[Point | None, ...] = ()


@dataclass
class Outcome:
    """What training made of one run."""

    status: Literal["ok", "stopped", "diverged"]
    metrics: Metrics
    seconds: float
    peak_memory: int | None
    note: str | None = None


def train(
    runs: list[RunConfig],
    task: Task,
    model: nn.Module,
    *,
    place: Place,
    replicas: Replicas = "auto",
    report: Callable[[Progress], None] = lambda progress: None,
    keep: Callable[[nn.Module], None] | None = None,
) -> list[Outcome]:
    """Train a group from the given initial weights and return one outcome per run, in the order of `runs`.

    Every run is evaluated at the same `evaluations` points. The group ends at the first of them at which a
    replica has solved the split that the protocol watches; the others become "stopped". A replica whose loss
    or logits are not finite becomes "diverged". `keep` is given the trained model of a group of one run.
    """
    run = runs[0]
    protocol = run.protocol
    device = place.device
    if place.precision != run.precision:
        raise ValueError(
            f"the runs are of precision {run.precision!r}, the place is of {place.precision!r}; "
            f"take find_place(device, {run.precision!r})"
        )
    model = model.to(device)
    splits = {split: split_of(run, task, split, device) for split in SPLITS}
    watched = splits[protocol.select_on]
    learner = _learner(model, runs, place, replicas, splits["train"])
    batches = order(run.seed, run.train_examples, run.batch_size, device)
    curves: list[list[Point]] = [[] for _ in runs]
    alive = [True] * len(runs)
    best, step, solved = None, 0, [False] * len(runs)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def tick(replica: int, done: int) -> None:
        report(Progress(done, run.steps, replica, len(runs), best))

    for end in evaluation_steps(run.steps, run.evaluations):
        interval = list(itertools.islice(batches, end - step))
        losses = learner.advance(splits["train"], interval, step, alive, tick)
        step = end
        factor = learning_rate(protocol.schedule, step - 1, run.steps)
        measured = learner.measure(watched, task.vocab_size)
        points: list[Point | None] = [None] * len(runs)
        for r, (found, loss) in enumerate(zip(measured, losses, strict=True)):
            if not alive[r]:
                continue
            accuracy = found.accuracy(protocol.metric)
            finite = loss if math.isfinite(loss) else None
            lr = runs[r].lr * factor
            point = Point(step=step, accuracy=accuracy, loss=found.loss, train_loss=finite, lr=lr)
            curves[r].append(point)
            points[r] = point
            alive[r] = finite is not None and found.loss is not None
            solved[r] = alive[r] and accuracy >= protocol.solved_at
            if alive[r]:
                best = accuracy if best is None else max(best, accuracy)
        report(Progress(step, run.steps, len(runs) - 1, len(runs), best, tuple(points)))
        if any(solved) or not any(alive):
            break

    if keep is not None and isinstance(learner, Turns):
        keep(learner.objectives[0].model)
    for r in range(len(runs)):
        if alive[r]:
            check_trained(
                learner.model_of(r), splits[protocol.select_on], task, run, run.architecture.spec, step
            )
    final = {
        name: learner.measure(splits[name], task.vocab_size, by_row=name == "test")
        for name in ("validation", "test")
    }
    ceiling = task.ceiling_for(splits["train"].drawn, splits["test"].drawn)
    peak = peak_memory(device)
    outcomes = []
    for r in range(len(runs)):
        status: Literal["ok", "stopped", "diverged"] = "ok"
        if not alive[r]:
            status = "diverged"
        elif any(solved) and not solved[r] and step < run.steps:
            status = "stopped"
        scored = status == "ok"
        again, then = final[protocol.select_on][r], curves[r][-1]
        now = again.accuracy(protocol.metric)
        if scored and (abs(now - then.accuracy) > ACCURACY_TOLERANCE or _differ(again.loss, then.loss)):
            raise ValueError(
                f"{run.architecture.spec} ends its training with an accuracy of {then.accuracy:.4f} (loss "
                f"{then.loss or 0:.4g}), and has {now:.4f} (loss {again.loss or 0:.4g}) when the same rows "
                "are asked again; use layers that draw no noise and count no calls in evaluation mode"
            )
        metrics = Metrics(
            validation=final["validation"][r] if scored else None,
            test=final["test"][r] if scored else None,
            curve=tuple(curves[r]),
            chance=task.chance,
            ceiling=ceiling,
            steps=curves[r][-1].step,
            solved=solved[r],
        )
        outcomes.append(Outcome(status, metrics, learner.seconds[r], peak, learner.note))
    return outcomes


def check_trained(model: nn.Module, data: Split, task: Task, run: RunConfig, who: str, steps: int) -> None:
    """Refuse a model that has come to see what it must not."""
    require_trained(
        model,
        data.inputs[:PROBE_ROWS],
        task.vocab_size,
        who=who,
        steps=steps,
        batch_size=run.batch_size,
        causal=task.readout == "every",
    )


def _differ(one: float | None, other: float | None) -> bool:
    """Two losses of the same rows, by more than the rounding of a device that sums in any order."""
    return one is not None and other is not None and abs(one - other) > LOSS_TOLERANCE * max(one, other)


def evaluation_steps(steps: int, evaluations: int) -> Iterator[int]:
    """Evenly spread ends of intervals, the last one at `steps`; fewer where there are fewer steps."""
    count = min(steps, evaluations)
    return iter(sorted({round(steps * (i + 1) / count) for i in range(count)}))


def _learner(
    model: nn.Module, runs: list[RunConfig], place: Place, replicas: Replicas, data: Split
) -> Turns | Batched:
    """Batched on an accelerator where the model allows it, in turns otherwise, with a note of why."""
    wanted = replicas == "batched" or (replicas == "auto" and place.device.type != "cpu")
    if len(runs) == 1 or not wanted:
        return Turns(model, runs, place)
    learner = Batched(model, runs, place)
    try:
        learner.probe(data)
    except Exception as error:
        # A user's layer may raise anything; what is not the fault of vmap is raised again in turns.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        turns = Turns(model, runs, place)
        turns.note = f"replicas ran in turns: vmap failed ({reason})"
        return turns
    learner.fit(data, runs[0].batch_size)
    return learner


def peak_memory(device: torch.device) -> int | None:
    """Bytes: of the device's allocator on CUDA, else of the whole process so far."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
