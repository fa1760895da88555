"""Softpick: a softmax that gives nothing to keys with a negative score, and need not sum to 1."""

from __future__ import annotations

import torch
from torch import Tensor

from architectures.families.key_values import KeyValueMemory, RotaryOptions
from architectures.functional.scores import by_rows, pairs_by_rows, products
from architectures.primitive import Context
from architectures.registry import primitive

EPSILON = 1e-6


@primitive("softpick", mixes="time", version=1, paper="arXiv:2504.20966")
class Softpick(KeyValueMemory):
    """o_t = sum_{s <= t} relu(e_ts) v_s / (sum_{s <= t} |e_ts| + 1e-6), e_ts = exp(q_t . k_s / sqrt(K)) - 1.

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). A key with a score below 0 gets no weight
    and makes those of others smaller; where all scores are below 0 the head finds 0. All terms are divided by
    exp(max(0, largest score)), without which they overflow. Scores and weights are written out: memory grows
    with T * T. Differs from the paper: nothing.

    Hypothesis: recalls better than attention among noise, as a head can look at nothing, and its first token
    draws less attention.
    """

    shift_free = False

    class Config(RotaryOptions, KeyValueMemory.Config):
        pass

    def meet(self, q: Tensor, k: Tensor, v: Tensor, *, past: bool, ctx: Context | None) -> Tensor:
        return by_rows(pick, q * self.scale, k, v)

    def executed_flops(self, length: int) -> int:
        work = 2 * pairs_by_rows(length) * self.heads * (self.key_dim + self.value_dim)
        return self.products(length) + work + self.elementwise(length)


def pick(q: Tensor, k: Tensor, v: Tensor, blind: Tensor) -> Tensor:
    """Softpick attention of a block, see `by_rows`."""
    scores = products(q, k).masked_fill(blind, float("-inf"))
    top = scores.detach().amax(-1, keepdim=True).clamp(min=0)
    # Of scores near 0 a difference of powers would keep the rounding alone.
    e = (torch.expm1(scores - top) - torch.expm1(-top)).masked_fill(blind, 0)
    size = e.abs().sum(-1, keepdim=True) + EPSILON * torch.exp(-top)
    return (e.relu().to(v.dtype) @ v) / size.to(v.dtype)
