"""The filter of a long convolution as a small network of the position (arXiv:2302.10866)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from architectures.primitive import Hint, option

# The public code means to train positions at 1e-5 where the rest of a filter has 1e-3.
POSITION_LR = 0.01


def filter_order(default: int, of: str) -> Any:
    """The option `order` of an `ImplicitFilter`."""
    doc = f"width of the filter's network; nominal state{of}"
    return option(default, doc, sizes="state", least=1)


def filter_positions() -> Any:
    """The option `positions` of an `ImplicitFilter`."""
    doc = "features of the position, of which the filter is a network; learned: 3 max_len numbers"
    return option("fixed", doc)


class ImplicitFilter(nn.Module):
    """h(t) = MLP(features(t)) * exp(-t |delta|): the first `length` taps (length, channels).

    Features of t in [0, 1]: t itself and the real and imaginary part of one slow oscillation, which are
    trained where they are `learned`. Three hidden layers sin(nu * (W z + b)) of width `order`, nu learned and
    shared, then a linear map to the channels. The window's rates delta are spread over channels and fixed.
    """

    features: Tensor
    rates: Tensor

    def __init__(self, channels: int, order: int, max_len: int, *, learned: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, order), nn.Linear(order, order), nn.Linear(order, order)])
        self.frequency = nn.Parameter(torch.ones(order))
        self.out = nn.Linear(order, channels, bias=False)
        t = torch.linspace(0, 1, max_len)
        # One band of frequency 1e-4 turns: as good as constant, kept because the paper's features have it.
        angle = 1e-4 * 2 * math.pi * torch.arange(max_len) / max_len
        features = torch.stack([t, angle.cos(), -angle.sin()], dim=-1)
        if learned:
            self.features = nn.Parameter(features)
        else:
            self.register_buffer("features", features, persistent=False)
        rates = torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, channels).abs()
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, length: int) -> Tensor:
        # A copy: torch's counter of FLOPs takes no view of a parameter as a module's input.
        z = self.features[:length].to(self.frequency.dtype, copy=True)  # (T, 3)
        t = z[:, :1]
        for layer in self.layers:
            z = torch.sin(self.frequency * layer(z))
        return self.out(z) * torch.exp(-t * self.rates.to(t.dtype))

    def hints(self) -> dict[str, Hint]:
        """The filter is a function, not a map of features: decaying it pulls its frequencies to zero."""
        names = (name for name, _ in self.named_parameters())
        return {
            f"filter.{n}": Hint(decay=False, lr_scale=POSITION_LR if n == "features" else 1.0) for n in names
        }
