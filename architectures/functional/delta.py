"""The recurrence S -> (diag(a) + x y^T) S + k v^T on a matrix state, in chunks.

Within a chunk every position sees its predecessors through one unit-triangular system; the chunks are then
chained by one small product each. Only that chain is sequential.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.functional.precision import full_precision

SCALAR_CHUNK = 32
# Factors of one chunk grow to exp(16 * 5), which float32 still holds: callers clamp vector log a here.
VECTOR_CHUNK = 16
LOG_DECAY_MIN = -5.0


def unit(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / sqrt(sum(x^2) + eps) over the last axis."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps)


def in_chunks(z: Tensor, size: int) -> Tensor:
    """(B, T, H, .) -> (B, H, T/C, C, .), filled up with zeros, which decay, write and correct nothing."""
    z = F.pad(z, (0, 0, 0, 0, 0, -z.shape[1] % size))
    return z.unflatten(1, (-1, size)).permute(0, 3, 1, 2, 4)


def in_time(z: Tensor, length: int) -> Tensor:
    """(B, H, T/C, C, .) -> (B, T, H, .), without what was filled up."""
    return z.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :length]


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_a: Tensor | None = None,
    state: Tensor | None = None,
    *,
    x: Tensor | None = None,
    y: Tensor | None = None,
    read: Literal["post", "pre"] = "post",
    bonus: Tensor | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """S_t = (diag(a_t) + x_t y_t^T) S_{t-1} + k_t v_t^T; o_t = S_t^T q_t: all o and the last S.

    q, k, x, y (B, T, H, K), v (B, T, H, V), state (B, H, K, V) or None for zeros -> o (B, T, H, V),
    S (B, H, K, V), in at least float32. log_a: none for a = 1, (B, T, H) for one decay per head (<= 0,
    unbounded), (B, T, H, K) for one per channel (at least LOG_DECAY_MIN). Without y nothing is corrected or
    solved, and one head of q and k may serve all heads of v; y without x means x = -k, the delta rule, at
    half the work. read="pre": o_t = (S_{t-1} + diag(bonus) k_t v_t^T)^T q_t with bonus (H, K), or no second
    term.
    """
    _check(x, y, read, bonus)
    with full_precision(q):
        high = torch.promote_types(q.dtype, torch.float32)
        batch, length, _, key = q.shape
        pre, vector = read == "pre", log_a is not None and log_a.dim() == q.dim()
        size = min(chunk or (VECTOR_CHUNK if vector else SCALAR_CHUNK), length)

        def cut(z: Tensor) -> Tensor:
            return in_chunks(z.to(high), size)

        q, k, v = cut(q), cut(k), cut(v)
        decay = None
        if log_a is not None:
            # A decay beyond the square of the rounding is none. Unbounded, one of -1e7 would take the digits
            # of its neighbours in the sums of a chunk.
            log_a = log_a.to(high).clamp(min=2 * math.log(torch.finfo(high).eps))
            decay = _Decay(cut(log_a if vector else log_a[..., None]), vector)
        # One chunk that begins with zeros: nothing enters it.
        alone = state is None and length <= size
        seen, keys, value = _pairs(q, k, decay, pre), _leaving(k, decay), v.shape[-1]
        reads = q if alone else _entering(q, decay, pre)
        if y is None:
            inner, written, moved = seen @ v, keys.mT @ v, None
        else:
            y = cut(y)
            entered = [] if alone else [_entering(y, decay, True)]
            if x is None:
                solved = _solve(_pairs(y, k, decay, True), torch.cat([*(-z for z in entered), v], dim=-1))
                local, carried = seen @ solved, keys.mT @ solved
                inner, written = local[..., -value:], carried[..., -value:]
            else:
                x = cut(x)
                own = _pairs(y, k, decay, True) @ v
                solved = _solve(-_pairs(y, x, decay, True), torch.cat([*entered, own], dim=-1))
                local, carried = _pairs(q, x, decay, pre) @ solved, _leaving(x, decay).mT @ solved
                inner, written = local[..., -value:] + seen @ v, carried[..., -value:] + keys.mT @ v
            moved = None if alone else carried[..., :key]
            reads = reads if alone else reads + local[..., :key]
        if bonus is not None:
            inner = inner + (q * bonus.to(high)[:, None, None] * k).sum(-1, keepdim=True) * v

        if alone:
            return in_time(inner, length), written[:, :, 0]
        s = v.new_zeros(batch, v.shape[1], key, value) if state is None else state.to(high)
        kept = None if decay is None else decay.after[..., -1, :, None].exp()  # (B, H, T/C, K or 1, 1)
        if moved is not None:
            moved = moved + torch.eye(key, dtype=high, device=q.device) * (1 if kept is None else kept)
        entering = []
        for n, new in enumerate(written.unbind(2)):
            entering.append(s)
            if moved is not None:
                s = moved.select(2, n) @ s + new
            else:
                s = new + (s if kept is None else kept.select(2, n) * s)
        o = inner + reads @ torch.stack(entering, dim=2)
        return in_time(o, length), s


def delta_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_a: Tensor | None,
    state: Tensor,
    *,
    x: Tensor | None = None,
    y: Tensor | None = None,
    read: Literal["post", "pre"] = "post",
    bonus: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`delta_rule` for one token: q, k, x, y (B, H, K), v (B, H, V), log_a (B, H) or (B, H, K)."""
    _check(x, y, read, bonus)
    with full_precision(q):
        high = torch.promote_types(q.dtype, torch.float32)
        q, k, v, before = q.to(high), k.to(high), v.to(high), state.to(high)
        after, written = before, v
        if log_a is not None:
            decay = log_a.to(high).exp()
            after = before * (decay[..., None] if log_a.dim() == q.dim() else decay[..., None, None])
        if y is not None:
            found = (y.to(high)[..., None, :] @ before)[..., 0, :]
            if x is None:
                written = v - found
            else:
                after = after + x.to(high)[..., None] * found[..., None, :]
        after = after + k[..., None] * written[..., None, :]
        o = (q[..., None, :] @ (before if read == "pre" else after))[..., 0, :]
        if bonus is not None:
            o = o + (q * bonus.to(high) * k).sum(-1, keepdim=True) * v
        return o, after


def match(q: Tensor, k: Tensor, rate: Tensor, log_a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """P_t q_t of every token, with P_t = diag(a_t) P_{t-1} + rate_t k_t^T, and the last P.

    q, k (B, T, H, K), rate, log_a (B, T, H, M), s (B, H, M, K) -> (B, T, H, M), (B, H, M, K). The decay is on
    the axis that is not summed over: the pairs of a chunk need none, and it multiplies what comes out.
    """
    length, size = q.shape[1], min(VECTOR_CHUNK, q.shape[1])

    with full_precision(q):
        q, k, rate, total = (in_chunks(z, size) for z in (q, k, rate, log_a))
        total = total.cumsum(-2)
        inner = (q @ k.mT).tril() @ (rate * (-total).exp())
        written = (rate * (total[..., -1:, :] - total).exp()).mT @ k  # (B, H, T/C, M, K)
        kept = total[..., -1, :, None].exp()
        entering = []
        for n, new in enumerate(written.unbind(2)):
            entering.append(s)
            s = kept.select(2, n) * s + new
        logits = total.exp() * (inner + q @ torch.stack(entering, dim=2).mT)
        return in_time(logits, length), s


def delta_flops(
    length: int,
    key: int,
    value: int,
    *,
    chunk: int,
    form: Literal["plain", "tied", "free"],
    anew: bool = False,
) -> tuple[int, int]:
    """FLOPs of `delta_rule` for one row and head as it is written: matrix products, and what is not one.

    form: "plain" without y, "tied" with y alone, "free" with x and y. anew: without a state.
    """
    alone, chunk = anew and length <= chunk, min(chunk, length)
    chunks = -(-length // chunk)
    padded = chunks * chunk
    pairs = 2 * padded * chunk
    through = 2 * padded * key * value  # the reading of what entered the chunk; writing costs as much
    if form == "plain":
        products = pairs * (key + value) + through
        return (products, 0) if alone else (products + through, 2 * chunks * key * value)
    solved = value if alone else key + value  # columns
    products = 2 * pairs * key + pairs * solved + 2 * padded * key * solved
    rest = padded * chunk * solved
    if form == "free":
        products += 2 * pairs * (key + value) + through
    if not alone:
        products += through + 2 * chunks * key * key * value
        rest += chunks * key * value
    return products, rest


class _Decay:
    """Sums of log a from the start of a chunk, up to and including a position, and up to the one before."""

    def __init__(self, log_a: Tensor, vector: bool) -> None:
        self.after, self.vector = log_a.cumsum(-2), vector
        self.before = F.pad(self.after[..., :-1, :], (0, 0, 1, 0))


def _entering(z: Tensor, decay: _Decay | None, pre: bool) -> Tensor:
    return z if decay is None else z * (decay.before if pre else decay.after).exp()


def _leaving(z: Tensor, decay: _Decay | None) -> Tensor:
    return z if decay is None else z * (decay.after[..., -1:, :] - decay.after).exp()


def _pairs(left: Tensor, right: Tensor, decay: _Decay | None, pre: bool) -> Tensor:
    """left_i . right_j with the decay between them, for j <= i, or j < i where `pre`; (..., C, C)."""
    diagonal = -1 if pre else 0
    if decay is None:
        return (left @ right.mT).tril(diagonal)
    if decay.vector:
        return (_entering(left, decay, pre) @ (right * (-decay.after).exp()).mT).tril(diagonal)
    gap = (decay.before if pre else decay.after) - decay.after.mT
    future = torch.ones(gap.shape[-2:], dtype=torch.bool, device=gap.device).triu(diagonal + 1)
    # -inf before the exponential: afterwards an overflow times zero would be no number.
    return (left @ right.mT) * gap.masked_fill(future, float("-inf")).exp()


def _solve(below: Tensor, right: Tensor) -> Tensor:
    """(1 + below)^-1 right; the diagonal of `below` is not read."""
    return torch.linalg.solve_triangular(below, right, upper=False, unitriangular=True)


def _check(x: Tensor | None, y: Tensor | None, read: str, bonus: Tensor | None) -> None:
    if x is not None and y is None:
        raise ValueError("x without y corrects nothing; pass y as well")
    if read not in ("post", "pre"):
        raise ValueError(f"read={read!r} is not one of post, pre")
    if bonus is not None and read == "post":
        raise ValueError("a bonus needs read='pre': reading after writing sees the token already")
