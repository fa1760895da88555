"""Short causal depthwise convolution, as a sum of shifted products."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def short_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, tail: Tensor | None = None) -> Tensor:
    """y_t = bias + sum_i weight[:, i] x_{t - taps + 1 + i}: x (B, T, D), weight (D, taps) -> (B, T, D).

    `tail` (B, taps - 1, D) holds the inputs before the first; zeros without one. A few shifted multiply-adds
    are as fast as a grouped convolution on a CPU and need no transposition.
    """
    taps = weight.shape[-1]
    padded = F.pad(x, (0, 0, taps - 1, 0)) if tail is None else torch.cat([tail, x], dim=1)
    return conv_padded(padded, weight, bias)


def conv_padded(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`short_conv` of x (B, taps - 1 + T, D), which begins with the inputs before the first."""
    y = _ShortConv.apply(x, weight.to(x.dtype))
    return y if bias is None else y + bias.to(x.dtype)


def next_tail(x: Tensor, tail: Tensor) -> Tensor:
    """The last taps - 1 inputs after x (B, T, D), given those before it."""
    return torch.cat([tail, x], dim=1)[:, x.shape[1] :]


class _ShortConv(torch.autograd.Function):
    """x (B, T + taps - 1, D).

    Its own gradient: that of the slices one by one fills a padded tensor for each tap.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        taps = weight.shape[-1]
        length = x.shape[1] - taps + 1
        y = x[:, :length] * weight[:, 0]
        for i in range(1, taps):
            y = torch.addcmul(y, x[:, i : i + length], weight[:, i])
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        taps, length = weight.shape[-1], grad.shape[1]
        wide = F.pad(grad, (0, 0, taps - 1, taps - 1))
        gx = wide[:, : length + taps - 1] * weight[:, taps - 1]
        for i in range(1, taps):
            gx = torch.addcmul(gx, wide[:, i : i + length + taps - 1], weight[:, taps - 1 - i])
        gw = torch.stack([(grad * x[:, i : i + length]).sum((0, 1)) for i in range(taps)], dim=-1)
        return gx, gw
