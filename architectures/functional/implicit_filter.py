"""The filter of a long convolution as a small network of the position (arXiv:2302.10866)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ImplicitFilter(nn.Module):
    """h(t) = MLP(features(t)) * exp(-t |delta|): the first `length` taps (length, channels).

    Features of t in [0, 1]: t itself and the real and imaginary part of one slow oscillation. Three hidden
    layers sin(nu * (W z + b)) of width `order`, nu learned and shared, then a linear map to the channels. The
    window's rates delta are spread over the channels and fixed.
    """

    features: Tensor
    rates: Tensor

    def __init__(self, channels: int, order: int, max_len: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, order), nn.Linear(order, order), nn.Linear(order, order)])
        self.frequency = nn.Parameter(torch.ones(order))
        self.out = nn.Linear(order, channels, bias=False)
        t = torch.linspace(0, 1, max_len)
        # One band of frequency 1e-4 turns: as good as constant, kept because the paper's features have it.
        angle = 1e-4 * 2 * math.pi * torch.arange(max_len) / max_len
        self.register_buffer(
            "features", torch.stack([t, angle.cos(), -angle.sin()], dim=-1), persistent=False
        )
        rates = torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, channels).abs()
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, length: int) -> Tensor:
        z = self.features[:length].to(self.frequency.dtype)  # (T, 3)
        t = z[:, :1]
        for layer in self.layers:
            z = torch.sin(self.frequency * layer(z))
        return self.out(z) * torch.exp(-t * self.rates.to(t.dtype))

    def flops(self, length: int) -> int:
        order, channels = self.out.in_features, self.out.out_features
        return 2 * length * (3 * order + 2 * order**2 + order * channels)
