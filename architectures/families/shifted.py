"""A trait of matrix memories that see each token's predecessor: the time mixers of RWKV."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from architectures.parts.short_conv import ShortConv, TokenShift


class Shifted:
    """What the RWKV time mixers share: maps of r, k and v, each of its own mix with the token before.

    The carry is (x_{t-1}, tail). Queries are called receptances r.
    """

    config: Any
    dim: int
    heads: int
    key_dim: int
    value_dim: int

    def add_maps(self) -> None:
        key, value = self.heads * self.key_dim, self.heads * self.value_dim
        self.shift = TokenShift(self.dim)
        self.receptance = nn.Linear(self.dim, key, bias=False)
        self.key = nn.Linear(self.dim, key, bias=False)
        self.value = nn.Linear(self.dim, value, bias=False)
        self.conv = ShortConv(2 * key + value, self.config.conv)
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
