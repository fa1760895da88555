"""A matrix state on the levels of a Fenwick tree: the recent past apart, the distant past in large buckets.

Before token t the earlier ones lie in buckets whose sizes are the powers of two that add up to t, the
smallest last: token j lies on level bit_length(t xor j), and t itself on level 0. Every level obeys the same
recurrence, and a token reads them with weights of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.functional.delta import SCALAR_CHUNK, in_chunks, in_time
from architectures.functional.precision import full_precision


def levels_for(max_len: int) -> int:
    """How many levels `max_len` tokens need."""
    return (max_len - 1).bit_length() + 1


def fenwick_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_a: Tensor,
    weights: Tensor,
    state: Tensor,
    seen: Tensor,
    *,
    ask: Tensor | None = None,
    chunk: int = SCALAR_CHUNK,
) -> tuple[Tensor, Tensor]:
    """S^l_t = a_t (I - k_t ask_t^T) S^l_{t-1}, and k_t v_t^T on level 0; o_t = sum_l w^l_t (S^l_t)^T q_t.

    q, k, ask (B, T, H, K), v (B, T, H, V), log_a (B, T, H), weights (B, T, H, L), state (B, H, L, K, V), and
    how many tokens it has seen (B,), or (1,) for all rows -> o (B, T, H, V) and the next state, in at least
    float32. Without `ask` nothing is corrected. A chunk may start anywhere in the tree: what enters it lies
    on levels that only ever rise, to the level that the first token of the chunk has for them.
    """
    with full_precision(q):
        high = torch.promote_types(q.dtype, torch.float32)
        length, count, key = q.shape[1], weights.shape[-1], q.shape[-1]
        size = min(chunk, length)

        def cut(z: Tensor) -> Tensor:  # (B, H, N, C, .)
            return in_chunks(z.to(high), size)

        q, k, v, weights, total = cut(q), cut(k), cut(v), cut(weights), cut(log_a[..., None]).cumsum(-2)
        gap = total - total.mT
        future = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
        between = gap.masked_fill(future, float("-inf")).exp()  # (B, H, N, C, C)
        # What a token sees of the others in its chunk, and what of them leaves it; (B, H, N, C + K, C).
        rows = torch.cat([(q @ k.mT) * between, (k * (total[..., -1:, :] - total).exp()).mT], dim=-2)
        reads, moved = q * total.exp(), total[..., -1:, :].exp()
        if ask is not None:
            ask = cut(ask)
            below = (ask @ k.mT) * between
            rows = torch.linalg.solve_triangular(below, rows, upper=False, left=False, unitriangular=True)
            undone = rows @ (ask * total.exp())
            reads = reads - undone[..., :size, :]
            moved = moved * torch.eye(key, dtype=high, device=q.device) - undone[..., size:, :]

        level = torch.arange(count, device=q.device)
        first = seen[:, None] + size * torch.arange(q.shape[2], device=q.device)  # (B, N)
        here = first[..., None] + torch.arange(size, device=q.device)
        last = torch.minimum(here[..., -1], seen[:, None] + length - 1)
        pairs = _level(here[..., None], here[..., None, :], count)  # (B, N, C, C)
        risen = _level(here, first[..., None] - 1, count)  # (B, N, C), the least level of what entered
        home = _level(here, last[..., None], count)[..., None, :] == level[:, None]  # (B, N, L, C)

        o = (rows[..., :size, :] * _pick(weights, pairs)) @ v
        leaving = rows[..., None, size:, :] * home[:, None, :, :, None].to(high)
        written = leaving @ v[..., None, :, :]  # (B, H, N, L, K, V)
        s, entering = state.to(high), []
        up = _level(last, first - 1, count)
        for n in range(q.shape[2]):
            entering.append(s)
            kept = moved.select(2, n)[:, :, None]  # (B, H, 1, K, K) or (B, H, 1, 1, 1)
            s = merge(kept * s if ask is None else kept @ s, up[:, n]) + written.select(2, n)
        weighted = _pick(weights, torch.maximum(risen[..., None], level))[..., None] * reads[..., None, :]
        o = o + weighted.flatten(-2) @ torch.stack(entering, dim=2).flatten(-3, -2)
        return in_time(o, length), s


def fenwick_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_a: Tensor,
    weights: Tensor,
    state: Tensor,
    seen: Tensor,
    *,
    ask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`fenwick_rule` for one token: q, k, ask (B, H, K), v (B, H, V), log_a (B, H), weights (B, H, L)."""
    with full_precision(q):
        high = torch.promote_types(q.dtype, torch.float32)
        q, k, v, weights = q.to(high), k.to(high), v.to(high), weights.to(high)
        count = weights.shape[-1]
        s = merge(state.to(high), _level(seen, seen - 1, count)) * log_a.to(high).exp()[..., None, None, None]
        new = F.pad(v[:, :, None], (0, 0, 0, count - 1))  # (B, H, L, V), on level 0
        if ask is not None:
            new = new - (ask.to(high)[:, :, None, None] @ s)[..., 0, :]
        s = s + k[:, :, None, :, None] * new[..., None, :]
        found = (q[:, :, None, None] @ s)[..., 0, :]
        return (weights[..., None] * found).sum(2), s


def merge(state: Tensor, level: Tensor) -> Tensor:
    """What lies on `level` (B,) or below moves to it: state (B, H, L, K, V)."""
    index = torch.arange(state.shape[2], device=state.device)
    lifted = (index <= level[:, None])[:, None, :, None, None]
    there = (index == level[:, None])[:, None, :, None, None]
    total = torch.where(lifted, state, 0).sum(2, keepdim=True)
    return torch.where(there, total, torch.where(lifted, 0, state))


def fenwick_flops(
    length: int, key: int, value: int, count: int, *, corrects: bool, chunk: int = SCALAR_CHUNK
) -> tuple[int, int]:
    """FLOPs of `fenwick_rule` for one row and head as it is written: matrix products, and what is not one."""
    chunk = min(chunk, length)
    chunks = -(-length // chunk)
    padded, cells = chunks * chunk, count * key * value
    products = 2 * padded * (chunk * (key + value) + 2 * cells)
    rest = padded * (chunk + 2 * count * key) + 2 * chunks * cells
    if corrects:
        products += 2 * padded * key * (2 * chunk + key) + 2 * chunks * cells * key
        rest += padded * chunk * (chunk + key)
    else:
        rest += chunks * cells
    return products, rest


def buckets(length: int) -> tuple[int, int]:
    """Levels in use, summed over `length` tokens, and how many buckets were added to another."""
    used = sum(t.bit_count() + 1 for t in range(length))
    return used, length - 1 - (length - 1).bit_count()


def _level(one: Tensor, other: Tensor, count: int) -> Tensor:
    """bit_length(one xor other), at most count - 1, and 0 where one of them is -1, before the first token."""
    powers = 2 ** torch.arange(count - 1, device=one.device)
    return ((one ^ other)[..., None] >= powers).sum(-1)


def _pick(weights: Tensor, index: Tensor) -> Tensor:
    """weights (B, H, N, C, L) at the levels `index` (B or 1, N, C, .) -> (B, H, N, C, .)."""
    index = index[:, None].expand(*weights.shape[:-1], index.shape[-1])
    return weights.gather(-1, index)
