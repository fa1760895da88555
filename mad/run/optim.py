"""Optimiser and schedule: AdamW with the groups that layers ask for; a learning rate set at every step."""

import math
from collections.abc import Iterable

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
        self.adamw = torch.optim.AdamW(params, betas=betas, eps=eps, fused=True)

    def step(self, factor: float) -> None:
        for group, base in zip(self.adamw.param_groups, self.base, strict=True):
            group["lr"] = base * factor
        self.adamw.step()
