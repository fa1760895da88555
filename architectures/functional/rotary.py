"""Rotary position embedding (RoPE, arXiv:2104.09864)."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, positions: Tensor, *, base: float = 10_000.0, width: int | None = None) -> Tensor:
    """Rotate the pairs (i, i + K/2) of x (B, T, H, K) by position * base^(-2i/width); `positions` is (T,).

    `width` is K unless the caller stored another one: a layer that was widened keeps the width it was built
    with, so that its old pairs keep their frequencies and the new ones continue the series.
    """
    high = torch.promote_types(x.dtype, torch.float32)
    half = x.shape[-1] // 2
    period = half if width is None else width / 2
    frequency = base ** (-torch.arange(half, device=x.device, dtype=high) / period)
    angle = positions.to(high)[:, None] * frequency  # (T, K/2)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]  # (T, 1, K/2)
    first, second = x[..., :half].to(high), x[..., half:].to(high)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)
