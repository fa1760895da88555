"""The base of the RWKV time mixers: a matrix memory that sees each token's predecessor."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Hint, State


class ShiftedMemory(MatrixMemory):
    """A matrix memory whose `write` sees each token's predecessor: the carry is (x_{t-1}, tail).

    Queries are called receptances r. r, k and v have maps of their own, as each sees its own mix.
    """

    decay = "vector"
    # Beginnings of the names of the low-rank maps.
    low_rank: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        key, value = self.heads * self.key_dim, self.heads * self.value_dim
        self.widths = [key, key, value]
        self.receptance = nn.Linear(dim, key, bias=False)
        self.key = nn.Linear(dim, key, bias=False)
        self.value = nn.Linear(dim, value, bias=False)
        self.conv = ShortConv(sum(self.widths), config.conv)
        self.out = nn.Linear(value, dim, bias=False)

    def project(self, r: Tensor, k: Tensor, v: Tensor, tail: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Three mixes (B, T, D) -> r, k (B, T, H, K), v (B, T, H, V), in at least float32; the next tail."""
        z, tail = self.conv(torch.cat([self.receptance(r), self.key(k), self.value(v)], dim=-1), tail)
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        r, k, v = (u.unflatten(-1, (self.heads, -1)) for u in z.split(self.widths, dim=-1))
        return r, k, v, tail

    @property
    def carry_kinds(self) -> tuple[str, ...]:
        return ("conv", *super().carry_kinds)

    def init_carry(self, like: Tensor, batch: int) -> State:
        """The token before (B, 1, D), zeros, and the tail of the short convolution."""
        return like.new_zeros(batch, 1, self.dim), *super().init_carry(like, batch)

    def hints(self) -> dict[str, Hint]:
        """The mixes and the low-rank maps are not decayed, as in the public code (BlinkDL/RWKV-LM)."""
        names = [
            n for n, p in self.named_parameters() if p.dim() > 1 and n.startswith(("mix", *self.low_rank))
        ]
        return super().hints() | {name: Hint(decay=False) for name in names}
