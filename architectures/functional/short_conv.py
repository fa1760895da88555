"""Short causal depthwise convolution, as a sum of shifted products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def short_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, tail: Tensor | None = None) -> Tensor:
    """y_t = bias + sum_i weight[:, i] x_{t - taps + 1 + i}: x (B, T, D), weight (D, taps) -> (B, T, D).

    `tail` (B, taps - 1, D) holds the inputs before the first; zeros without one. A few shifted multiply-adds
    are as fast as a grouped convolution on a CPU and need no transposition.
    """
    taps, length = weight.shape[-1], x.shape[1]
    padded = F.pad(x, (0, 0, taps - 1, 0)) if tail is None else torch.cat([tail, x], dim=1)
    y = padded[:, :length] * weight[:, 0]
    for i in range(1, taps):
        y = y + padded[:, i : i + length] * weight[:, i]
    return y if bias is None else y + bias


def next_tail(x: Tensor, tail: Tensor) -> Tensor:
    """The last taps - 1 inputs after x (B, T, D), given those before it."""
    return torch.cat([tail, x], dim=1)[:, x.shape[1] :]
