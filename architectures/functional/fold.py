"""Replicas folded into the batch: what the vmap rules of this package share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def fold(x: Tensor, dim: int | None, size: int) -> Tensor:
    """(R, B, ...), or (B, ...) shared by all replicas, -> (R * B, ...)."""
    x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def unfold(x: Tensor, size: int) -> Tensor:
    """(R * B, ...) -> (R, B, ...)."""
    return x.reshape(size, -1, *x.shape[1:])


class Folded(torch.autograd.Function):
    """Every tensor, in and out, has the batch first; under vmap the replicas are folded into it."""

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        size = info.batch_size
        found = cls.apply(
            *(fold(z, d, size) if isinstance(z, Tensor) else z for z, d in zip(inputs, in_dims, strict=True))
        )
        if isinstance(found, Tensor):
            return unfold(found, size), 0
        return tuple(unfold(z, size) for z in found), (0,) * len(found)
