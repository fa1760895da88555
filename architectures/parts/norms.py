"""Norms with weights: over the width (arXiv:1910.07467), and over each head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.functional.norms import rms_norm


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
    """o (B, T, H, V), centred and of variance 1 a head, then a weight and a bias a channel: (B, T, H V)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, o: Tensor) -> Tensor:
        o = F.layer_norm(o, o.shape[-1:], eps=self.eps).flatten(-2)
        return o * self.weight.to(o.dtype) + self.bias.to(o.dtype)
