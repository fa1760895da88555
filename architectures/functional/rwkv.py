"""Where the mixes, decays and bonuses of the RWKV generations start."""

from __future__ import annotations

import torch
from torch import Tensor


def depth_ratios(index: int, depth: int) -> tuple[float, float]:
    """Where a layer is: from 0 for the first to 1 for the last, and from 1 down to 1 / depth."""
    return index / max(depth - 1, 1), 1 - index / depth


def channel_power(dim: int, exponent: float) -> Tensor:
    """(n / D)^exponent for the channels n = 0 ... D - 1: the weight of the token itself in a mix."""
    return (torch.arange(dim) / dim) ** exponent


def ramp(width: int) -> Tensor:
    """n / (width - 1): from 0 at the first channel to 1 at the last."""
    return torch.linspace(0, 1, width)


def decay_and_bonus(width: int, index: int, depth: int) -> tuple[Tensor, Tensor]:
    """log(-log a) and the bonus of RWKV-5 and 6 at the start, for the key channels of all heads together.

    The memories reach some 400 tokens at the first channel and 3 at the last.
    """
    rho, _ = depth_ratios(index, depth)
    up = ramp(width)
    zigzag = 0.1 * ((torch.arange(width) + 1) % 3 - 1)
    return -6 + 5 * up ** (0.7 + 1.3 * rho), rho * (1 - up) + zigzag
