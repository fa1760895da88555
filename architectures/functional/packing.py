"""Chosen tokens to the front of their row, in their order, and the others behind them."""

from __future__ import annotations

import torch
from torch import Tensor


def ranks(chosen: Tensor) -> Tensor:
    """(B, T) -> where each token goes if the chosen ones come first, both kinds in their order."""
    here = chosen.long().cumsum(1)
    return torch.where(chosen, here - 1, here[:, -1:] + (~chosen).long().cumsum(1) - 1)


def pack(z: Tensor, rank: Tensor) -> Tensor:
    """z (B, T, ...) with token t at rank[:, t]."""
    index = rank.reshape(*rank.shape, *(1,) * (z.dim() - 2)).expand(z.shape)
    return torch.zeros_like(z).scatter(1, index, z)
