"""What the layers of RWKV share: a trait of its time mixers, and where mixes, decays and bonuses start."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import Trait, Vectors
from architectures.functional.delta import LOG_DECAY_MIN
from architectures.parts.short_conv import ShortConv, TokenShift


class Shifted(Trait):
    """What the RWKV time mixers share: maps of r, k and v, each of its own mix with the token before.

    The carry is (x_{t-1}, tail). Queries are called receptances r.
    """

    def add_maps(self) -> None:
        key, value = self.heads * self.key_dim, self.heads * self.value_dim
        self.shift = TokenShift(self.dim)
        self.receptance = nn.Linear(self.dim, key, bias=False)
        self.key = nn.Linear(self.dim, key, bias=False)
        self.value = nn.Linear(self.dim, value, bias=False)
        self.conv = ShortConv(2 * key + value, self.config.conv, canon=self.config.canon)
        self.out = nn.Linear(value, self.dim, bias=False)

    def map_mixes(
        self, r: Tensor, k: Tensor, v: Tensor, tail: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Three mixes (B, T, D) -> r, k (B, T, H, K), v (B, T, H, V), in at least float32; the next tail."""
        mapped = self.receptance(r), self.key(k), self.value(v)
        z, tail = self.conv(torch.cat(mapped, dim=-1), tail)
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        r, k, v = (u.unflatten(-1, (self.heads, -1)) for u in z.split([u.shape[-1] for u in mapped], dim=-1))
        return r, k, v, tail

    def read(self, o: Tensor, x: Tensor, tokens: Vectors) -> Tensor:
        return self.out(self.norm(o).to(x.dtype) * F.silu(tokens.kept))


def falling(w: Tensor) -> Tensor:
    """log a = -exp(w), bounded before the exponential: an infinity would have no gradient."""
    return -w.clamp(max=math.log(-LOG_DECAY_MIN)).exp()


def depth_ratios(index: int, depth: int) -> tuple[float, float]:
    """Where a layer is: from 0 for the first to 1 for the last, and from 1 down to 1 / depth."""
    return index / max(depth - 1, 1), 1 - index / depth


def channel_power(dim: int, exponent: float) -> Tensor:
    """(n / D)^exponent for the channels n = 0 ... D - 1: the weight of the token itself in a mix."""
    return (torch.arange(dim) / dim) ** exponent


def ramp(width: int) -> Tensor:
    """n / (width - 1): from 0 at the first channel to 1 at the last."""
    return torch.linspace(0, 1, width)


def decay_and_bonus(width: int, index: int, depth: int) -> tuple[Tensor, Tensor]:
    """log(-log a) and the bonus of RWKV-5 and 6 at the start, for the key channels of all heads together.

    The memories reach some 400 tokens at the first channel and 3 at the last.
    """
    rho, _ = depth_ratios(index, depth)
    up = ramp(width)
    zigzag = 0.1 * ((torch.arange(width) + 1) % 3 - 1)
    return -6 + 5 * up ** (0.7 + 1.3 * rho), rho * (1 - up) + zigzag
