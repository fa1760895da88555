"""Feature maps of linear attention: what stands for the exponential of q . k, vector by vector."""

from __future__ import annotations

import torch
from torch import Tensor


def elu(x: Tensor) -> Tensor:
    """elu(x) + 1; the compiled gradient of F.elu assumes strides that it does not return (torch 2.13)."""
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())


def pairs_of(x: Tensor) -> list[Tensor]:
    """All products x_i x_j with i <= j of x (..., K, C), a block (..., K - i, C) for each i.

    The vectors are columns: each slice is then a block, and the sum over the chunk needs no transposition.
    """
    return [x[..., i : i + 1, :] * x[..., i:, :] for i in range(x.shape[-2])]
