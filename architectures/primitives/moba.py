"""Mixture of block attention: a query sees its own block and the earlier blocks whose mean key it likes."""

from __future__ import annotations

import torch
from torch import Tensor

from architectures.families.key_values import KeyValueMemory, RotaryOptions
from architectures.functional.attention import attend
from architectures.functional.precision import full_precision
from architectures.functional.selection import additive, block_means, largest
from architectures.primitive import Context, choose, option
from architectures.registry import primitive


@primitive("moba", mixes="time", version=1, paper="arXiv:2502.13189", known_as="Kimi")
class MixtureOfBlocks(KeyValueMemory):
    """o_t = sum_s softmax_s(q_t . k_s / sqrt(K)) v_s over the s <= t of t's own and the best earlier blocks.

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). Positions are cut into blocks of `block`.
    Each query head takes the `top_k` - 1 earlier blocks with the largest q_t . mean(k), of equal ones the
    latest; the choice has no gradient. One softmax over all that is seen. The scores are masked, not skipped:
    this is the definition, and the counted work that of visible pairs and of a score for each earlier block.
    A decoded token reads top_k blocks of keys and values, and the means of the rest. Differs from the paper:
    blocks of 16 tokens, three of them seen (256 and 4 in public code); decoding is as sparse as training,
    where the paper goes on with full attention.

    Hypothesis: recall of exact pairs falls as soon as the row has more blocks than are seen, the less the
    larger the share of blocks seen; at top_k = all blocks it is attention.
    """

    class Config(RotaryOptions, KeyValueMemory.Config):
        block: int = option(16, "tokens of a block", least=1)
        top_k: int = option(3, "blocks that a query sees, its own included", least=1)

    config: Config

    def meet(self, q: Tensor, k: Tensor, v: Tensor, *, past: bool, ctx: Context | None) -> Tensor:
        chosen = choose(self.blocks(q.detach(), k.detach()), ctx)  # (B, H, T, blocks)
        length, total, block = q.shape[1], k.shape[1], self.config.block
        seen = chosen.repeat_interleave(block, dim=-1)[..., :total]
        at = torch.arange(total, device=q.device)
        return attend(q, k, v, scale=self.scale, mask=additive(seen & (at <= at[total - length :, None]), v))

    def blocks(self, q: Tensor, k: Tensor) -> Tensor:
        """The blocks that the last T of S positions see: q (B, T, H, K), k (B, S, H, K) -> (B, H, T, N)."""
        length, total, block = q.shape[1], k.shape[1], self.config.block
        own = torch.arange(total - length, total, device=q.device)[:, None] // block  # (T, 1)
        at = torch.arange(-(-total // block), device=q.device)
        with full_precision(q):
            high = torch.promote_types(q.dtype, torch.float32)
            scores = torch.einsum("bthk,bnhk->bhtn", q.to(high), block_means(k.to(high), block))
        # A block that is not whole is nobody's but its own.
        earlier = at[: scores.shape[-1]] < own
        best = torch.zeros_like(earlier).expand(scores.shape)
        if self.config.top_k > 1 and scores.shape[-1]:
            best = largest(scores.masked_fill(~earlier, float("-inf")), self.config.top_k - 1)
        rest = best.new_zeros(*best.shape[:-1], len(at) - best.shape[-1])
        return torch.cat([best, rest], dim=-1) | (at == own)

    def reads(self, length: int) -> int:
        """Of a step after T tokens: its blocks, which each query head may choose otherwise, and all means."""
        block = self.config.block
        seen = length % block + min(self.config.top_k - 1, length // block) * block
        means = self.kv_heads * (length // block) * self.key_dim
        state = self.measure_state(length)
        return (
            min(self.heads * seen * (self.key_dim + self.value_dim) + means, state["growing"]) + state["conv"]
        )

    def pairs(self, length: int) -> int:
        block, most = self.config.block, self.config.top_k - 1
        return sum(t % block + 1 + min(most, t // block) * block for t in range(length))

    def flops(self, length: int) -> int:
        scored = sum(t // self.config.block for t in range(length))
        return super().flops(length) + 2 * scored * self.heads * self.key_dim

    def executed_flops(self, length: int) -> int:
        scored = length * (length // self.config.block)
        return super().executed_flops(length) + 2 * scored * self.heads * self.key_dim
