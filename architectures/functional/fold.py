"""Replicas folded into the batch: what the vmap rules of this package share."""

from __future__ import annotations

from torch import Tensor


def fold(x: Tensor, dim: int | None, size: int) -> Tensor:
    """(R, B, ...), or (B, ...) shared by all replicas, -> (R * B, ...)."""
    x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def unfold(x: Tensor, size: int) -> Tensor:
    """(R * B, ...) -> (R, B, ...)."""
    return x.reshape(size, -1, *x.shape[1:])
