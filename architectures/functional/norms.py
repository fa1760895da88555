"""Root-mean-square normalisation (arXiv:1910.07467)."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(
    x: Tensor, weight: Tensor, *, divisor: int, eps: float = 1e-6, over: Tensor | None = None
) -> Tensor:
    """x / sqrt(sum(x^2) / divisor + eps) * weight over the last axis; at least float32 inside.

    `divisor` is stored by the caller rather than read from the shape: a model that was widened keeps its old
    one, so that zeros in the new channels leave the output as it was. `over`: the channels of x that are
    summed, if not all of them.
    """
    high = x.to(torch.promote_types(x.dtype, torch.float32))
    summed = high if over is None else over.to(high.dtype)
    scale = torch.rsqrt(summed.square().sum(-1, keepdim=True) / divisor + eps)
    return (high * scale).to(x.dtype) * weight.to(x.dtype)
