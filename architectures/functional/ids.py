"""Functions of the ids of tokens: hashed n-grams, and what followed the longest suffix before."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from architectures.context import keyed_seed

# Distances that are looked at together: the memory is this times the number of tokens.
BLOCK = 64


def copied(ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """y (B, T), -1 where no suffix occurred before, of the last T of ids (B, S), and the next lengths (B, S).

    y_t = i_{t - d + 1} for the smallest d > 0 of the longest run i_{t - j} = i_{t - d - j}, j = 0, 1, ...
    Earlier calls leave in `lengths` (B, S - T) how long this run is for their last token and each d = 1, 2,
    ...; none before the first. S T comparisons; a suffix automaton would need O(T).
    """
    batch, total = ids.shape
    past = lengths.shape[1]
    length = total - past
    places = past + torch.arange(length, device=ids.device)
    own = ids[:, past:, None]
    count = torch.arange(length, device=ids.device)[:, None]
    best = ids.new_zeros(batch, length)
    distance = ids.new_ones(batch, length)
    after = []
    lengths = torch.cat([lengths, lengths.new_zeros(batch, length)], dim=1)
    for start in range(1, total + 1, BLOCK):
        d = torch.arange(start, min(start + BLOCK, total + 1), device=ids.device)
        at = places[:, None] - d
        same = (own == ids[:, at.clamp(min=0)]) & (at >= 0)  # (B, T, d)
        # A run goes back to the last difference, or on into what came before this call.
        missed = torch.where(same, -1 - length - total, count)
        begun = -1 - lengths[:, None, start - 1 : start - 1 + len(d)]
        run = count - torch.maximum(missed.cummax(1).values, begun)
        longest, where = run.max(-1)
        best, distance = torch.maximum(best, longest), torch.where(longest > best, d[where], distance)
        after.append(run[:, -1].clone())  # a view would keep the whole block
    source = (places - distance + 1).clamp(min=0, max=total - 1)
    return torch.where(best > 0, ids.gather(1, source), -1), torch.cat(after, dim=1)


def odd_multipliers(count: int, ids: int) -> list[int]:
    """Fixed odd numbers, whose products with any of the `ids` fit into 63 bits."""
    return [keyed_seed(f"engram/{i}") % (2**62 // ids) | 1 for i in range(count)]


def next_prime(after: int) -> int:
    """The smallest prime above a number."""
    n = after + 1
    while n < 2 or any(n % d == 0 for d in range(2, math.isqrt(n) + 1)):
        n += 1
    return n
