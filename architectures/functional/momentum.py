"""The delta rule whose error passes through a momentum on its way into the state, in chunks.

    M_t = m_t M_{t-1} - k_t u_t^T,   S_t = a_t S_{t-1} - b_t M_t,   o_t = S_t^T q_t

What u_j adds to S_i is the sum over the tokens s between them of b_s, times the momentum's decay from j to s,
times the state's decay from s to i. That weight is a recurrence of its own over i, for every pair of a chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.functional.delta import in_chunks, in_time
from architectures.functional.precision import full_precision
from architectures.functional.scan import linear_scan

MOMENTUM_CHUNK = 16


@dataclass
class Weights:
    """Of the C tokens of a chunk: `pairs` (..., C, C), what u_j weighs in S_i, and the rest (..., C, 1).

    a, b      what S and -M of the chunk's start weigh in S_i; a_before, b_before in S_{i-1}
    m, left   what M weighs in M_i, and what u_j weighs in the last M
    """

    pairs: Tensor
    a: Tensor
    b: Tensor
    m: Tensor
    left: Tensor
    a_before: Tensor
    b_before: Tensor


def weigh(log_a: Tensor, log_m: Tensor, b: Tensor) -> Weights:
    """log_a, log_m, b (..., C, 1), the logarithms at most 0."""
    # A decay beyond the square of the rounding is none, and would take the digits of its neighbours.
    least = 2 * math.log(torch.finfo(log_a.dtype).eps)
    log_m = log_m.clamp(min=least)
    size, total = log_a.shape[-2], log_m.cumsum(-2)
    # Column 0 is the chunk's start, column j + 1 the token j: their momentum, as it is left at the token i.
    since = total - F.pad(total, (0, 0, 1, 0)).mT
    future = torch.ones(size, size + 1, dtype=torch.bool, device=b.device).triu(2)
    momentum = b * since.masked_fill(future, float("-inf")).exp()
    shape = momentum.shape
    decays = log_a.exp().expand(shape)
    summed = linear_scan(decays.reshape(-1, size, size + 1), momentum.reshape(-1, size, size + 1)).view(shape)
    a, b = log_a.clamp(min=least).cumsum(-2).exp(), summed[..., :1]
    return Weights(
        pairs=summed[..., 1:],
        a=a,
        b=b,
        m=total.exp(),
        left=(total[..., -1:, :] - total).exp(),
        a_before=F.pad(a[..., :-1, :], (0, 0, 1, 0), value=1.0),
        b_before=F.pad(b[..., :-1, :], (0, 0, 1, 0)),
    )


def momentum_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    log_a: Tensor,
    log_m: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    *,
    chunk: int = MOMENTUM_CHUNK,
) -> tuple[Tensor, Tensor]:
    """The rule above with u_t = v_t - S_{t-1}^T y_t: all o and the last state, in at least float32.

    q, k, y (B, T, H, K), v (B, T, H, V), log_a, log_m, b (B, T, H), state (B, H, 2 K, V), which is S above M,
    or None for zeros -> o (B, T, H, V), state. The u of a chunk are the solution of one unit-triangular
    system, linear in the state that enters; the chunks are chained by one product each.
    """
    with full_precision(q):
        high = torch.promote_types(q.dtype, torch.float32)
        length, key, size = q.shape[1], q.shape[-1], min(chunk, q.shape[1])
        q, k, v, y = (in_chunks(z.to(high), size) for z in (q, k, v, y))
        w = weigh(*(in_chunks(z.to(high)[..., None], size) for z in (log_a, log_m, b)))
        seen = (q @ k.mT) * w.pairs
        asked = (y @ k.mT) * F.pad(w.pairs[..., :-1, :], (0, 0, 1, 0))
        # What enters, by columns: u = solved v - asks (S, M).
        alone = state is None and length <= size
        entering = [] if alone else [w.a_before * y, -w.b_before * y]
        solved = torch.linalg.solve_triangular(
            asked, torch.cat([*entering, v], dim=-1), upper=False, unitriangular=True
        )
        kept = torch.cat([k * w.pairs[..., -1:, :].mT, -k * w.left], dim=-1)  # (B, H, T/C, C, 2 K)
        local, carried = seen @ solved, kept.mT @ solved
        if alone:
            return in_time(local, length), carried[:, :, 0]
        values = v.shape[-1]
        s = v.new_zeros(*v.shape[:2], 2 * key, values) if state is None else state.to(high)
        reads = torch.cat([w.a * q, -w.b * q], dim=-1) - local[..., : 2 * key]
        moved = _decays(w, key) - carried[..., : 2 * key]
        starts = []
        for move, new in zip(moved.unbind(2), carried[..., 2 * key :].unbind(2), strict=True):
            starts.append(s)
            s = move @ s + new
        o = local[..., 2 * key :] + reads @ torch.stack(starts, dim=2)
        return in_time(o, length), s


def momentum_step(
    q: Tensor, k: Tensor, u: Tensor, log_a: Tensor, log_m: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The rule for one token and a given u: q, k (B, H, K), u (B, H, V), log_a, log_m, b (B, H)."""
    with full_precision(q):
        s, m = state.chunk(2, dim=-2)
        m = log_m.exp()[..., None, None] * m - k[..., None] * u[..., None, :]
        s = log_a.exp()[..., None, None] * s - b[..., None, None] * m
        return (q[..., None, :] @ s)[..., 0, :], torch.cat([s, m], dim=-2)


def momentum_flops(length: int, key: int, value: int, *, anew: bool = False) -> tuple[int, int]:
    """FLOPs of `momentum_rule` for one row and head as it is written: matrix products, and the rest."""
    alone, size = anew and length <= MOMENTUM_CHUNK, min(MOMENTUM_CHUNK, length)
    chunks = -(-length // size)
    padded, solved = chunks * size, value if alone else 2 * key + value
    products = 4 * padded * size * key + 2 * padded * size * solved + 4 * padded * key * solved
    rest = padded * size * solved + weigh_flops(length, size)
    if not alone:
        products += 4 * padded * key * value + chunks * 8 * key**2 * value
        rest += 2 * chunks * key * value
    return products, rest


def weigh_flops(length: int, size: int) -> int:
    """The weights of all pairs: a multiply-add, a product and the two products of pairs that they scale."""
    return 5 * -(-length // size) * size * (size + 1)


def _decays(w: Weights, key: int) -> Tensor:
    """What becomes of S above M over a chunk without a token of its own: (..., 2 K, 2 K)."""
    a, b, m = (z[..., -1:, :] for z in (w.a, w.b, w.m))
    eye = torch.eye(key, dtype=a.dtype, device=a.device)
    return torch.cat(
        [torch.cat([a * eye, -b * eye], dim=-1), torch.cat([0 * eye * a, m * eye], dim=-1)], dim=-2
    )
