"""Native sparse attention: pooled blocks, a few whole blocks and a window, weighed by gates."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.key_values import KeyValueMemory, RotaryOptions
from architectures.families.recurrent import forward_anew
from architectures.functional.attention import attend, attend_past, executed_pairs, visible_pairs
from architectures.functional.precision import full_precision
from architectures.functional.selection import additive, block_means, largest
from architectures.primitive import Context, State, choose, option
from architectures.registry import primitive


@primitive("nsa", mixes="time", version=1, paper="arXiv:2502.11089")
class NativeSparseAttention(KeyValueMemory):
    """o_t = g_1 * attend(q_t, mean keys) + g_2 * attend(q_t, best blocks) + g_3 * attend(q_t, window).

    x (B, T, D) -> q (B, T, H, K), k (B, T, G, K), v (B, T, G, V), g = sigmoid(W_g x) (B, T, 3, H) -> (B, T,
    D). The first answer is over the mean key and mean value of each whole block of `block` tokens up to t,
    and 0 before the first. Its weights, averaged over the query heads that share keys, choose: the first
    block, t's own and the one before, then the best others, `top_k` in all, of equal ones the latest. The
    third is over the last `window` positions. All share keys and values. The scores are masked, not skipped:
    this is the definition, and the counted work that of visible pairs. A decoded token reads all means, top_k
    blocks and the window; the cache holds every key and value, of which the means are computed. Differs from
    the paper: means instead of a learned map of overlapping blocks, as in public code; keys and values are
    not of each branch its own; blocks of 8, six of them, and a window of 16 (64, 16 and 512 there), at least
    4 query heads that share keys (16).

    Hypothesis: recall of exact pairs needs the chosen blocks and takes longer to learn than with attention;
    what only needs averages of the past, such as compression, does not.
    """

    forward = forward_anew

    class Config(RotaryOptions, KeyValueMemory.Config):
        group: int = option(4, "least query heads per key and value head, with kv_heads=none", least=1)
        block: int = option(8, "tokens of a block", least=1)
        top_k: int = option(6, "whole blocks that a query sees; three of them are always the same", least=3)
        window: int = option(16, "positions of the window, itself included", least=1)

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.branches = nn.Linear(dim, 3 * self.heads, bias=False)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        keys, values, count, *tails = state
        positions = count + torch.arange(x.shape[1], device=x.device)
        q, k, v, tails = self.project(x, positions, tails, ctx)
        k, v = torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        wide_k, wide_v = self.spread(k), self.spread(v)
        pooled, weights = self.pooled(q, k, v)
        chosen = choose(self.blocks(weights.detach(), k.shape[1]), ctx)
        chosen = chosen.repeat_interleave(self.heads // self.kv_heads, dim=1)
        whole = attend(q, wide_k, wide_v, scale=self.scale, mask=additive(chosen, wide_v))
        near = (attend_past if keys.shape[1] else attend)(
            q, wide_k, wide_v, scale=self.scale, window=self.config.window
        )
        gates = self.branches(x).sigmoid().unflatten(-1, (3, self.heads))[..., None]
        branches = zip(gates.unbind(2), (pooled, whole, near), strict=True)
        o = sum((g * o for g, o in branches), torch.zeros_like(whole))
        return self.read(o.to(v.dtype), x), (k, v, count + x.shape[1], *tails)

    def pooled(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The answer of whole blocks (B, T, H, V), and what each weighs for a head of keys (B, G, T, N)."""
        length, total, block = q.shape[1], k.shape[1], self.config.block
        k, v = (self.spread(block_means(z, block)) for z in (k, v))
        ends = (torch.arange(k.shape[1], device=q.device) + 1) * block
        seen = ends <= torch.arange(total - length, total, device=q.device)[:, None] + 1
        with full_precision(q):
            high = torch.promote_types(q.dtype, torch.float32)
            scores = torch.einsum("bthk,bnhk->bhtn", q.to(high), k.to(high)) * self.scale
            # A row that sees nothing is even over what it does not see, then 0.
            scores = torch.where(seen | ~seen.any(-1, keepdim=True), scores, float("-inf"))
            weights = scores.softmax(-1) * seen
            found = torch.einsum("bhtn,bnhv->bthv", weights, v.to(high))
        return found, weights.unflatten(1, (self.kv_heads, -1)).mean(2)

    def blocks(self, weights: Tensor, total: int) -> Tensor:
        """Which of `total` positions the last T see: (B, G, T, S)."""
        length, block = weights.shape[2], self.config.block
        at = torch.arange(total, device=weights.device)
        now = at[total - length :, None]
        own, blocks = now // block, torch.arange(-(-total // block), device=weights.device)
        rest = weights.new_zeros(*weights.shape[:-1], len(blocks) - weights.shape[-1])
        always = (blocks == 0) | (blocks == own) | (blocks == own - 1)
        scores = torch.cat([weights, rest], dim=-1).masked_fill(always, float("inf"))
        best = largest(scores.masked_fill(blocks > own, float("-inf")), self.config.top_k)
        return best.repeat_interleave(block, dim=-1)[..., :total] & (at <= now)

    def axes(self) -> Axes:
        """Only the model's width grows: new heads or channels would change which blocks the old heads see."""
        whole = super().axes().also({"branches.weight": ". D"})
        tensors = {n: " ".join(x if x == "D" else "." for x in a.split()) for n, a in whole.tensors.items()}
        return dataclasses.replace(whole, tensors=tensors)

    def reads(self, length: int) -> int:
        """Of a step after T tokens: the means, the blocks and the window, as often as a branch reads them."""
        block = self.config.block
        seen = length % block + min(self.config.top_k - 1, length // block) * block
        seen += length // block + min(length, self.config.window - 1)
        state = self.measure_state(length)
        return min(self.kv_heads * seen * (self.key_dim + self.value_dim), state["growing"]) + state["conv"]

    def pairs(self, length: int) -> int:
        block, most = self.config.block, self.config.top_k - 1
        return sum(t % block + 1 + min(most, t // block) * block for t in range(length))

    def flops(self, length: int) -> int:
        means = sum((t + 1) // self.config.block for t in range(length))
        return super().flops(length) + self.beside(means + visible_pairs(length, self.config.window))

    def executed_flops(self, length: int) -> int:
        means = length * (length // self.config.block)
        width = 4 * self.heads * max(self.key_dim, self.value_dim)
        near = width * executed_pairs(length, self.config.window)
        return super().executed_flops(length) + self.beside(means) + near

    def beside(self, pairs: int) -> int:
        return 2 * pairs * self.heads * (self.key_dim + self.value_dim)

    def elementwise(self, length: int) -> int:
        return super().elementwise(length) + 3 * length * self.heads * self.value_dim
