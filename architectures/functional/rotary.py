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


def rotated_width(key_dim: int, fraction: float) -> int:
    """How many of a head's channels RoPE turns: an even number, about `fraction` of them."""
    if not 0 < fraction <= 1:
        raise ValueError(
            f"rope_fraction={fraction} must be above 0 and at most 1; for no rotation, rope=false"
        )
    if fraction == 1 and key_dim % 2:
        raise ValueError(
            f"key width {key_dim} a head is odd, and RoPE rotates pairs; choose an even key_dim or rope=false"
        )
    width = 2 * round(fraction * key_dim / 2)
    if not width:
        raise ValueError(
            f"rope_fraction={fraction} of key width {key_dim} is not a pair of channels; choose at least "
            f"{2 / key_dim:g}, or rope=false"
        )
    return width


def rotate_first(x: Tensor, positions: Tensor, count: int, width: int, *, base: float = 10_000.0) -> Tensor:
    """RoPE on the first `count` channels of x (B, T, H, K), with the angles of a `width` and a `base`."""
    if count == x.shape[-1]:
        return rotate(x, positions, base=base, width=width)
    turned = rotate(x[..., :count], positions, base=base, width=width)
    return torch.cat([turned, x[..., count:]], dim=-1)
