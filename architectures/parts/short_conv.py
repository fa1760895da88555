"""Modules that carry their last inputs: a short convolution and a token shift."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.functional.short_conv import conv_padded


class ShortConv(nn.Module):
    """`short_conv` and silu as a module that carries its tail; with 0 taps it passes x on unchanged.

    Weights and bias start uniform in +-1/sqrt(taps), PyTorch's default for a depthwise convolution.
    """

    def __init__(self, channels: int, taps: int, *, bias: bool = False, activation: bool = True) -> None:
        super().__init__()
        self.channels, self.taps, self.activation = channels, taps, activation
        self.weight: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        if taps:
            bound = taps**-0.5
            self.weight = nn.Parameter(torch.empty(channels, taps).uniform_(-bound, bound))
            if bias:
                self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def forward(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, C) and the inputs before it (B, taps - 1, C) -> the output and the next tail."""
        if self.weight is None:
            return x, tail
        joined = torch.cat([tail.to(x.dtype), x], dim=1)
        y = conv_padded(joined, self.weight, self.bias)
        return F.silu(y) if self.activation else y, joined[:, x.shape[1] :]

    def init_tail(self, like: Tensor, batch: int) -> Tensor:
        """Zeros (B, taps - 1, C), on the device and of the dtype of `like`."""
        return like.new_zeros(batch, max(self.taps - 1, 0), self.channels)

    def flops(self, length: int) -> int:
        return 2 * self.taps * length * self.channels


class TokenShift(nn.Module):
    """x (B, T, D) and the token before it (B, 1, D) -> each token's predecessor (B, T, D), the last token."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat([last.to(x.dtype), x], dim=1)
        return joined[:, :-1], joined[:, -1:]

    def init_tail(self, like: Tensor, batch: int) -> Tensor:
        """Zeros (B, 1, D), on the device and of the dtype of `like`."""
        return like.new_zeros(batch, 1, self.channels)

    def flops(self, length: int) -> int:
        return 0
