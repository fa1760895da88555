"""The replicas of a group, and how they advance: in turns, or batched as one model of stacked parameters."""

import contextlib
import copy
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from architectures import SequenceModel
from architectures.elastic import Sampling
from architectures.outside.surroundings import kept
from architectures.primitive import Context, Hint
from mad.data.records import Measure, RunConfig
from mad.run.batches import Split
from mad.run.metrics import cross_entropy, measure, measure_one
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
    """Replicas one after another: each has its own weights and optimiser."""

    def __init__(self, model: nn.Module, runs: list[RunConfig], place: Place) -> None:
        run = runs[0]
        self.place, self.protocol, self.steps, self.seed = place, run.protocol, run.steps, run.seed
        self.objectives = [Objective(copy.deepcopy(model)) for _ in runs]
        hints = hints_of(model, self.protocol)
        self.optimizers = [
            _optimizer(objective.named_parameters(), run, hints)
            for objective, run in zip(self.objectives, runs, strict=True)
        ]
        self.calls: list[Callable[..., Any]] = list(self.objectives)
        if runs[0].compile:
            _forget_compiled(len(runs) * len(self.objectives[0].sampling.probabilities))
            self.calls = [torch.compile(objective, dynamic=False) for objective in self.objectives]
        self.seconds = [0.0] * len(runs)

    def advance(
        self, data: Split, batches: list[Tensor], first: int, alive: list[bool], tick: Tick
    ) -> list[float]:
        """Train every living replica on the batches, which are the steps `first`, first + 1, ..."""
        means = []
        for r, objective in enumerate(self.objectives):
            start, total = time.perf_counter(), torch.zeros((), device=self.place.device)
            objective.train()
            with _keyed(self.seed, first, self.place.device):
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

    def measure(self, data: Split, vocab_size: int) -> list[Measure]:
        found = []
        for objective in self.objectives:
            with kept(), self.place.autocast():
                found.append(measure_one(objective.eval().model, data.inputs, data.targets, vocab_size))
        return found


class Batched:
    """Replicas as one model of stacked parameters (R, ...): forward and loss under vmap, backward outside."""

    def __init__(self, model: nn.Module, runs: list[RunConfig], place: Place) -> None:
        run = runs[0]
        self.place, self.protocol, self.steps, self.seed = place, run.protocol, run.steps, run.seed
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
            slices = {n: p.detach()[r] for n, p in self.trained.items()}
            for part, gradient in zip(slices.values(), self.gradients, strict=True):
                part.grad = gradient[r]
            self.optimizers.append(_optimizer(slices.items(), run, hints))
        self.eager: Callable[..., Any] = torch.vmap(
            self._loss, in_dims=(0, 0, None, None, None), randomness="same"
        )
        self.call = self.eager
        if run.compile:
            _forget_compiled(len(self.objective.sampling.probabilities))
            self.call = torch.compile(self.eager, dynamic=False)
        self.seconds = [0.0] * size

    def advance(
        self, data: Split, batches: list[Tensor], first: int, alive: list[bool], tick: Tick
    ) -> list[float]:
        start, total = time.perf_counter(), torch.zeros(len(alive), device=self.place.device)
        self.objective.train()
        with _keyed(self.seed, first, self.place.device):
            for step, batch in enumerate(batches, start=first):
                tokens, targets = data.inputs[batch], data.targets[batch]
                contexts = self.objective.contexts(self.seed, step)
                with self.place.autocast():
                    losses, updates = self.call(self.parameters, self.buffers, tokens, targets, contexts)
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

    def model_of(self, replica: int) -> nn.Module:
        objective = copy.deepcopy(self.objective)
        with torch.no_grad():
            for tensors, stacked in (
                (objective.named_parameters(), self.parameters),
                (objective.named_buffers(), self.buffers),
            ):
                for name, tensor in tensors:
                    tensor.copy_(stacked[name][replica])
        return objective.model

    def measure(self, data: Split, vocab_size: int) -> list[Measure]:
        self.objective.eval()
        predict = torch.vmap(self._logits, in_dims=(0, 0, None))
        with kept(), self.place.autocast():
            return measure(
                lambda x: predict(self.parameters, self.buffers, x), data.inputs, data.targets, vocab_size
            )

    def probe(self, data: Split) -> None:
        """Raise what vmap raises on this model; nothing is changed."""
        buffers = {n: b.clone() for n, b in self.buffers.items()}
        contexts = self.objective.contexts(self.seed, 0)
        with torch.no_grad(), self.place.autocast(), _keyed(self.seed, 0, self.place.device):
            self.eager(self.parameters, buffers, data.inputs[:2], data.targets[:2], contexts)

    def _loss(
        self, parameters: Any, buffers: Any, tokens: Tensor, targets: Tensor, contexts: tuple[Context, ...]
    ) -> Any:
        tensors = parameters | buffers
        loss, updates = torch.func.functional_call(self.objective, tensors, (tokens, targets, *contexts))
        # The call leaves in its dictionary what a layer has put in the place of a buffer.
        placed = {n.removeprefix("model."): tensors[n] for n, b in buffers.items() if tensors[n] is not b}
        return loss, placed | updates

    def _logits(self, parameters: Any, buffers: Any, tokens: Tensor) -> Tensor:
        bare = {n.removeprefix("model."): t for n, t in itertools.chain(parameters.items(), buffers.items())}
        return torch.func.functional_call(self.objective.model, bare, (tokens,))


def _optimizer(parameters: Iterable[tuple[str, Tensor]], run: RunConfig, hints: dict[str, Hint]) -> Optimizer:
    bare = [(name.removeprefix("model."), p) for name, p in parameters]
    betas, eps = run.protocol.betas, run.protocol.eps
    return Optimizer(bare, hints, betas=betas, eps=eps, lr=run.lr, weight_decay=run.weight_decay)


def _forget_compiled(versions: int) -> None:
    """Start from an empty cache: the compiler counts by code object and gives up after eight versions.

    A replica of a nested model has a version for each size.
    """
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = max(8, versions)


@contextlib.contextmanager
def _keyed(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Key the global random state, which a user's dropout draws from, by (seed, step); then put it back."""
    with kept(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]))
        yield


def write_updates(objective: Objective, updates: dict[str, Tensor]) -> None:
    """Write what a step's call left for the model's buffers."""
    with torch.no_grad():
        for name, value in updates.items():
            objective.model.get_buffer(name).copy_(value)
