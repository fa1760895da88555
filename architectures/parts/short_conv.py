"""Short causal depthwise convolution, as a sum of shifted products, and what carries its last inputs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
    """x (..., B, T + taps - 1, D), weight (..., D, taps) -> (..., B, T, D); replicas lead under vmap.

    Its own gradient: that of the slices one by one fills a padded tensor for each tap.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        length = x.shape[-2] - weight.shape[-1] + 1
        first, *rest = _rows(weight)
        y = x[..., :length, :] * first
        for i, tap in enumerate(rest, start=1):
            y.addcmul_(x[..., i : i + length, :], tap)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        taps, length = weight.shape[-1], grad.shape[-2]
        gx = grad.new_zeros(x.shape)
        for i, tap in reversed(list(enumerate(_rows(weight)))):
            gx[..., i : i + length, :].addcmul_(grad, tap)
        gw = torch.stack([(grad * x[..., i : i + length, :]).sum((-3, -2)) for i in range(taps)], dim=-1)
        return gx, gw

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        first = [
            z.expand(info.batch_size, *z.shape) if dim is None else z.movedim(dim, 0)
            for z, dim in zip(inputs, dims, strict=True)
        ]
        return _ShortConv.apply(*first), 0


def _rows(weight: Tensor) -> list[Tensor]:
    """Each tap of the weight (..., D, taps) as (..., 1, 1, D). A column has gaps between its numbers, over
    which a CPU does not vectorise.
    """
    return [tap[..., None, None, :] for tap in weight.mT.contiguous().unbind(-2)]


class ShortConv(nn.Module):
    """`short_conv` and silu as a module that carries its tail; with 0 taps it passes x on unchanged.

    Weights and bias start uniform in +-1/sqrt(taps), PyTorch's default for a depthwise convolution. Behind
    them may stand a second one of `canon` taps, y_t + sum_i w_i y_{t-i}, see `parts.canon`; its last inputs
    are then the end of the tail.
    """

    def __init__(
        self, channels: int, taps: int, *, bias: bool = False, activation: bool = True, canon: int = 0
    ) -> None:
        super().__init__()
        self.channels, self.taps, self.activation = channels, taps, activation
        self.weight = _drawn(channels, taps) if taps else None
        self.bias: nn.Parameter | None = None
        if taps and bias:
            self.bias = nn.Parameter(torch.empty(channels).uniform_(-(taps**-0.5), taps**-0.5))
        self.canon = _drawn(channels, canon) if canon else None

    def forward(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, C) and the inputs before it (B, taps - 1, C) -> the output and the next tail."""
        if self.canon is None:
            return self.mix(x, tail, self.weight)
        own = max(self.taps - 1, 0)
        y, before = self.mix(x, tail[:, :own], self.weight)
        joined = torch.cat([tail[:, own:].to(y.dtype), y], dim=1)
        return y + conv_padded(joined, self.canon), torch.cat([before, joined[:, x.shape[1] :]], dim=1)

    def init_tail(self, like: Tensor, batch: int) -> Tensor:
        """Zeros (B, taps - 1, C), on the device and of the dtype of `like`."""
        kept = max(self.taps - 1, 0) + (0 if self.canon is None else self.canon.shape[1] - 1)
        return like.new_zeros(batch, kept, self.channels)

    def flops(self, length: int) -> int:
        canon = 0 if self.canon is None else 2 * self.canon.shape[1] + 1
        return (2 * self.taps + canon) * length * self.channels

    def mix(self, x: Tensor, tail: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same with these taps, which may be those of some channels."""
        if weight is None:
            return x, tail
        joined = torch.cat([tail.to(x.dtype), x], dim=1)
        y = conv_padded(joined, weight, self.bias)
        return F.silu(y) if self.activation else y, joined[:, x.shape[1] :]


def _drawn(channels: int, taps: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(channels, taps).uniform_(-(taps**-0.5), taps**-0.5))


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
