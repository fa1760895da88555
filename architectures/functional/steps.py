"""Step sizes of discretised decays: how they start, and the map that keeps them positive."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def softplus(z: Tensor) -> Tensor:
    """log(1 + e^z) as -logsigmoid(-z): the compiled gradient of F.softplus assumes strides (torch 2.13)."""
    return -F.logsigmoid(-z)


def draw_step_bias(*shape: int) -> Tensor:
    """Inverse softplus of step sizes that are log-uniform in [1e-3, 1e-1], the start of the Mamba family."""
    dt = torch.exp(torch.empty(*shape).uniform_(math.log(1e-3), math.log(1e-1))).clamp(min=1e-4)
    return dt + torch.log(-torch.expm1(-dt))


def draw_rate(heads: int, low: float, high: float) -> Tensor:
    """Decay rates, uniform in [low, high], kept off zero."""
    return torch.empty(heads).uniform_(low, high).clamp(min=1e-4)
