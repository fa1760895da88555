"""Linear maps of fewer parameters: in two narrow factors, repeated, or made of products."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.primitive import option

Map = Callable[[Tensor], Tensor]


def first_rows(linear: nn.Linear, x: Tensor, rows: int) -> Tensor:
    """The first `rows` outputs of a map."""
    if rows == linear.out_features:
        return linear(x)
    return F.linear(x, linear.weight[:rows], None if linear.bias is None else linear.bias[:rows])


def first_columns(linear: nn.Linear, x: Tensor) -> Tensor:
    """A map of its first inputs, as many as x has."""
    columns = x.shape[-1]
    if columns == linear.in_features:
        return linear(x)
    return F.linear(x, linear.weight[:, :columns], linear.bias)


class LowRank(nn.Module):
    """W_outer act(W_inner z), plus a bias where there is one."""

    def __init__(
        self, dim: int, rank: int, out: int, activation: Map | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        self.activation = activation
        self.inner = nn.Linear(dim, rank, bias=False)
        self.outer = nn.Linear(rank, out, bias=bias)

    def forward(self, z: Tensor) -> Tensor:
        h = self.inner(z)
        return self.outer(h if self.activation is None else self.activation(h))


def copies_of_map() -> Any:
    """The option `tied` of `TiledLinear`."""
    doc = "q, k and v are as many copies of a map with that part of their channels; 1: independent"
    return option(1, doc, least=1)


class TiledLinear(nn.Linear):
    """W x + b, `copies` times beside each other: (..., D) -> (..., width), with W (width / copies, D)."""

    def __init__(self, dim: int, width: int, copies: int = 1) -> None:
        if width % copies:
            raise ValueError(
                f"tied={copies} does not divide the {width} channels of q, k and v; choose a divisor of them"
            )
        super().__init__(dim, width // copies)
        self.copies = copies

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if self.copies == 1 else y.repeat(*(1,) * (y.dim() - 1), self.copies)


class MultiplicativeLinear(nn.Module):
    """y_{s,m} = sum_i x_i D_{s,i} E_{i,m}: x (..., D) -> y (..., S M), flat, of which `outputs` are kept.

    D + D M / S parameters an output of S, S (D + M) for a square map, against D^2; any permutation of the
    inputs is such a map (arXiv:2111.12763). D starts as N(0, 0.5^2), E uniform by Glorot's rule.
    """

    def __init__(self, dim: int, parts: int, outputs: int) -> None:
        super().__init__()
        self.dim, self.parts, self.outputs = dim, parts, outputs
        self.width = math.ceil(outputs / parts)
        self.scale = nn.Parameter(0.5 * torch.randn(parts, dim))
        bound = math.sqrt(6 / (dim + self.width))
        self.shared = nn.Parameter(torch.empty(dim, self.width).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        if math.prod(x.shape[:-1]) < self.width:
            # Few rows: scaled once for each part, so that no more than the two factors is read.
            y = ((x[..., None, :] * self.scale) @ self.shared).flatten(-2)
        else:
            # Many rows: the whole map (D, S M), written out once.
            y = x @ (self.scale.mT[:, :, None] * self.shared[:, None]).flatten(1)
        return y if y.shape[-1] == self.outputs else y[..., : self.outputs]

    def flops(self, rows: int) -> int:
        return 2 * rows * self.dim * self.parts * self.width + self.uncounted_flops(rows)

    def uncounted_flops(self, rows: int) -> int:
        return min(rows, self.width) * self.parts * self.dim
