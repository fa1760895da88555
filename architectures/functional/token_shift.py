"""Token shift, a mix of each token with the one before it, and what else the RWKV generations share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.functional.memory import MatrixMemory
from architectures.functional.short_conv import ShortConv
from architectures.primitive import Hint, State


def token_shift(x: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """x (B, T, D) and the token before it (B, 1, D) -> each token's predecessor (B, T, D), the last token."""
    joined = torch.cat([last.to(x.dtype), x], dim=1)
    return joined[:, :-1], joined[:, -1:]


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


class HeadNorm(nn.Module):
    """o (B, T, H, V), centred and of variance 1 a head, then a weight and a bias a channel: (B, T, H V)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, o: Tensor) -> Tensor:
        o = F.layer_norm(o, o.shape[-1:], eps=self.eps).flatten(-2)
        return o * self.weight.to(o.dtype) + self.bias.to(o.dtype)


class LowRank(nn.Module):
    """W_outer act(W_inner z), plus a bias where there is one."""

    def __init__(
        self,
        dim: int,
        rank: int,
        out: int,
        activation: Callable[[Tensor], Tensor] | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.inner = nn.Linear(dim, rank, bias=False)
        self.outer = nn.Linear(rank, out, bias=bias)

    def forward(self, z: Tensor) -> Tensor:
        h = self.inner(z)
        return self.outer(h if self.activation is None else self.activation(h))


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
