"""Causality, asked of a built model: late tokens are changed, and no earlier logit may move.

It is asked in evaluation and in training, in float64 where the model computes there, and away from the
initial weights, whose zeros or closed gates would hide a path; at last in float32 as the model is, which is
what will be trained.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor, nn

from architectures.builder import seeded
from architectures.contract.probe import (
    LARGE_MODEL,
    REMEDIES,
    UNASKED,
    Fault,
    caller,
    device_of,
    distance,
    first_fault,
    keyed,
    named,
)
from architectures.model import SequenceModel
from architectures.outside.surroundings import kept
from architectures.registry import get

Moved = Literal["far", "near", "not"]
# The standard deviation of what is added to the initial weights. A tensor of one value, which may be a gate
# that training opens, moves by its own size or by OPENED.
MOVED, OPENED = 0.02, 0.5
# Multiply-adds of all calls on a trained model.
MOST_WORK_TRAINED = 2**34
# By how much a log-probability may move, relative to 1 nat or to its own size: layers of ours in float64, a
# user's, which may compute in float32 inside, and anything in float32.
TOLERANCE_OURS, TOLERANCE_THEIRS, TOLERANCE_FLOAT32 = 1e-9, 1e-5, 1e-4
# The same where rounding moves them more, and only what is worth seeing counts: in float32 at weights that
# nothing bounds.
TOLERANCE_COARSE = 1e-2
# How far from those of float64 the log-probabilities of float32 may be on average, for a path between
# positions to be no rounding of numbers that have grown without bounds.
STEADY_GAP = 0.05
# How far apart, in nats on average, two calls on the same rows may be: what a device that sums in any order
# makes of a choice between two that are nearly equal, and no noise.
NOISE_GAP = 1e-3


def moved_twin(model: nn.Module, dtype: torch.dtype, moved: Moved) -> nn.Module:
    """A copy of a model in a precision, its weights far from the initial ones, near them, or as they are.

    In "far" the tensors of one value, or nearly so, move by their own size, in "near" all by a little.
    """
    try:
        twin = copy.deepcopy(model)
    except Exception as error:
        raise TypeError(
            f"the model cannot be copied ({error}); keep modules, files and locks, and what forward computes "
            "with gradients, out of its attributes"
        ) from error
    if dtype == torch.float64:
        twin = twin.double()
    with torch.no_grad():
        for p in twin.parameters():
            if moved != "not" and p.requires_grad and p.is_floating_point() and p.numel():
                scale, mean = MOVED, float(p.mean().abs())
                if moved == "far" and float((p - p.mean()).abs().max()) <= mean / 4:
                    scale = max(OPENED, mean)
                p.add_(scale * torch.randn(p.shape).to(p))
    return twin


def require(
    model: nn.Module,
    tokens: Tensor,
    vocab_size: int,
    *,
    who: str,
    task: str,
    causal: bool = True,
    remedy: str = "use a causal layer",
) -> None:
    """Refuse a model that has a fault, or a layer that declares that it is not causal.

    tokens (B, T) are inputs of the task, at its full length; `who` names the model where no layer is at
    fault. With causal=False later tokens may be seen, and only the other faults count.
    """
    fault = find_fault(model, tokens, vocab_size, who=who, causal=causal)
    if fault is not None:
        raise ValueError(f"{fault}, on {task}; {remedy if fault.kind == 'later' else REMEDIES[fault.kind]}")
    if causal:
        require_declared(model, task=task, remedy=remedy)


def require_declared(model: nn.Module, *, task: str, remedy: str) -> None:
    """Refuse a layer that declares that it is not causal; the model need not have numbers."""
    for name in not_causal(model):
        raise ValueError(
            f"{name} declares that it sees later positions, and cannot be asked {task}; {remedy}"
        )


def not_causal(model: nn.Module) -> list[str]:
    """The layers that say that they are not causal, innermost first."""
    return [name for layer, name in reversed(named(model)) if not layer.causal]


def find_fault(
    model: nn.Module, tokens: Tensor, vocab_size: int, *, who: str = "the model", causal: bool = True
) -> Fault | None:
    """The first fault of a model on tokens (B, T), or None; the model is left as it was."""
    size = sum(p.numel() for p in model.parameters())
    ours = isinstance(model, SequenceModel) and not any(get(n.name).source for n in model.spec.walk())

    def found(dtype: torch.dtype, moved: Moved, limit: float) -> Fault | None:
        with seeded(0, "probe"):
            twin = moved_twin(model, dtype, moved)
            fault = first_fault(twin, tokens, vocab_size, size, who, limit, causal)
            if fault is None or moved == "not" or fault.kind == "repeat":
                return fault
            return fault if fault.kind != "nan" and _steady(twin, tokens) else UNASKED

    fine = TOLERANCE_OURS if ours else TOLERANCE_THEIRS
    attempts: list[tuple[torch.dtype, Moved, float]] = [
        (torch.float64, "far", fine),
        (torch.float64, "near", fine),
        (torch.float32, "near", TOLERANCE_FLOAT32),
        (torch.float32, "not", TOLERANCE_FLOAT32),
    ]
    for dtype, moved, limit in attempts[2 * (size > LARGE_MODEL) :]:
        try:
            fault = found(dtype, moved, limit)
        except Exception:  # A user's layer may hold constants of float32; what it cannot do at all is raised.
            if moved == "not":
                raise
            continue
        if fault is not UNASKED:
            break
    if moved == "not":
        return fault
    plain = found(torch.float32, "not", TOLERANCE_COARSE)
    if fault is not None:
        return dataclasses.replace(fault, hidden=fault.kind == "later" and plain is None)
    if plain is not None and plain.kind in ("later", "rows"):
        # Rounding may turn a choice between two that are nearly equal, but hardly for other tokens, too.
        tokens = (tokens + 1) % vocab_size
        return found(torch.float32, "not", TOLERANCE_COARSE)
    return plain


def require_trained(
    model: nn.Module,
    tokens: Tensor,
    vocab_size: int,
    *,
    who: str,
    steps: int,
    batch_size: int,
    causal: bool = True,
) -> None:
    """Refuse a trained model that sees later tokens or other rows: one that counts its calls may do so, or
    one that does it in batches of the training's size. So is one that answers differently when asked again.

    As many positions are asked as it had steps, or all, as far as that is a hundredth of what the training
    took and a matter of seconds.
    """
    size = sum(p.numel() for p in model.parameters())
    positions = min(steps, MOST_WORK_TRAINED // (tokens.shape[1] * max(size, 1)))
    asked: tuple[Any, ...] = (tokens, vocab_size, size, who, TOLERANCE_COARSE, causal, positions, batch_size)
    mode = model.training
    with seeded(0, "probe"):
        try:
            fault = first_fault(
                model if size > LARGE_MODEL else moved_twin(model, torch.float64, "not"), *asked
            )
        except Exception:  # It holds constants of float32, or what cannot be copied.
            fault = first_fault(model, *asked)
    model.train(mode)
    if fault is not None and fault.kind in ("later", "rows"):
        raise ValueError(
            f"{fault}, after training and not before; its score is not kept: use a layer that does the same "
            "in every call"
        )
    with seeded(0, "repeat"):
        moved = _gap_of_repeat(model.eval(), tokens)
    model.train(mode)
    if moved > NOISE_GAP:
        raise ValueError(
            f"{who} ends its training with log-probabilities that move by {moved:.2g} nats on average when "
            "the same rows are asked again; use layers that draw no noise and count no calls in evaluation "
            "mode"
        )


def _gap_of_repeat(model: nn.Module, tokens: Tensor) -> float:
    """By how much log-probabilities move on average between two calls, with whatever is drawn in each."""
    logits, x = [], tokens.to(device_of(model))
    for _ in range(2):
        with kept(), torch.no_grad():
            logits.append(caller(model, False)(x))
    return float(distance(*logits).nan_to_num(nan=0.0, posinf=1.0).mean())


def _steady(model: nn.Module, tokens: Tensor) -> bool:
    """Whether float32 gives about the log-probabilities of the model's own precision."""
    logits, x = [], tokens[:2].to(device_of(model))
    for single in (False, True):
        asked = copy.deepcopy(model).float() if single else model.eval()
        with torch.no_grad(), keyed(x.device):
            logits.append(caller(asked, False)(x))
    return float(distance(*logits).nan_to_num(nan=torch.inf).clamp(max=1.0).mean()) < STEADY_GAP
