"""Attention inside buckets: token i sees the tokens j <= i that share a bucket with it in any hash.

Buckets are (B, T, H, N) for N hashes, queries and keys (B, T, H, K), values (B, T, H, V). Keys are made from
queries, so a token would find little but itself; it sees itself only where nothing else is visible.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.functional.fold import Folded
from architectures.functional.precision import full_precision

# The score of a token with itself: it vanishes beside any other, and weighs 1 alone.
ITSELF = -1e5


def hash_buckets(x: Tensor, rotations: Tensor) -> Tensor:
    """The bucket of each vector, one of 2 M per hash: x (B, T, H, K), rotations (H, N, K, M) -> (B, T, H, N).

    argmax [x R; -x R]: vectors that point the same way share a bucket, whatever their length.
    """
    with full_precision(x):
        turned = torch.einsum("bthk,hnkm->bthnm", x, rotations.to(x.dtype))
    found = torch.cat([turned, -turned], dim=-1).argmax(-1)
    return found.to(bucket_dtype(2 * rotations.shape[-1]))


def bucket_dtype(buckets: int) -> torch.dtype:
    return torch.uint8 if buckets <= 256 else torch.int32


def attend_buckets(q: Tensor, k: Tensor, v: Tensor, buckets: Tensor, *, causal: bool = True) -> Tensor:
    """Every visible pair, (B, T, H, V).

    The scores are computed for all pairs, some rows at a time: time grows with T * T, memory with T.
    """
    length, rule, about = q.shape[1], Rule(hashes=buckets.shape[-1], causal=causal), _about(buckets)
    q, k, v, about = (z.transpose(1, 2) for z in (*_alike(q, k, v), about))  # (B, H, T, .)
    outputs = []
    for start, end in bucket_rows(length):
        keys = end if causal else length
        rows, mine = q[:, :, start:end], about[:, :, start:end]
        key, value, other = (z[:, :, :keys] for z in (k, v, about))
        outputs.append(_Attend.apply(rows, key, value, mine, other, rule)[0])
    return torch.cat(outputs, dim=2).transpose(1, 2)


def bucket_rows(length: int) -> list[tuple[int, int]]:
    """The rows that `attend_buckets` computes at a time: about a million scores per head."""
    rows = max(64, 2**20 // length)
    return [(start, min(start + rows, length)) for start in range(0, length, rows)]


def attend_near(
    q: Tensor, k: Tensor, v: Tensor, buckets: Tensor, *, size: int, chunks: bool = False, causal: bool = True
) -> Tensor:
    """Only pairs that are near in the order of (bucket, position): time and memory grow with T * size.

    Tokens of one bucket lie side by side in that order. As a window, i sees the last `size` tokens of each of
    its buckets, itself included; a later token moves none of them. With `chunks` the order is cut every
    `size` places, and i sees its own chunk and those beside it (the one before, if causal): where the cuts
    fall depends on every token, later ones too.
    """
    q, k, v = _alike(q, k, v)
    order, place = sort_buckets(buckets)
    about = _about(buckets, place)
    found = []
    for n in range(buckets.shape[-1]):
        rule = Rule(hashes=buckets.shape[-1], causal=causal, size=size, chunks=chunks, hash=n)
        found.append(_AttendNear.apply(q, k, v, about, order[..., n], place[..., n], rule))
    outputs, masses = (torch.stack(z) for z in zip(*found, strict=True))
    return (outputs * masses.softmax(0).to(v.dtype)).sum(0)


def near_pairs(length: int, size: int, chunks: bool = False, causal: bool = True) -> int:
    """Pairs that `attend_near` multiplies out for one hash."""
    return -(-length // size) * size * size * (3 if chunks and not causal else 2)


def attend_buckets_past(q: Tensor, k: Tensor, v: Tensor, buckets: Tensor, *, window: int | None) -> Tensor:
    """The last T of S positions, causal, written out: q (B, T, H, K), k, v and buckets of all S."""
    past = k.shape[1] - q.shape[1]
    place = None if window is None else sort_buckets(buckets)[1]
    rule = Rule(hashes=buckets.shape[-1], causal=True, size=window)
    about = _about(buckets, place)
    q, k, v, about = (z.transpose(1, 2) for z in (*_alike(q, k, v), about))
    return _Attend.apply(q, k, v, about[:, :, past:], about, rule)[0].transpose(1, 2)


def sort_buckets(buckets: Tensor) -> tuple[Tensor, Tensor]:
    """Positions in the order of (bucket, position), and the place of each in that order: (B, T, H, N)."""
    length = buckets.shape[1]
    at = torch.arange(length, device=buckets.device)[:, None, None]
    order = (buckets.to(torch.int64) * length + at).argsort(1)
    return order, order.argsort(1)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Who sees whom, from what is known `about` two tokens: buckets, places (with a size) and positions.

    hash   a call computes the pairs of this hash alone, and shares those that meet in several; None: all
    """

    hashes: int
    causal: bool
    size: int | None = None
    chunks: bool = False
    hash: int | None = None

    def scores(self, q: Tensor, k: Tensor, mine: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """q k^T (.., rows, keys), -inf where nothing is seen; and which pairs are a token and itself."""
        n = self.hashes
        a, b = mine[..., :, None, :], other[..., None, :, :]
        met = a[..., :n] == b[..., :n]
        if self.size is not None:
            place, place_ = a[..., n : 2 * n], b[..., n : 2 * n]
            if self.chunks:
                met = met & ((place // self.size - place_ // self.size).abs() <= 1)
            else:
                met = met & (place - place_ < self.size)
        if self.causal:
            met = met & (a[..., -1:] >= b[..., -1:])
        high = torch.promote_types(q.dtype, torch.float32)
        itself = a[..., -1] == b[..., -1]
        scores = (q.to(high) @ k.to(high).mT).masked_fill(itself, ITSELF)
        if self.hash is None:
            return scores.masked_fill(~met.any(-1), float("-inf")), itself
        scores = scores - met.sum(-1).clamp(min=1).to(high).log()
        return scores.masked_fill(~met[..., self.hash], float("-inf")), itself


def _about(buckets: Tensor, place: Tensor | None = None) -> Tensor:
    """What a `Rule` reads, (B, T, H, N or 2 N, and 1)."""
    at = torch.arange(buckets.shape[1], dtype=torch.int32, device=buckets.device)
    parts = [buckets, *([] if place is None else [place]), at[:, None, None].expand(*buckets.shape[:-1], 1)]
    return torch.cat([z.to(torch.int32) for z in parts], -1)


def _alike(*tensors: Tensor) -> tuple[Tensor, ...]:
    dtype = functools.reduce(torch.promote_types, (z.dtype for z in tensors))
    return tuple(z.to(dtype) for z in tensors)


def _forward(
    q: Tensor, k: Tensor, v: Tensor, mine: Tensor, other: Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    """Softmax attention under a rule, and the log-sum-exp of its scores.

    q (.., rows, K), k (.., keys, K), v (.., keys, V), and what is known of rows and keys.
    """
    with full_precision(q):
        scores, _ = rule.scores(q, k, mine, other)
        mass = scores.logsumexp(-1, keepdim=True)
        return torch.exp(scores - mass).to(v.dtype) @ v, mass


def _backward(
    saved: tuple[Tensor, ...], grad: Tensor, grad_mass: Tensor, rule: Rule
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, from scores that are computed once more."""
    q, k, v, mine, other, out, mass = saved
    with full_precision(q):
        scores, itself = rule.scores(q, k, mine, other)
        p = torch.exp(scores - mass)
        g = grad.to(p.dtype)
        inner = (g * out.to(p.dtype)).sum(-1, keepdim=True)
        slope = p * (g @ v.to(p.dtype).mT - inner + grad_mass)
        slope = slope.masked_fill(itself, 0)  # that score is a constant
        gq, gk, gv = slope @ k.to(p.dtype), slope.mT @ q.to(p.dtype), p.mT @ g
    return gq.to(q.dtype), gk.to(q.dtype), gv.to(q.dtype)


class _Ruled(Folded):
    """The last input is a rule; outputs are those of `_forward`."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.rule = inputs
        ctx.save_for_backward(*tensors, *output)


class _Attend(_Ruled):
    forward = staticmethod(_forward)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_mass: Tensor) -> tuple[Tensor | None, ...]:
        return (*_backward(ctx.saved_tensors, grad, grad_mass, ctx.rule), None, None, None)


class _AttendNear(_Ruled):
    """One hash: everything (B, T, H, .), the order and the places of the hash (B, T, H)."""

    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, about: Tensor, order: Tensor, place: Tensor, rule: Rule
    ) -> tuple[Tensor, Tensor]:
        mine, sides = _cut(about, order, rule, -1), [_cut(z, order, rule) for z in (q, k, v)]
        parts = [_forward(*_group(*span, rule, sides, mine), rule) for span in _groups(mine)]
        out, mass = (_back(torch.cat(z, dim=1), place) for z in zip(*parts, strict=True))
        return out, mass

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_mass: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, about, order, place, out, mass = ctx.saved_tensors
        rule, length = ctx.rule, q.shape[1]
        mine, sides = _cut(about, order, rule, -1), [_cut(z, order, rule) for z in (q, k, v)]
        rest = [_cut(z, order, rule) for z in (out, mass, grad, grad_mass)]
        blocks = mine.shape[1]
        gq: list[Tensor] = []
        # One block longer at each end, for what is seen beside the first and the last.
        gk, gv = (F.pad(torch.zeros_like(z), (0, 0, 0, 0, 0, 0, 1, 1)) for z in sides[1:])
        for start, end in _groups(mine):
            inputs = _group(start, end, rule, sides, mine)
            o, m, g, gm = (z[:, start:end] for z in rest)
            got, *found = _backward((*inputs, o, m), g, gm, rule)
            gq.append(got)
            gk, gv = (_add_beside(z, x, start, blocks) for z, x in zip((gk, gv), found, strict=True))
        grads = _back(torch.cat(gq, dim=1), place), _back(gk[:, 1:-1], place), _back(gv[:, 1:-1], place)
        return (*(z[:, :length] for z in grads), None, None, None, None)


def _cut(z: Tensor, order: Tensor, rule: Rule, fill: int = 0) -> Tensor:
    """(B, T, H, .) in the order of a hash, in blocks: (B, blocks, H, size, .)."""
    assert rule.size is not None
    z = z.gather(1, order[..., None].expand(*order.shape, z.shape[-1]))
    z = F.pad(z, (0, 0, 0, 0, 0, -z.shape[1] % rule.size), value=fill)
    return z.unflatten(1, (-1, rule.size)).transpose(2, 3)


def _back(z: Tensor, place: Tensor) -> Tensor:
    """(B, blocks, H, size, .) -> (B, T, H, .) in the order of time."""
    z = z.transpose(2, 3).flatten(1, 2)
    return z.gather(1, place[..., None].expand(*place.shape, z.shape[-1]))


def _groups(mine: Tensor) -> list[tuple[int, int]]:
    """Blocks that are computed at a time: some hundred thousand scores per head."""
    blocks, size = mine.shape[1], mine.shape[3]
    step = max(1, 2**16 // size**2)
    return [(start, min(start + step, blocks)) for start in range(0, blocks, step)]


def _group(
    start: int, end: int, rule: Rule, sides: Sequence[Tensor], mine: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """q of some blocks, k and v of these and their neighbours side by side; `about` of both."""
    after = 1 if rule.chunks and not rule.causal else 0

    def beside(z: Tensor, fill: int = 0) -> Tensor:
        low, high = max(0, start - 1), min(z.shape[1], end + after)
        z = F.pad(z[:, low:high], (0, 0, 0, 0, 0, 0, low - start + 1, end + after - high), value=fill)
        return torch.cat([z[:, i : i + end - start] for i in range(2 + after)], dim=3)

    # What fills the last block is in a bucket -1 of its own; what lies outside is in none, -2.
    q, k, v = sides
    return q[:, start:end], beside(k), beside(v), mine[:, start:end], beside(mine, -2)


def _add_beside(total: Tensor, wide: Tensor, start: int, blocks: int) -> Tensor:
    """The gradient of `beside`: each part of `wide` (B, group, H, (2 or 3) size, .) goes to its blocks."""
    size, group = total.shape[3], wide.shape[1]
    for i, part in enumerate(wide.split(size, dim=3)):
        before = start + i  # of blocks + 2, the first of which lies before the start
        total = total + F.pad(part, (0, 0, 0, 0, 0, 0, before, blocks + 2 - before - group))
    return total
