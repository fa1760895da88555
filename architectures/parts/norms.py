"""Root-mean-square normalisation (arXiv:1910.07467), over the width with a weight, and over each head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


class RMSNorm(nn.Module):
    """`rms_norm` with a learned weight (D,), initialised at 1."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.divisor = dim
        self.eps = eps

    def forward(self, x: Tensor, over: Tensor | None = None) -> Tensor:
        return rms_norm(x, self.weight, divisor=self.divisor, eps=self.eps, over=over)


class HeadNorm(nn.Module):
    """o (B, T, H, V), centred and of variance 1 per head, a weight and a bias per channel: (B, T, H V)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, o: Tensor) -> Tensor:
        o = F.layer_norm(o, o.shape[-1:], eps=self.eps).flatten(-2)
        return o * self.weight.to(o.dtype) + self.bias.to(o.dtype)
