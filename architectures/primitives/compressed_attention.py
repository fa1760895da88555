"""DeepSeek-V4's attention to compressed entries: to all of them, or to the best by an indexer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.compressed import Asked, CompressedAttention
from architectures.functional.precision import full_precision
from architectures.functional.selection import divergence, index_flops, index_scores, largest
from architectures.parts.compressor import Compressor
from architectures.primitive import Context, State, choose, option
from architectures.registry import primitive

REPORT = "https://github.com/huggingface/transformers/tree/main/src/transformers/models/deepseek_v4"


@primitive("hca", mixes="time", version=1, paper=REPORT, known_as="DeepSeek-V4")
class HeavilyCompressedAttention(CompressedAttention):
    """o_t = sum_s softmax_s(q_t . k_s / sqrt(K)) k_s over a window, compressed entries and a sink.

    x (B, T, D) -> q (B, T, H, K), k (B, T, K) -> (B, T, D): one key for all heads, which is the value, too.
    The i-th entry, e_i = RMSNorm(sum_j softmax_j(z_j + b_j) * c_j), sums c (B, T, K) over the i-th `stride`
    tokens channel by channel, and is seen from the last of them on. q comes through a width of `query_rank`
    and is normalised per head, as k is; half of the channels are rotated by RoPE, an entry by the position of
    its first token, and what was found is rotated back by t. The sink has a score s_h, 0 at first, and value
    0. The mask hides, and no score is skipped: the counted work is that of visible pairs. A decoded token
    reads the window and t / stride entries, and the state holds no more keys. Differs from the paper: one
    output map instead of two of groups of heads; heads of 16 channels, a window of 16 tokens and entries of 8
    (512, 128 and 128 there, an eighth of the channels rotated).

    Hypothesis: pairs older than the window are recalled as far as one vector of K channels holds those of
    `stride` tokens, so that in-context recall falls with the stride, and steps to solve grow.
    """

    class Config(CompressedAttention.Config):
        pass

    config: Config


@primitive("csa", mixes="time", version=1, paper=REPORT, known_as="DeepSeek-V4")
class CompressedSparseAttention(CompressedAttention):
    """o_t = sum_s softmax_s(q_t . k_s / sqrt(K)) k_s over a window, the best compressed entries and a sink.

    As `hca`, but entries of few tokens overlap: c and z are (B, T, 2 K), and an entry sums over the second
    halves of its `stride` tokens and the first halves of those before. An indexer chooses `top_k` entries for
    all heads: with entries r_i (C wide) of its own, I_ti = sum_j w_tj relu(p_tj . r_i) / sqrt(J C), p (B, T,
    J, C) made of what q is made of; of equal indices the latest win. x (B, T, D) -> (B, T, D). The output
    gives the indexer no gradient: in training it learns by the divergence of softmax(I) from the attention to
    all whole entries, averaged over heads. The counted work is that of the index of each whole entry and of
    visible pairs. A decoded token reads the window, t / stride entries r, and top_k entries. Differs from the
    paper: as `hca`; 8 entries of 4 tokens (512 of 4 there), 4 index heads of 16 channels (64 of 128).

    Hypothesis: recalls pairs older than the window better than `hca` that reads as many entries, and needs
    more steps, as the indexer follows the attention.
    """

    undecayed = ("sink", "compressor.bias", "index_compressor.bias")
    overlap = True

    class Config(CompressedAttention.Config):
        stride: int = option(4, "tokens by which an entry is later than the one before", least=1)
        top_k: int = option(8, "entries that a query sees", least=1)
        index_heads: int = option(4, "heads of the indexer", least=1)
        index_dim: int = option(16, "channels of an index head, of which rope_fraction turns", least=1)
        index_weight: float = option(1.0, "weight of the auxiliary loss", least=0)

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        c = config
        self.index_rotated = 2 * round(c.rope_fraction * c.index_dim / 2) if c.rope else 0
        self.index_query = nn.Linear(self.rank, c.index_heads * c.index_dim, bias=False)
        self.index_head = nn.Linear(dim, c.index_heads, bias=False)
        self.index_compressor = Compressor(dim, c.index_dim, c.stride, overlap=True)

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return (*super().state_kinds, "conv", "growing")

    def init_state(self, batch: int, length: int | None = None) -> State:
        """As of `hca`, then what the next r needs of the last tokens, and r (B, t // m, C)."""
        tail = self.index_compressor.init_tail(batch)
        return *super().init_state(batch, length), tail, tail.new_zeros(batch, 0, self.config.index_dim)

    def select(self, asked: Asked, own: list[Tensor], ctx: Context | None) -> tuple[Tensor, list[Tensor]]:
        c, (tail, keys), seen = self.config, own, asked.seen
        # What the indexer reads has no gradient of it.
        x, low, q = asked.x.detach(), asked.low.detach(), asked.q.detach()
        new, tail = self.index_compressor(x, tail, asked.waiting, keys.shape[1])
        keys = self.after(keys, new, self.index_rotated)
        with full_precision(x):  # rounding would change the choice
            p, w = (
                F.linear(z.to(keys.dtype), m.weight.to(keys.dtype))
                for z, m in ((low, self.index_query), (x, self.index_head))
            )
            p = self.turn(p.unflatten(-1, (c.index_heads, c.index_dim)), asked.positions, self.index_rotated)
            scores = index_scores(p, keys, w * (c.index_heads * c.index_dim) ** -0.5)  # (B, T, N)
        best = largest(scores.detach().masked_fill(~seen, float("-inf")), c.top_k)
        chosen = choose(best & seen, ctx)
        if ctx is not None and ctx.seed is not None and c.index_weight:  # in training
            met = torch.einsum("bthk,bnk->bhtn", q.to(keys.dtype), asked.entries.detach())
            met = met * self.key_dim**-0.5
            met = torch.where(seen | ~seen.any(-1, keepdim=True), met, float("-inf")).softmax(-1) * seen
            loss = c.index_weight * divergence(met.mean(1), scores, seen.expand_as(scores))
            key = f"{self.path}/index"
            ctx.losses[key] = ctx.losses[key] + loss if key in ctx.losses else loss
        return chosen, [tail, keys]

    def reads(self, length: int) -> int:
        """All but the entries that are not chosen."""
        entries = length // self.config.stride
        return self.measure_state(length)["total"] - max(0, entries - self.config.top_k) * self.key_dim

    def entry_pairs(self, length: int) -> int:
        return sum(min((t + 1) // self.config.stride, self.config.top_k) for t in range(length))

    def flops(self, length: int) -> int:
        return super().flops(length) + sum(self.judged(super().entry_pairs(length)))

    def executed_flops(self, length: int) -> int:
        return super().executed_flops(length) + self.judged(length * (length // self.config.stride))[0]

    def uncounted_flops(self, length: int) -> int:
        return super().uncounted_flops(length) + self.judged(length * (length // self.config.stride))[1]

    def elementwise(self, length: int) -> int:
        return super().elementwise(length) + self.index_compressor.flops(length)

    def judged(self, pairs: int) -> tuple[int, int]:
        return index_flops(pairs, self.config.index_heads, self.config.index_dim)
