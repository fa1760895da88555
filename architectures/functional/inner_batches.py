"""Memories that are trained as they read, on batches of C tokens: all gradients of a batch are taken at its
start, which the state keeps, so that a row may be cut anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.functional.momentum import weigh, weigh_flops
from architectures.functional.precision import full_precision

# What the memory gives for the keys, and what it should give, (B H, C, V) -> the loss's gradient there.
Error = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Grid:
    """T tokens after `since` of a batch of C, as batches: N of C, filled up with zeros, or one that fits."""

    length: int
    since: int
    batch: int

    @property
    def fits(self) -> bool:
        return self.since + self.length <= self.batch

    @property
    def size(self) -> int:
        return self.length if self.fits else self.batch

    @property
    def ends(self) -> bool:
        """The last token is the last of a batch."""
        return (self.since + self.length) % self.batch == 0

    def cut(self, z: Tensor) -> Tensor:
        """(B, T, H, .) -> (B H, N, C, .)."""
        front = 0 if self.fits else self.since
        z = F.pad(z, (0, 0, 0, 0, front, -(front + self.length) % self.size))
        return z.unflatten(1, (-1, self.size)).permute(0, 3, 1, 2, 4).flatten(0, 1)

    def join(self, z: Tensor, heads: int) -> Tensor:
        """(B H, N, C, .) -> (B, T, H, .)."""
        front = 0 if self.fits else self.since
        z = z.unflatten(0, (-1, heads))
        return z.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, front : front + self.length]


def descend(
    q: Tensor,
    k: Tensor,
    target: Tensor,
    rate: Tensor,
    pace: Tensor,
    state: Tensor,
    since: int,
    error: Error,
) -> tuple[Tensor, Tensor]:
    """W_t = W_0 - pace_i sum_{j <= i} rate_j k_j error(W_0^T k_j, target_j)^T,  o_t = W_t^T q_t.

    t is the i-th token of its batch of C, and W_0 is W at the end of the batch before it. q, k (B, T, H, K),
    target (B, T, H, V), rate (B, T, H), pace (C,), state (B, H, 2 K, V), which is W_0 above the sum, whose
    batch has `since` tokens so far -> o (B, T, H, V), state.
    """
    with full_precision(q):
        grid, heads = Grid(q.shape[1], since, len(pace)), q.shape[2]
        q, k, target, rate = (grid.cut(z) for z in (q, k, target, rate[..., None]))
        w, before = state.flatten(0, 1).chunk(2, dim=-2)
        starts, gradients, last = [], [], q.shape[1] - 1
        for n, (y, aim, r) in enumerate(zip(k.unbind(1), target.unbind(1), rate.unbind(1), strict=True)):
            starts.append(w)
            gradients.append(g := r * error(y @ w, aim))
            total = y.mT @ g if n or not since else before + y.mT @ g
            if n < last or grid.ends:
                w, total = w - pace[-1] * total, torch.zeros_like(total)
        moved = (q @ k.mT).tril() @ torch.stack(gradients, dim=1)
        if since:
            moved = torch.cat([moved[:, :1] + q[:, :1] @ before[:, None], moved[:, 1:]], dim=1)
        own = pace[since : since + grid.size] if grid.fits else pace
        o = q @ torch.stack(starts, dim=1) - own[:, None] * moved
        return grid.join(o, heads), torch.cat([w, total], dim=-2).unflatten(0, (-1, heads))


def descend_with_momentum(
    q: Tensor,
    k: Tensor,
    target: Tensor,
    rate: Tensor,
    log_a: Tensor,
    log_m: Tensor,
    state: Tensor,
    since: int,
    batch: int,
) -> tuple[Tensor, Tensor]:
    """M_t = m_t M_{t-1} + rate_t k_t (S_0^T k_t - target_t)^T,  S_t = a_t S_{t-1} - M_t,  o_t = S_t^T q_t.

    S_0 is S at the end of the batch before the one of t. As in `descend`, with log_a, log_m (B, T, H) at most
    0, and S above M above S_0 as the state (B, H, 3 K, V).
    """
    with full_precision(q):
        grid, heads, key = Grid(q.shape[1], since, batch), q.shape[2], q.shape[-1]
        b = torch.ones_like(rate)
        q, k, target = (grid.cut(z) for z in (q, k, target))
        rate, log_a, log_m, b = (grid.cut(z[..., None]) for z in (rate, log_a, log_m, b))
        w = weigh(log_a, log_m, b)
        seen, written = (q @ k.mT) * w.pairs, rate * k
        kept = torch.cat([written * w.pairs[..., -1:, :].mT, -written * w.left], dim=-1).mT.unbind(1)
        falls = zip(*(z[..., -1:, :].unbind(1) for z in (w.a, w.b, w.m)), strict=True)
        s, m, first = state.flatten(0, 1).chunk(3, dim=-2)
        starts, errors, last = [], [], q.shape[1] - 1
        for n, (y, aim, (a_n, b_n, m_n)) in enumerate(zip(k.unbind(1), target.unbind(1), falls, strict=True)):
            starts.append(torch.cat([s, m], dim=-2))
            errors.append(u := aim - y @ first)
            on_s, on_m = (kept[n] @ u).split(key, dim=-2)
            s, m = a_n * s - b_n * m + on_s, m_n * m + on_m
            first = s if n < last or grid.ends else first
        reads = torch.cat([w.a * q, -w.b * q], dim=-1)
        o = reads @ torch.stack(starts, dim=1) + (seen * rate.mT) @ torch.stack(errors, dim=1)
        return grid.join(o, heads), torch.cat([s, m, first], dim=-2).unflatten(0, (-1, heads))


def descend_flops(length: int, key: int, value: int, batch: int) -> tuple[int, int]:
    """FLOPs of `descend` for one row and head from its start: matrix products, and what is not one."""
    size = min(length, batch)
    chunks = -(-length // size)
    products = chunks * (6 * size * key * value + 2 * size**2 * (key + value))
    return products, chunks * (3 * size * value + 2 * key * value)


def momentum_descend_flops(length: int, key: int, value: int, batch: int) -> tuple[int, int]:
    """FLOPs of `descend_with_momentum` for one row and head from its start, as above."""
    size = min(length, batch)
    chunks = -(-length // size)
    products = chunks * (10 * size * key * value + 2 * size**2 * (key + value))
    return products, chunks * (size * value + 6 * key * value) + weigh_flops(length, size)


def norm_error(weight: Tensor, bias: Tensor, rows: int, eps: float = 1e-6) -> Error:
    """The slope of |LayerNorm(z) - target|^2 / 2 in z (B H, C, V); weight and bias (H, V), for B rows."""
    scale, shift = (p.repeat(rows, 1)[:, None] for p in (weight, bias))

    def error(z: Tensor, target: Tensor) -> Tensor:
        centred = z - z.mean(-1, keepdim=True)
        inverse = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
        unit = centred * inverse
        e = torch.addcmul(shift - target, scale, unit) * scale
        return inverse * (e - e.mean(-1, keepdim=True) - unit * (e * unit).mean(-1, keepdim=True))

    return error
