"""Train the replicas of a group: one function, `train`, and the lean loop under it.

Replicas share the seed's data, order and initial weights, and differ in learning rate and weight decay. On
an accelerator they are one model with stacked parameters; on a CPU, where that is slower, they advance in
turns of one evaluation interval. Either way they stop at the same steps and give the same numbers.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from architectures import SequenceModel
from architectures.primitive import Context
from mad.config import Measure, Metrics, Point, RunConfig
from mad.data import Split, load, order
from mad.metrics import cross_entropy, measure
from mad.optim import Optimizer, hints_of, learning_rate
from synthetic_tasks import Task

Replicas = Literal["auto", "batched", "turns"]
Tick = Callable[[int, int], None]  # (replica, steps done)


@dataclass(frozen=True)
class Progress:
    """Where a group stands: `accuracy` is the best so far on the split that the protocol watches."""

    step: int
    steps: int
    replica: int
    replicas: int
    accuracy: float | None = None


@dataclass
class Outcome:
    """What training made of one run."""

    status: Literal["ok", "stopped", "diverged"]
    metrics: Metrics
    seconds: float
    peak_memory: int | None
    note: str | None = None


class Objective(nn.Module):
    """A model with its loss: tokens and targets -> the loss and the new values of buffers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, targets: Tensor, ctx: Context) -> tuple[Tensor, dict[str, Tensor]]:
        if not isinstance(self.model, SequenceModel):
            return cross_entropy(self.model(tokens), targets), {}
        logits, losses, updates = self.model.call(tokens, ctx)
        return cross_entropy(logits, targets) + sum(losses.values()), updates


class Turns:
    """Replicas one after another: each has its own weights and optimiser."""

    def __init__(self, model: nn.Module, runs: list[RunConfig], fabric: Fabric) -> None:
        run = runs[0]
        self.fabric, self.protocol, self.steps, self.seed = fabric, run.protocol, run.steps, run.seed
        self.objectives = [Objective(copy.deepcopy(model)) for _ in runs]
        self.optimizers = [
            _optimizer(objective, objective.named_parameters(), run, hints_of(model, self.protocol))
            for objective, run in zip(self.objectives, runs, strict=True)
        ]
        self.calls: list[Callable[..., Any]] = list(self.objectives)
        if runs[0].compile:
            _forget_compiled()
            self.calls = [torch.compile(objective, dynamic=False) for objective in self.objectives]
        self.seconds = [0.0] * len(runs)

    def advance(
        self, data: Split, batches: list[Tensor], first: int, alive: list[bool], tick: Tick
    ) -> list[float]:
        """Train every living replica on the batches, which are the steps `first`, first + 1, ..."""
        means = []
        for r, objective in enumerate(self.objectives):
            start, total = time.perf_counter(), torch.zeros((), device=self.fabric.device)
            objective.train()
            with _keyed(self.seed, first, self.fabric.device):
                for step, batch in enumerate(batches if alive[r] else [], start=first):
                    tokens, targets = data.inputs[batch], data.targets[batch]
                    with self.fabric.autocast():
                        loss, updates = self.calls[r](tokens, targets, Context(seed=self.seed, step=step))
                    loss.backward()
                    self.optimizers[r].step(learning_rate(self.protocol.schedule, step, self.steps))
                    objective.zero_grad(set_to_none=True)
                    total += loss.detach()
                    _write(objective, updates)
                    tick(r, step + 1)
            means.append(float(total) / len(batches) if alive[r] else math.nan)
            self.seconds[r] += time.perf_counter() - start
        return means

    def measure(self, data: Split, vocab_size: int) -> list[Measure]:
        found = []
        for objective in self.objectives:
            model = objective.eval().model

            def predict(tokens: Tensor, model: nn.Module = model) -> Tensor:
                return model(tokens)[None]

            with self.fabric.autocast():
                found += measure(predict, data.inputs, data.targets, vocab_size)
        return found


class Batched:
    """Replicas as one model of stacked parameters (R, ...): forward and loss under vmap, backward outside."""

    def __init__(self, model: nn.Module, runs: list[RunConfig], fabric: Fabric) -> None:
        run = runs[0]
        self.fabric, self.protocol, self.steps, self.seed = fabric, run.protocol, run.steps, run.seed
        self.objective = Objective(model)
        size = len(runs)
        # Stacked leaves; each optimiser works on its replica's slices, which share their memory.
        self.parameters = {
            n: p.detach().expand(size, *p.shape).clone().requires_grad_(p.requires_grad)
            for n, p in self.objective.named_parameters()
        }
        self.trained = {n: p for n, p in self.parameters.items() if p.requires_grad}
        self.buffers = {n: b.expand(size, *b.shape).clone() for n, b in self.objective.named_buffers()}
        self.gradients = [torch.zeros_like(p) for p in self.trained.values()]
        for p, gradient in zip(self.trained.values(), self.gradients, strict=True):
            p.grad = gradient
        hints = hints_of(model, self.protocol)
        self.optimizers = []
        for r, run in enumerate(runs):
            slices = []
            for n, p in self.trained.items():
                part = p.detach()[r]
                assert p.grad is not None
                part.grad = p.grad[r]
                slices.append((n, part))
            self.optimizers.append(_optimizer(self.objective, slices, run, hints))
        self.eager: Callable[..., Any] = torch.vmap(
            self._loss, in_dims=(0, 0, None, None, None), randomness="same"
        )
        self.call = self.eager
        if run.compile:
            _forget_compiled()
            self.call = torch.compile(self.eager, dynamic=False)
        self.seconds = [0.0] * size

    def advance(
        self, data: Split, batches: list[Tensor], first: int, alive: list[bool], tick: Tick
    ) -> list[float]:
        start, total = time.perf_counter(), torch.zeros(len(alive), device=self.fabric.device)
        self.objective.train()
        with _keyed(self.seed, first, self.fabric.device):
            for step, batch in enumerate(batches, start=first):
                tokens, targets = data.inputs[batch], data.targets[batch]
                ctx = Context(seed=self.seed, step=step)
                with self.fabric.autocast():
                    losses, updates = self.call(self.parameters, self.buffers, tokens, targets, ctx)
                losses.sum().backward()
                factor = learning_rate(self.protocol.schedule, step, self.steps)
                for optimizer in self.optimizers:
                    optimizer.step(factor)
                torch._foreach_zero_(self.gradients)
                total += losses.detach()
                for name, value in updates.items():
                    self.buffers[f"model.{name}"].copy_(value.detach())
                tick(len(alive) - 1, step + 1)
        share = (time.perf_counter() - start) / len(alive)
        self.seconds = [s + share for s in self.seconds]
        return [float(x) for x in total.cpu() / len(batches)]

    def measure(self, data: Split, vocab_size: int) -> list[Measure]:
        self.objective.eval()
        predict = torch.vmap(self._logits, in_dims=(0, 0, None))
        with self.fabric.autocast():
            return measure(
                lambda x: predict(self.parameters, self.buffers, x), data.inputs, data.targets, vocab_size
            )

    def probe(self, data: Split) -> None:
        """Raise what vmap raises on this model; nothing is changed."""
        buffers = {n: b.clone() for n, b in self.buffers.items()}
        ctx = Context(seed=self.seed)
        with torch.no_grad(), self.fabric.autocast(), _keyed(self.seed, 0, self.fabric.device):
            self.eager(self.parameters, buffers, data.inputs[:2], data.targets[:2], ctx)

    def _loss(self, parameters: Any, buffers: Any, tokens: Tensor, targets: Tensor, ctx: Context) -> Any:
        return torch.func.functional_call(self.objective, (parameters, buffers), (tokens, targets, ctx))

    def _logits(self, parameters: Any, buffers: Any, tokens: Tensor) -> Tensor:
        bare = {n.removeprefix("model."): t for n, t in itertools.chain(parameters.items(), buffers.items())}
        return torch.func.functional_call(self.objective.model, bare, (tokens,))


def train(
    runs: list[RunConfig],
    task: Task,
    model: nn.Module,
    *,
    fabric: Fabric,
    replicas: Replicas = "auto",
    report: Callable[[Progress], None] = lambda progress: None,
) -> list[Outcome]:
    """Train a group from the given initial weights and return one outcome a run, in the order of `runs`.

    Every run is evaluated at the same `evaluations` points. The group ends at the first of them at which a
    replica has solved the split that the protocol watches; the others become "stopped". A replica whose loss
    or logits are not finite becomes "diverged".
    """
    run = runs[0]
    protocol = run.protocol
    device = fabric.device
    precision = fabric.strategy.precision.precision
    if precision != run.precision:
        raise ValueError(
            f"the runs are of precision {run.precision!r}, the fabric is of {precision!r}; "
            f"make it with make_fabric(device, {run.precision!r})"
        )
    model = model.to(device)
    splits = _splits(run, task, device)
    watched = splits[protocol.select_on]
    learner, note = _learner(model, runs, fabric, replicas, splits["train"])
    batches = order(run.seed, run.train_examples, run.batch_size, device)
    curves: list[list[Point]] = [[] for _ in runs]
    alive = [True] * len(runs)
    best, step, solved = None, 0, [False] * len(runs)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def tick(replica: int, done: int) -> None:
        report(Progress(done, run.steps, replica, len(runs), best))

    for end in evaluation_steps(run.steps, run.evaluations):
        losses = learner.advance(
            splits["train"], list(itertools.islice(batches, end - step)), step, alive, tick
        )
        step = end
        factor = learning_rate(protocol.schedule, step - 1, run.steps)
        for r, (found, loss) in enumerate(
            zip(learner.measure(watched, task.vocab_size), losses, strict=True)
        ):
            if not alive[r]:
                continue
            accuracy = found.accuracy(protocol.metric)
            finite = loss if math.isfinite(loss) else None
            curves[r].append(
                Point(
                    step=step, accuracy=accuracy, loss=found.loss, train_loss=finite, lr=runs[r].lr * factor
                )
            )
            alive[r] = finite is not None and found.loss is not None
            solved[r] = alive[r] and accuracy >= protocol.solved_at
            if alive[r]:
                best = accuracy if best is None else max(best, accuracy)
        report(Progress(step, run.steps, len(runs) - 1, len(runs), best))
        if any(solved) or not any(alive):
            break

    final = {name: learner.measure(splits[name], task.vocab_size) for name in ("validation", "test")}
    ceiling = task.ceiling_for(splits["train"].drawn, splits["test"].drawn)
    peak = _peak_memory(device)
    outcomes = []
    for r in range(len(runs)):
        status: Literal["ok", "stopped", "diverged"] = "ok"
        if not alive[r]:
            status = "diverged"
        elif any(solved) and not solved[r] and step < run.steps:
            status = "stopped"
        scored = status == "ok"
        metrics = Metrics(
            validation=final["validation"][r] if scored else None,
            test=final["test"][r] if scored else None,
            curve=tuple(curves[r]),
            chance=task.chance,
            ceiling=ceiling,
            steps=curves[r][-1].step,
            solved=solved[r],
        )
        outcomes.append(Outcome(status, metrics, learner.seconds[r], peak, note))
    return outcomes


def evaluation_steps(steps: int, evaluations: int) -> Iterator[int]:
    """Evenly spread ends of intervals, the last one at `steps`; fewer where there are fewer steps."""
    count = min(steps, evaluations)
    return iter(sorted({round(steps * (i + 1) / count) for i in range(count)}))


def make_fabric(device: str = "auto", precision: str = "32-true") -> Fabric:
    """Device and precision; refuses what this machine does not have."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    accelerator, colon, index = device.partition(":")
    numbered = accelerator == "cuda" and index.isdecimal()
    if accelerator not in ("auto", "cpu", "cuda", "mps") or (colon and not numbered):
        raise ValueError(f"device {device!r} is not one of auto, cpu, cuda, cuda:N, mps")
    absent = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if absent.get(accelerator):
        raise ValueError(f"device {accelerator!r} is not available here; choose --device cpu")
    if numbered and int(index) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(
            f"device {device!r}: this machine has {count}, counted from 0; choose a smaller number"
        )
    devices: Any = [int(index)] if numbered else 1
    return Fabric(accelerator=accelerator, devices=devices, precision=precision)  # type: ignore[arg-type]


PRECISIONS = ("32-true", "bf16-mixed")


def _learner(
    model: nn.Module, runs: list[RunConfig], fabric: Fabric, replicas: Replicas, data: Split
) -> tuple[Turns | Batched, str | None]:
    """Batched on an accelerator where the model allows it, in turns otherwise, with a note of why."""
    wanted = replicas == "batched" or (replicas == "auto" and fabric.device.type != "cpu")
    if len(runs) == 1 or not wanted:
        return Turns(model, runs, fabric), None
    learner = Batched(model, runs, fabric)
    try:
        learner.probe(data)
    except (
        Exception
    ) as error:  # A user's layer may raise anything; what is not vmap's fault is raised in turns.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return Turns(model, runs, fabric), f"replicas ran in turns: vmap failed ({reason})"
    return learner, None


def _splits(run: RunConfig, task: Task, device: torch.device) -> dict[str, Split]:
    held_out = run.protocol.data_seed
    return {
        "train": load(
            task, seed=run.seed, split="train", rows=run.train_examples, device=device, training=True
        ),
        "validation": load(
            task, seed=held_out, split="validation", rows=run.validation_examples, device=device
        ),
        "test": load(task, seed=held_out, split="test", rows=run.test_examples, device=device),
    }


def _optimizer(objective: nn.Module, parameters: Any, run: RunConfig, hints: dict[str, Any]) -> Optimizer:
    bare = [(name.removeprefix("model."), p) for name, p in parameters]
    return Optimizer(bare, hints, run.protocol, lr=run.lr, weight_decay=run.weight_decay)


def _forget_compiled() -> None:
    """Start from an empty cache: the compiler counts by code object and gives up after eight models."""
    torch.compiler.reset()


@contextlib.contextmanager
def _keyed(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Key the global random state, which a user's dropout draws from, by (seed, step); then put it back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]))
        yield


def _write(objective: Objective, updates: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in updates.items():
            objective.model.get_buffer(name).copy_(value)


def _peak_memory(device: torch.device) -> int | None:
    """Bytes: of the device's allocator on CUDA, else of the whole process so far."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
