"""The running maximum of a decaying value, a linear scan in which sums are products and maxima sums."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def decaying_max(fall: Tensor, x: Tensor, first: Tensor) -> Tensor:
    """m_t = max(m_{t-1} + fall_t, x_t): fall, x (B, T, H), first (B, H), the one before -> m (B, T, H).

    By doubling: after each round a position has seen twice as many before it. Nothing is subtracted, so a
    long sum of `fall` costs no precision where it does not matter.
    """
    width, length = 1, x.shape[1]
    while width < length:
        x = torch.maximum(x, fall + F.pad(x, (0, 0, width, 0), value=float("-inf"))[:, :length])
        fall = fall + F.pad(fall, (0, 0, width, 0))[:, :length]
        width *= 2
    return torch.maximum(x, fall + first[:, None])


def decaying_max_flops(length: int) -> int:
    """FLOPs of `decaying_max` for one row and head as it is written; the recurrence needs 2 a token."""
    return (3 * (length - 1).bit_length() + 2) * length
