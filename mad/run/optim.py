"""Optimiser and schedule: AdamW as layers ask for it, of one replica or of a stack of them; a learning rate
set at every step.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from architectures import SequenceModel
from architectures.primitive import Hint
from mad.data.protocol import Protocol


def learning_rate(schedule: str, step: int, steps: int) -> float:
    """The factor on the base learning rate at `step` in 0 .. steps - 1.

    "constant" is 1. "cosine" falls from 1 at the first step towards 0, which it would reach at `steps`.
    """
    if schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * step / steps))


def hints_of(model: nn.Module, protocol: Protocol) -> dict[str, Hint]:
    """How each parameter is optimised; a plain nn.Module decays its matrices, the public code everything."""
    if not protocol.hints:
        return {name: Hint() for name, _ in model.named_parameters()}
    if isinstance(model, SequenceModel):
        return model.hints()
    return {name: Hint(decay=p.dim() > 1) for name, p in model.named_parameters()}


def _undecorated(method: Callable[..., Any]) -> Callable[..., Any]:
    return getattr(method, "__wrapped__", method)


class AdamW(torch.optim.AdamW):
    """torch's AdamW, less what its methods are decorated with: that loads torch's compiler, a second of work
    in every process, to keep it from compiling them.
    """

    add_param_group = _undecorated(torch.optim.AdamW.add_param_group)
    zero_grad = _undecorated(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(_undecorated(torch.optim.AdamW.step))


class Optimizer:
    """AdamW for one replica: parameters grouped by their hints, the learning rate set at every step."""

    def __init__(
        self,
        parameters: Iterable[tuple[str, Tensor]],
        hints: dict[str, Hint],
        *,
        betas: tuple[float, float],
        eps: float,
        lr: float,
        weight_decay: float,
    ) -> None:
        groups: dict[Hint, list[Tensor]] = {}
        for name, parameter in parameters:
            groups.setdefault(hints[name], []).append(parameter)
        decays = [weight_decay if hint.decay else 0.0 for hint in groups]
        self.base = [lr * hint.lr_scale for hint in groups]
        parts = zip(groups.values(), self.base, decays, strict=True)
        params = [{"params": tensors, "lr": rate, "weight_decay": decay} for tensors, rate, decay in parts]
        self.adamw = AdamW(params, betas=betas, eps=eps, fused=True)

    def step(self, factor: float) -> None:
        for group, base in zip(self.adamw.param_groups, self.base, strict=True):
            group["lr"] = base * factor
        self.adamw.step()


class StackedOptimizer:
    """AdamW for stacked replicas: parameters (R, ...), whose replicas have rates and decays of their own.

    The number of kernels does not depend on R, as it would with an optimiser for each. A step allocates
    nothing, so memory cannot run out in the middle of one.
    """

    @torch.no_grad()
    def __init__(
        self,
        parameters: dict[str, Tensor],
        hints: dict[str, Hint],
        *,
        betas: tuple[float, float],
        eps: float,
        lrs: Sequence[float],
        weight_decays: Sequence[float],
    ) -> None:
        def per_replica(values: Iterable[float], like: Tensor) -> Tensor:  # (R, 1, ...)
            return like.new_tensor(list(values)).view(-1, *[1] * (like.dim() - 1))

        self.betas, self.eps, self.count = betas, eps, 0
        self.parameters = list(parameters.values())
        self.gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self.updates = [torch.zeros_like(p) for p in self.parameters]
        self.rates, self.decays = list[Tensor](), list[Tensor]()
        for name, p in parameters.items():
            rates = [lr * hints[name].lr_scale for lr in lrs]
            decays = [wd if hints[name].decay else 0.0 for wd in weight_decays]
            self.rates.append(per_replica(rates, p))
            self.decays.append(per_replica((lr * wd for lr, wd in zip(rates, decays, strict=True)), p))

    @torch.no_grad()
    def step(self, factor: float) -> None:
        self.count += 1
        first, second = self.betas
        torch._foreach_lerp_(self.means, self.gradients, 1 - first)
        torch._foreach_mul_(self.squares, second)
        torch._foreach_addcmul_(self.squares, self.gradients, self.gradients, 1 - second)
        torch._foreach_copy_(self.updates, self.squares)
        torch._foreach_sqrt_(self.updates)
        torch._foreach_div_(self.updates, math.sqrt(1 - second**self.count))
        torch._foreach_add_(self.updates, self.eps)
        torch._foreach_reciprocal_(self.updates)
        torch._foreach_mul_(self.updates, self.means)
        torch._foreach_addcmul_(self.parameters, self.parameters, self.decays, -factor)
        torch._foreach_addcmul_(self.parameters, self.updates, self.rates, -factor / (1 - first**self.count))
