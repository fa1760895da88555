"""Attention that weighs values by something else than a softmax of scores, which no fused kernel computes.

Its scores are written out, block by block of queries, each against the keys that it may see: half of the
work of the whole square, in pieces that a cache holds. Memory still grows with T * T, as a gradient needs
them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from architectures.functional.attention import hidden

ROWS = 64

# q (B, H, T, K), k (B, H, S, K), v (B, H, S, V) and (T, S), true where a key is hidden -> (B, H, T, V).
Found = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def by_rows(find: Found, q: Tensor, k: Tensor, v: Tensor, *, rows: int = ROWS) -> Tensor:
    """What the last T of S positions find: q (B, T, H, K), k (B, S, H, K), v (B, S, H, V) -> (B, T, H, V)."""
    length, total = q.shape[1], k.shape[1]
    rows = length if q.is_meta else rows  # without numbers there is no work to spare
    q, k, v = (z.transpose(1, 2).contiguous() for z in (q, k, v))
    found = []
    for start in range(0, length, rows):
        end = min(start + rows, length)
        seen = total - length + end
        blind = hidden(end - start, seen, device=q.device)
        found.append(find(q[:, :, start:end], k[:, :, :seen], v[:, :, :seen], blind))
    return torch.cat(found, dim=2).transpose(1, 2)


def pairs_by_rows(length: int, rows: int = ROWS) -> int:
    """The pairs of T queries and T keys that `by_rows` multiplies out, visible or not."""
    whole, rest = divmod(length, rows)
    return rows**2 * (whole * (whole + 1) // 2) + rest * length


def products(q: Tensor, k: Tensor) -> Tensor:
    """Scores (B, H, T, S) of q (B, H, T, K) and k (B, H, S, K), at least float32."""
    scores = q @ k.mT
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
