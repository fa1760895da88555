"""Linear attention in general: a sum of outer products of features and values, and its normaliser.

A subclass says what its features are and how many; the recurrence is that of `MatrixMemory` without a decay.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from architectures.families.matrix_memory import CELL, MatrixMemory, Tokens
from architectures.functional.delta import SCALAR_CHUNK, delta_flops, delta_rule, delta_step
from architectures.parts.short_conv import ShortConv
from architectures.primitive import State


class FeatureMemory(MatrixMemory):
    """S_t = S_{t-1} + phi(k_t) [v_t, 1]^T,  o_t = S_t^T phi(q_t), its last element the denominator.

    The state is (S, tails of q, k and v): S (B, H, `features`, V + 1), without the 1 where not `normalised`.

    features    width of phi
    normalised  divide by the sum of phi(k_s) . phi(q_t), which must then not change its sign
    eps         what is added to the denominator
    """

    features: int
    normalised: bool = True
    eps: float = 1e-6

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        keys, values = self.heads * self.key_dim, self.heads * self.value_dim
        self.query = nn.Linear(dim, keys, bias=False)
        self.key = nn.Linear(dim, keys, bias=False)
        self.value = nn.Linear(dim, values, bias=False)
        self.out = nn.Linear(values, dim, bias=False)
        self.query_conv = ShortConv(keys, config.conv)
        self.key_conv = ShortConv(keys, config.conv)
        self.value_conv = ShortConv(values, config.conv)

    def recur(self, z: Tokens, s: Tensor) -> tuple[Tensor, Tensor]:
        o, s = delta_rule(z.q, z.k, self.append_one(z.v), state=s)
        return self.divide(o), s

    def recur_once(self, z: Tokens, s: Tensor) -> tuple[Tensor, Tensor]:
        o, s = delta_step(z.q[:, 0], z.k[:, 0], self.append_one(z.v[:, 0]), None, s)
        return self.divide(o)[:, None], s

    def memory_shape(self) -> tuple[int, ...]:
        return self.heads, self.features, self.value_dim + self.normalised

    def flops(self, length: int) -> int:
        state = CELL["plain"] * length * math.prod(self.memory_shape())
        return self.products(length) + state + self.elementwise(length)

    def recur_flops(self, length: int) -> tuple[int, int]:
        heads, features, values = self.memory_shape()
        products, rest = delta_flops(length, features, values, chunk=SCALAR_CHUNK, form="plain")
        return heads * products, heads * rest

    def append_one(self, v: Tensor) -> Tensor:
        """v with the 1 whose sum is the denominator; not in `write`, whose values other layers may share."""
        return torch.cat([v, torch.ones_like(v[..., :1])], dim=-1) if self.normalised else v

    def divide(self, o: Tensor) -> Tensor:
        return o[..., :-1] / (o[..., -1:] + self.eps) if self.normalised else o

    def project(self, x: Tensor, carry: State) -> tuple[list[Tensor], State]:
        """q, k (B, T, H, K) and v (B, T, H, V) after their convolutions, at least in float32; their tails."""
        high = torch.promote_types(x.dtype, torch.float32)
        vectors, tails = [], []
        maps = (self.query, self.key, self.value)
        for linear, conv, tail in zip(maps, self.convs(), carry, strict=True):
            z, tail = conv(linear(x), tail)
            vectors.append(z.to(high).unflatten(-1, (self.heads, -1)))
            tails.append(tail)
        return vectors, tuple(tails)
