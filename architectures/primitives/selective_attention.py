"""Selective attention: tokens tell later ones which earlier keys they no longer need."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.families.key_values import KeyValueMemory, RotaryOptions
from architectures.families.recurrent import forward_anew
from architectures.functional.scores import by_rows, pairs_by_rows, products
from architectures.primitive import Context, State
from architectures.registry import primitive


@primitive("selective-attention", mixes="time", version=1, paper="arXiv:2410.02703")
class SelectiveAttention(KeyValueMemory):
    """o_t = sum_{s <= t} softmax_s(z_ts - sum_{s < i < t} relu(z0_is)) v_s with z_ts = q_t . k_s / sqrt(K).

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). z0 are the scores of the first head: a
    token that looks at a key with it takes this key away from the tokens after it, for all heads. The first
    token of the sequence is never taken away, and no token takes itself. The cache holds the sum F of what
    was taken from each key besides. Scores and weights are written out: memory grows with T * T. Differs from
    the paper: without its extra loss on the memory, and no key is dropped from the cache.

    Hypothesis: recalls better than attention where keys are overwritten or noise is to be passed over.
    """

    forward = forward_anew

    shift_free = False
    rewrites = True

    class Config(RotaryOptions, KeyValueMemory.Config):
        pass

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return (*super().state_kinds, "growing")

    def init_state(self, batch: int, length: int | None = None) -> State:
        """Keys, values, the number of tokens, the tails, and F (B, t), in at least float32."""
        like = self.query.weight
        high = torch.promote_types(like.dtype, torch.float32)
        return *super().init_state(batch, length), like.new_zeros(batch, 0, dtype=high)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        keys, values, count, *tails, taken = state
        q, k, v, tails = self.project(x, count + torch.arange(x.shape[1], device=x.device), tails, ctx)
        k, v = torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        taken = F.pad(taken, (0, x.shape[1]))

        def find(q: Tensor, k: Tensor, v: Tensor, blind: Tensor) -> Tensor:
            nonlocal taken
            scores = products(q, k)
            # Of the keys before the token itself, and not of the first of all.
            first = torch.arange(k.shape[2], device=q.device) == 0
            spared = F.pad(blind[:, 1:], (0, 1), value=True) | first
            takes = scores[:, 0].relu().masked_fill(spared, 0)
            before, after = taken.split([k.shape[2], taken.shape[1] - k.shape[2]], dim=1)
            sums = takes.cumsum(1)
            scores = scores - (before[:, None] + sums - takes)[:, None]
            taken = torch.cat([before + sums[:, -1], after], dim=1)
            return scores.masked_fill(blind, float("-inf")).softmax(-1).to(v.dtype) @ v

        o = by_rows(find, q * self.scale, self.spread(k), self.spread(v))
        return self.read(o, x), (k, v, count + x.shape[1], *tails, taken)

    def executed_flops(self, length: int) -> int:
        work = 2 * pairs_by_rows(length) * self.heads * (self.key_dim + self.value_dim)
        return self.products(length) + work + self.elementwise(length)
