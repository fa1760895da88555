"""Copies of a model at weights that are not its initial ones, whose zeros and closed gates hide paths."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import nn

Moved = Literal["far", "near", "not"]

# The standard deviation of what is added to the initial weights. A tensor of one value, which may be a gate
# that training opens, moves by its own size or by OPENED.
MOVED, OPENED = 0.02, 0.5


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
