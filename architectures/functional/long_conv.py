"""Long causal convolutions: by FFT, and as products with Toeplitz matrices.

The products have exact zeros where an FFT leaves rounding. They are for filters that some channels share, or
that continue from a state, a chunk at a time. On a CPU a filter of 128 taps for each 16 channels costs as
much as an FFT (16 sequences of 512) and a thirteenth of a sum of taps.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.functional.precision import full_precision


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


CHUNK = 64


def grouped_conv(x: Tensor, h: Tensor, tail: Tensor) -> Tensor:
    """y_t = sum_i h[g, i] x_{t-i}, g the group of the channel, in at least float32, of the dtype of x.

    x (B, T, D), the tail before it (B, taps - 1, D), h (G, taps), groups of D / G contiguous channels.
    """
    high = torch.promote_types(torch.promote_types(x.dtype, h.dtype), torch.float32)
    (batch, length, dim), (groups, taps) = x.shape, h.shape
    past, chunks = _round(taps - 1), math.ceil(length / CHUNK)
    padded = F.pad(torch.cat([tail.to(high), x.to(high)], 1), (0, 0, past - taps + 1, -length % CHUNK))
    z = padded.view(batch, -1, CHUNK, groups, dim // groups).permute(3, 2, 0, 1, 4)  # (G, C, B, n, D/G)
    matrix = toeplitz(h.to(high), past)
    parts = matrix.unflatten(-1, (-1, CHUNK)).unbind(-2)  # (G, C, C), the oldest chunk first
    with full_precision(x):
        products = [part @ z[:, :, :, j : j + chunks].flatten(2) for j, part in enumerate(parts)]
    y = functools.reduce(torch.add, products)
    y = y.view(groups, CHUNK, batch, chunks, -1).permute(2, 3, 1, 0, 4)
    return y.reshape(batch, chunks * CHUNK, dim)[:, :length].to(x.dtype)


def grouped_conv_flops(length: int, dim: int, taps: int) -> int:
    """Matrix products of `grouped_conv`."""
    return 2 * dim * _round(length) * (_round(taps - 1) + CHUNK)


def modal_conv(u: Tensor, rate: Tensor, residue: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """s_t = exp(-rate) s_{t-1} + u_t, y_t = sum_n residue_n s_t: u (B, T, D) -> y (B, T, D), the last s.

    rate, residue (D, N), s (B, D, N), all in at least float32. Inside a chunk a Toeplitz product with the
    filter sum_n residue_n exp(-rate_n t), between chunks the states.
    """
    batch, length, dim = u.shape
    chunks = math.ceil(length / CHUNK)
    rest = length - (chunks - 1) * CHUNK  # of the last chunk
    time = torch.arange(CHUNK, device=u.device).to(rate.dtype)
    fade = torch.exp(-rate[..., None] * time)  # (D, N, C)
    step = torch.exp(-rate)
    padded = F.pad(u, (0, 0, 0, -length % CHUNK))
    z = padded.view(batch, chunks, CHUNK, dim).permute(3, 2, 1, 0)  # (D, C, n, B)
    with full_precision(u):
        filter = (residue[:, None] @ fade)[:, 0]
        y = toeplitz(filter, 0) @ z.flatten(2)
        written = (fade.flip(-1) @ z[:, :, :-1].flatten(2)).unflatten(-1, (-1, batch)).unbind(2)
        last = fade[..., :rest].flip(-1) @ z[:, :rest, -1]
        entering = [state.permute(1, 2, 0)]  # (D, N, B)
        over = torch.exp(-CHUNK * rate)[..., None]
        for w in written:
            entering.append(over * entering[-1] + w)
        leave = ((residue * step)[..., None] * fade).mT  # (D, C, N)
        y = y + leave @ torch.cat(entering, dim=-1)
    end = torch.exp(-rest * rate)[..., None] * entering[-1] + last
    y = y.view(dim, CHUNK, chunks, batch).permute(3, 2, 1, 0)
    return y.reshape(batch, -1, dim)[:, :length], end.permute(2, 0, 1)


def modal_conv_flops(length: int, dim: int, order: int) -> tuple[int, int]:
    """FLOPs of `modal_conv`: matrix products, and the chain of the chunks' states."""
    products = 2 * dim * (_round(length) * (CHUNK + order) + length * order + CHUNK * order)
    return products, 2 * dim * order * math.ceil(length / CHUNK)


def toeplitz(h: Tensor, past: int) -> Tensor:
    """m[g, i, j] = h[g, past + i - j], 0 outside of the filter: h (G, taps) -> (G, C, past + C)."""
    groups, taps = h.shape
    lags = F.pad(h, (0, past + CHUNK - taps)).flip(-1)  # from past + C - 1 down to 0
    older, rest = lags.split([CHUNK - 1, past + 1], dim=-1)
    row = torch.cat([rest, torch.zeros_like(older), older], dim=-1)
    # Read with a stride one short of its length, the repeated row moves one to the right in every line.
    width = row.shape[-1] - 1
    rows = row[:, None].expand(-1, CHUNK, -1).flatten(1)[:, : CHUNK * width]
    return rows.view(groups, CHUNK, width)[..., : past + CHUNK]


def _round(length: int) -> int:
    return math.ceil(length / CHUNK) * CHUNK
