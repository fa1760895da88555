"""Feature maps of linear attention: what stands for the exponential of q . k, vector by vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def elu(x: Tensor) -> Tensor:
    """elu(x) + 1; the compiled gradient of F.elu assumes strides that it does not return (torch 2.13)."""
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())


def pairs_of(x: Tensor) -> list[Tensor]:
    """All products x_i x_j with i <= j of x (..., K, C), a block (..., K - i, C) for each i.

    The vectors are columns: each slice is then a block, and the sum over the chunk needs no transposition.
    """
    return [x[..., i : i + 1, :] * x[..., i:, :] for i in range(x.shape[-2])]


class Hedgehog(nn.Module):
    """softmax([2 z, -2 z]), z = W x + b per head (arXiv:2402.04347): x (B, T, H, K) -> (B, T, H, 2 K).

    W starts as the identity, b at 0.
    """

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(width).repeat(heads, 1, 1))
        self.bias = nn.Parameter(torch.zeros(heads, width))

    def forward(self, x: Tensor) -> Tensor:
        z = 2 * (torch.einsum("bthk,hkj->bthj", x, self.weight).to(x.dtype) + self.bias.to(x.dtype))
        return torch.cat([z, -z], dim=-1).softmax(-1)


class Product(nn.Module):
    """(W_1 x) * (W_2 x) per head: x (B, T, H, K) -> (B, T, H, K). Both start as PyTorch's linear maps do."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(heads, width, 2 * width).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.einsum("bthk,hkj->bthj", x, self.weight).to(x.dtype).chunk(2, dim=-1)
        return left * right
