"""Move what a model and its optimiser hold into a larger model: where old entries go, what new ones are."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from architectures.grammar.spec import Spec
from architectures.model import SequenceModel

# The name of a parameter and its initial values -> values for its free entries.
Fill = Callable[[str, Tensor], Tensor]
OPTIMIZERS = (Adam, AdamW, SGD)
# How many powers of 1/s a state tensor takes where its parameter is multiplied by s.
POWERS = {"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2, "momentum_buffer": 1}


class Entries(TypedDict, total=False):
    """Where new entries come from, see `widen_mlp`."""

    generator: torch.Generator | None
    fill: Fill | None


@dataclass(frozen=True, kw_only=True)
class Move:
    """Where the old entries of `source` stand in the new tensor, axis by axis, and what its new ones are.

    where   for each axis the new index of each old one; None: the axis did not change
    zero    new entries are zero; otherwise they are free
    factor  what the old entries are multiplied by (rule="rescale" only)
    """

    source: str
    where: tuple[Tensor | None, ...] = ()
    zero: bool = False
    factor: float = 1.0

    def place(self, old: Tensor, background: Tensor, factor: float = 1.0) -> Tensor:
        """The background with the old entries in their new places."""
        if all(axis is None for axis in self.where):
            return (old * factor if factor != 1 else old.clone()).to(background)
        new, index = background.clone(), []
        for i, axis in enumerate(self.where):
            at = torch.arange(old.shape[i]) if axis is None else axis
            index.append(at.to(old.device).view(-1, *(1 for _ in self.where[i + 1 :])))
        new[tuple(index)] = old * factor
        return new


def rebuild(model: SequenceModel, spec: Spec, dim: int, generator: torch.Generator | None) -> SequenceModel:
    """A fresh model like this one, of another spec and width; its initial values are those of new entries."""
    like, seed = model.embedding.weight, int(torch.randint(2**62, (), generator=generator))
    fresh = model.around(spec, dim=dim, seed=seed)
    return fresh.to(device=like.device, dtype=like.dtype).train(model.training)


@torch.no_grad()
def transplant(
    old: SequenceModel,
    new: SequenceModel,
    moves: dict[str, Move],
    *,
    source: Callable[[str], str] = lambda name: name,
    silent: Collection[str] = (),
    fill: Fill | None = None,
) -> None:
    """Write the old parameters and buffers into the new model.

    source  the old name of a new buffer
    silent  wholly new tensors that start at zero
    """
    parameters, buffers = dict(old.named_parameters()), dict(old.named_buffers())
    for name, p in new.named_parameters():
        move = moves.get(name)
        if move is None:
            p.copy_(torch.zeros_like(p) if name in silent else _filled(name, p, fill))
            continue
        before = parameters[move.source]
        where = move.where or (None,) * before.dim()
        expected = tuple(n if where[i] is None else p.shape[i] for i, n in enumerate(before.shape))
        if tuple(p.shape) != expected:
            raise ValueError(
                f"{name} would change from {tuple(before.shape)} to {tuple(p.shape)}, and there is no rule "
                "for that; leave this layer as it is"
            )
        if move.zero:
            background = torch.zeros_like(p)
        else:
            background = _filled(name, p, fill if p.shape != before.shape else None)
        p.copy_(move.place(before, background, move.factor))
        p.requires_grad_(before.requires_grad)
    for name, buffer in new.named_buffers():
        held = buffers.get(source(name))
        if held is not None and held.shape == buffer.shape:
            buffer.copy_(held)


def _filled(name: str, p: Tensor, fill: Fill | None) -> Tensor:
    return p if fill is None else fill(name, p.detach().clone()).to(p)


def carry(
    optimizer: Optimizer | None, old: SequenceModel, new: SequenceModel, moves: dict[str, Move]
) -> Optimizer | None:
    """An optimiser of the same kind for the new model: moments moved with their parameters, zero elsewhere.

    Tensors keep their group and step count; wholly new ones join the first group that holds a tensor with the
    same hint, and count their own steps.
    """
    if optimizer is None:
        return None
    if not isinstance(optimizer, OPTIMIZERS):
        raise ValueError(
            f"the state of {type(optimizer).__name__} cannot be carried over; use AdamW, Adam or SGD, or "
            "pass no optimiser and make a new one"
        )
    sources = dict(old.named_parameters())
    names = {id(p): name for name, p in sources.items()}
    if any(id(p) not in names for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            "the optimiser holds a tensor that is not a parameter of the model; give the model's own"
        )
    targets: dict[str, list[str]] = {}
    for name, move in moves.items():
        targets.setdefault(move.source, []).append(name)
    parameters, hints, old_hints = dict(new.named_parameters()), new.hints(), old.hints()

    groups: list[dict[str, Any]] = []
    home: dict[Any, int] = {}
    for g, group in enumerate(optimizer.param_groups):
        held = [names[id(p)] for p in group["params"]]
        for name in held:
            home.setdefault(old_hints[name], g)
        groups.append({**group, "params": [parameters[t] for name in held for t in targets.get(name, ())]})
    for name, p in parameters.items():
        if name not in moves:
            groups[home.get(hints[name], 0)]["params"].append(p)
    groups = _rescaled_groups(groups, {id(parameters[n]): m.factor for n, m in moves.items()}, optimizer)

    carried = type(optimizer)([{"params": g["params"]} for g in groups], lr=1e-3)
    carried.defaults = dict(optimizer.defaults)
    for made, group in zip(carried.param_groups, groups, strict=True):
        made.update({k: v for k, v in group.items() if k != "params"})
    for name, move in moves.items():
        source, p = sources[move.source], parameters[name]
        if state := optimizer.state.get(source):
            carried.state[p] = {key: _moved(key, value, source, p, move) for key, value in state.items()}
    return carried


def _moved(key: str, value: Any, source: Tensor, p: Tensor, move: Move) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.shape != source.shape or (key not in POWERS and value.dim() == 0):
        return value.clone()
    background = torch.zeros_like(p, dtype=value.dtype)
    return move.place(value, background, move.factor ** -POWERS.get(key, 0))


def _rescaled_groups(
    groups: list[dict[str, Any]], factors: dict[int, float], optimizer: Optimizer
) -> list[dict[str, Any]]:
    """Tensors multiplied by s in groups of their own.

    A gradient is then 1/s of what it was. Adam's step is blind to that: learning rate times s, decoupled
    decay and epsilon over s. SGD: learning rate times s^2, its decay, part of the gradient, over s^2.
    """
    power = 2 if isinstance(optimizer, SGD) else 1
    # Adam adds its decay to the gradient, AdamW takes it off the parameter.
    decay = 1 if isinstance(optimizer, AdamW) else 2
    found: list[dict[str, Any]] = []
    for group in groups:
        split: dict[float, list[Tensor]] = {1.0: []}
        for p in group["params"]:
            split.setdefault(factors.get(id(p), 1.0), []).append(p)
        for s, params in split.items():
            if not params and len(split) > 1:
                continue
            made = {**group, "params": params}
            if s != 1:
                made |= {key: group[key] * s**power for key in ("lr", "initial_lr") if key in group}
                made["weight_decay"] = group["weight_decay"] / s**decay
                if "eps" in group:
                    made["eps"] = group["eps"] / s
            found.append(made)
    return found
