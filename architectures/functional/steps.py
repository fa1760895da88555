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


def strength(z: Tensor, *, doubled: bool = False) -> Tensor:
    """Gates in (0, 1), or (0, 2) where `doubled`, at least float32."""
    gate = torch.sigmoid(z.to(torch.promote_types(z.dtype, torch.float32)))
    return 2 * gate if doubled else gate


def log_decay(z: Tensor, bias: Tensor, log_rate: Tensor) -> Tensor:
    """log a = -exp(log_rate) softplus(z + bias), at least float32: z (..., H), one bias and rate per head."""
    high = torch.promote_types(z.dtype, torch.float32)
    return -log_rate.to(high).exp() * softplus(z.to(high) + bias.to(high))
