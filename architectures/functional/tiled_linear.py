"""A linear map whose outputs are repeated."""

from __future__ import annotations

from torch import Tensor, nn


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
