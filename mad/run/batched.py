"""Replicas of a group batched as one model of stacked parameters: what an accelerator does fastest."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from architectures.outside.surroundings import kept
from architectures.primitive import Context
from mad.data.records import Measure, RunConfig
from mad.run import memory
from mad.run.batches import Split
from mad.run.learners import Objective, Tick, forget_compiled, keyed
from mad.run.metrics import measure
from mad.run.optim import StackedOptimizer, hints_of, learning_rate
from mad.run.place import Place

Found = TypeVar("Found")
Tensors = dict[str, Tensor]


class Batched:
    """Parameters are stacked, (R, ...); forward and loss run under vmap, backward outside.

    Where memory does not hold the activations of all replicas, `at_once` of them run at a time, in every
    step: the numbers are the same.
    """

    def __init__(self, model: nn.Module, runs: list[RunConfig], place: Place) -> None:
        run = runs[0]
        self.place, self.protocol, self.steps, self.seed = place, run.protocol, run.steps, run.seed
        self.objective = Objective(model)
        self.size = self.at_once = len(runs)
        self.parameters = {
            n: p.detach().expand(self.size, *p.shape).clone().requires_grad_(p.requires_grad)
            for n, p in self.objective.named_parameters()
        }
        self.buffers = {n: b.expand(self.size, *b.shape).clone() for n, b in self.objective.named_buffers()}
        trained = {n.removeprefix("model."): p for n, p in self.parameters.items() if p.requires_grad}
        for p in trained.values():
            p.grad = torch.zeros_like(p)
        self.optimizer = StackedOptimizer(
            trained,
            hints_of(model, self.protocol),
            betas=self.protocol.betas,
            eps=self.protocol.eps,
            lrs=[run.lr for run in runs],
            weight_decays=[run.weight_decay for run in runs],
        )
        self.shares: dict[tuple[int, int], tuple[Tensors, Tensors]] = {}
        self.eager: Callable[..., Any] = torch.vmap(
            self._loss, in_dims=(0, 0, None, None, None), randomness="same"
        )
        self.call = self.eager
        if run.compile:
            forget_compiled(len(self.objective.sampling.probabilities))
            self.call = torch.compile(self.eager, dynamic=False)
        self.seconds = [0.0] * self.size

    @property
    def note(self) -> str | None:
        """For the records."""
        if self.at_once == self.size:
            return None
        return f"replicas ran {self.at_once} at a time: all {self.size} do not fit into the device's memory"

    def advance(
        self, data: Split, batches: list[Tensor], first: int, alive: list[bool], tick: Tick
    ) -> list[float]:
        """Train every replica on the batches, which are the steps `first`, first + 1, ..."""
        start, total = time.perf_counter(), torch.zeros(self.size, device=self.place.device)
        self.objective.train()
        with keyed(self.seed, first, self.place.device):
            for step, batch in enumerate(batches, start=first):
                tokens, targets = data.inputs[batch], data.targets[batch]
                losses = self._in_shares(partial(self._backward, self.call, step, tokens, targets))
                self.optimizer.step(learning_rate(self.protocol.schedule, step, self.steps))
                torch._foreach_zero_(self.optimizer.gradients)
                total += losses[0] if len(losses) == 1 else torch.cat(losses)
                tick(self.size - 1, step + 1)
        self._took(start)
        return [float(x) for x in total.cpu() / len(batches)]

    def _took(self, start: float) -> None:
        share = (time.perf_counter() - start) / self.size
        self.seconds = [seconds + share for seconds in self.seconds]

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

    def measure(self, data: Split, vocab_size: int, *, by_row: bool = False) -> list[Measure]:
        start = time.perf_counter()
        self.objective.eval()
        predict = torch.vmap(self._logits, in_dims=(0, 0, None))

        def measured(at: slice) -> list[Measure]:
            share = self._share(at)
            inputs, targets = data.inputs, data.targets
            return measure(lambda x: predict(*share, x), inputs, targets, vocab_size, by_row=by_row)

        with kept(), self.place.autocast():
            found = list(itertools.chain(*self._in_shares(measured)))
        self._took(start)
        return found

    def probe(self, data: Split) -> None:
        """Raise what vmap raises on this model; nothing is changed."""
        parameters, buffers = self._share(slice(0, 2))
        buffers = {n: b.clone() for n, b in buffers.items()}
        contexts = self.objective.contexts(self.seed, 0)
        with torch.no_grad(), self.place.autocast(), keyed(self.seed, 0, self.place.device):
            self.eager(parameters, buffers, data.inputs[:2], data.targets[:2], contexts)

    def fit(self, data: Split, rows: int) -> None:
        """Plan how many replicas run at once, from what a step of one and of two takes; nothing is changed.

        Where the device does not say what is free, all of them are tried.
        """
        free = memory.room(self.place.device)
        if free is None:
            return
        before = {n: b.clone() for n, b in self.buffers.items()}
        step = partial(self._backward, self.eager, 0, data.inputs[:rows], data.targets[:rows])
        self.objective.train()
        try:
            with keyed(self.seed, 0, self.place.device):
                # The first call makes what libraries keep.
                _, one, two = (memory.taken(partial(step, slice(0, n)), self.place.device) for n in (1, 1, 2))
        finally:
            torch._foreach_zero_(self.optimizer.gradients)
            for name, buffer in before.items():
                self.buffers[name].copy_(buffer)
        self.at_once = memory.at_once(self.size, one, two, free)

    def _in_shares(self, work: Callable[[slice], Found]) -> list[Found]:
        """The work of all replicas, `at_once` at a time; where memory runs out half as many, and again.

        Each share meets the same random state. What one replica alone raises is raised.
        """
        device, found, done = self.place.device, list[Found](), 0
        random = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        while done < self.size:
            at = slice(done, min(done + self.at_once, self.size))
            try:
                found.append(work(at))
                done = at.stop
            except torch.OutOfMemoryError:
                if at.stop - at.start == 1:
                    raise
                self.at_once = -(-(at.stop - at.start) // 2)
            if done == self.size:
                break
            # Not in the handler, where the error would hold what the attempt has allocated.
            if done < at.stop:
                memory.release(device)
            torch.set_rng_state(random[0])
            if random[1] is not None:
                torch.cuda.set_rng_state(random[1], device)
        return found

    def _share(self, at: slice) -> tuple[Tensors, Tensors]:
        """Parameters and buffers of some replicas, in the same memory as those of all."""
        key = at.start, at.stop
        if key == (0, self.size):
            return self.parameters, self.buffers
        if key not in self.shares:
            parameters = {}
            for name, p in self.parameters.items():
                parameters[name] = p.detach()[at].requires_grad_(p.requires_grad)
                parameters[name].grad = None if p.grad is None else p.grad[at]
            self.shares[key] = parameters, {n: b[at] for n, b in self.buffers.items()}
        return self.shares[key]

    def _backward(
        self, call: Callable[..., Any], step: int, tokens: Tensor, targets: Tensor, at: slice
    ) -> Tensor:
        """Losses of some replicas; their gradients are added up, and their buffers written."""
        parameters, buffers = self._share(at)
        try:
            with self.place.autocast():
                contexts = self.objective.contexts(self.seed, step)
                losses, updates = call(parameters, buffers, tokens, targets, contexts)
            losses.sum().backward()
        except torch.OutOfMemoryError:
            torch._foreach_zero_([p.grad for p in parameters.values() if p.grad is not None])
            raise
        for name, value in updates.items():
            buffers[f"model.{name}"].copy_(value.detach())
        return losses.detach()

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
