"""Feature maps of linear attention that are learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Hedgehog(nn.Module):
    """softmax([2 z, -2 z]), z = W x + b a head (arXiv:2402.04347): x (B, T, H, K) -> (B, T, H, 2 K).

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
    """(W_1 x) * (W_2 x) a head: x (B, T, H, K) -> (B, T, H, K). Both start as PyTorch's linear maps do."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(heads, width, 2 * width).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.einsum("bthk,hkj->bthj", x, self.weight).to(x.dtype).chunk(2, dim=-1)
        return left * right
