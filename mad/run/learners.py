"""Replicas of a group, one after another: each with its own weights and optimiser."""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from architectures import SequenceModel
from architectures.elastic import Sampling
from architectures.outside.surroundings import kept
from architectures.primitive import Context
from mad.data.records import Measure, RunConfig
from mad.run.batches import Split
from mad.run.metrics import cross_entropy, measure_one
from mad.run.optim import Optimizer, hints_of, learning_rate
from mad.run.place import Place

Tick = Callable[[int, int], None]  # (replica, steps done)


class Objective(nn.Module):
    """A model with its loss: tokens and targets -> the loss and the new values of buffers.

    A step of a nested model is one call at the size that was drawn, or one at every size, whose losses are
    added: a context for each.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.sampling = Sampling.of(model)

    def contexts(self, seed: int, step: int) -> tuple[Context, ...]:
        """What the calls of a training step are told; the same for all replicas."""
        sizes = self.sampling.all or (self.sampling.draw(seed, step),)
        return tuple(Context(seed=seed, step=step, granularity=size) for size in sizes)

    def forward(
        self, tokens: Tensor, targets: Tensor, *contexts: Context
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if not isinstance(self.model, SequenceModel):
            return cross_entropy(self.model(tokens), targets), {}
        calls = [self.model.call(tokens, ctx) for ctx in contexts]
        losses = [cross_entropy(logits, targets) + sum(extra.values()) for logits, extra, _ in calls]
        return torch.stack(losses).sum(0), calls[-1][2]  # updates as the last size, the whole model, has them


class Turns:
    """Replicas one after another: what a CPU does fastest, and what every model allows."""

    def __init__(self, model: nn.Module, runs: list[RunConfig], place: Place) -> None:
        run = runs[0]
        self.place, self.protocol, self.steps, self.seed = place, run.protocol, run.steps, run.seed
        self.objectives = [Objective(copy.deepcopy(model)) for _ in runs]
        hints = hints_of(model, self.protocol)
        self.optimizers = [
            Optimizer(
                objective.model.named_parameters(),
                hints,
                betas=self.protocol.betas,
                eps=self.protocol.eps,
                lr=run.lr,
                weight_decay=run.weight_decay,
            )
            for objective, run in zip(self.objectives, runs, strict=True)
        ]
        self.calls: list[Callable[..., Any]] = list(self.objectives)
        if runs[0].compile:
            forget_compiled(len(runs) * len(self.objectives[0].sampling.probabilities))
            self.calls = [torch.compile(objective, dynamic=False) for objective in self.objectives]
        self.seconds = [0.0] * len(runs)  # of training and evaluations
        self.note: str | None = None  # for the records

    def advance(
        self, data: Split, batches: list[Tensor], first: int, alive: list[bool], tick: Tick
    ) -> list[float]:
        """Train every living replica on the batches, which are the steps `first`, first + 1, ..."""
        means = []
        for r, objective in enumerate(self.objectives):
            start, total = time.perf_counter(), torch.zeros((), device=self.place.device)
            objective.train()
            with keyed(self.seed, first, self.place.device):
                for step, batch in enumerate(batches if alive[r] else [], start=first):
                    tokens, targets = data.inputs[batch], data.targets[batch]
                    contexts = objective.contexts(self.seed, step)
                    with self.place.autocast():
                        loss, updates = self.calls[r](tokens, targets, *contexts)
                    loss.backward()
                    self.optimizers[r].step(learning_rate(self.protocol.schedule, step, self.steps))
                    objective.zero_grad(set_to_none=True)
                    total += loss.detach()
                    write_updates(objective, updates)
                    tick(r, step + 1)
            means.append(float(total) / len(batches) if alive[r] else math.nan)
            self.seconds[r] += time.perf_counter() - start
        return means

    def model_of(self, replica: int) -> nn.Module:
        return self.objectives[replica].model

    def measure(self, data: Split, vocab_size: int, *, by_row: bool = False) -> list[Measure]:
        found = []
        for r, objective in enumerate(self.objectives):
            start = time.perf_counter()
            with kept(), self.place.autocast():
                model = objective.eval().model
                found.append(measure_one(model, data.inputs, data.targets, vocab_size, by_row=by_row))
            self.seconds[r] += time.perf_counter() - start
        return found


def forget_compiled(versions: int) -> None:
    """Start from an empty cache: the compiler counts by code object and gives up after eight versions.

    A replica of a nested model has a version for each size.
    """
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = max(8, versions)


@contextlib.contextmanager
def keyed(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Key the global random state, which a user's dropout draws from, by (seed, step); then put it back."""
    with kept(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]))
        yield


def write_updates(objective: Objective, updates: dict[str, Tensor]) -> None:
    """Write what a step's call left for the model's buffers."""
    with torch.no_grad():
        for name, value in updates.items():
            objective.model.get_buffer(name).copy_(value)
