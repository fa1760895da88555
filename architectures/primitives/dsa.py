"""DeepSeek sparse attention: a small indexer chooses the tokens that all heads see."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.key_values import KeyValueMemory, RotaryOptions
from architectures.families.recurrent import forward_anew
from architectures.functional.attention import attend, hidden
from architectures.functional.precision import full_precision
from architectures.functional.rotary import rotate
from architectures.functional.selection import additive, divergence, index_flops, index_scores, largest
from architectures.primitive import Context, State, choose, option
from architectures.registry import primitive


@primitive("dsa", mixes="time", version=1, paper="arXiv:2512.02556", known_as="DeepSeek-V3.2, GLM-5")
class DeepSeekSparseAttention(KeyValueMemory):
    """o_t = sum_s softmax_s(q_t . k_s / sqrt(K)) v_s over the k tokens with the largest index I_ts.

    I_ts = sum_j w_tj relu(p_tj . r_s) / sqrt(J C): x (B, T, D) -> p (B, T, J, C), r (B, T, C), w (B, T, J),
    one choice for all heads, q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). p and r are rotated by RoPE; of
    equal indices the latest tokens win. The output gives the indexer no gradient: it learns by an auxiliary
    loss in training, the divergence of softmax(I) from the attention over all earlier tokens, averaged over
    heads, and what it reads of x gives x none. The scores are masked, not skipped: this is the definition,
    and the counted work that of the index of every earlier token and of `top_k` visible pairs. A decoded
    token reads all r, which are C wide, and top_k keys and values. Differs from the paper: heads with keys of
    their own instead of the latent of `mla`; the loss is over all earlier tokens, as in its warm-up, from the
    start on; 32 tokens (2,048), 4 index heads of 16 channels.

    Hypothesis: recalls like attention of top_k positions that are the right ones, so it is equal to full
    attention where few tokens matter, and needs more steps, as the indexer follows the attention.
    """

    forward = forward_anew

    class Config(RotaryOptions, KeyValueMemory.Config):
        top_k: int = option(32, "tokens that a query sees", least=1)
        index_heads: int = option(4, "heads of the indexer", least=1)
        index_dim: int = option(16, "channels of an index head", least=1)
        index_weight: float = option(1.0, "weight of the auxiliary loss", least=0)

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        if config.rope and config.index_dim % 2:
            raise ValueError(
                f"index_dim={config.index_dim} is odd, and RoPE rotates pairs; choose an even index_dim, or "
                "rope=false"
            )
        self.index_query = nn.Linear(dim, config.index_heads * config.index_dim, bias=False)
        self.index_key = nn.Linear(dim, config.index_dim, bias=False)
        self.index_head = nn.Linear(dim, config.index_heads, bias=False)

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return (*super().state_kinds, "growing")

    def init_state(self, batch: int, length: int | None = None) -> State:
        """Keys, values, the number of tokens, the tails, and r (B, t, C), in at least float32."""
        like = self.query.weight
        high = torch.promote_types(like.dtype, torch.float32)
        index_keys = like.new_zeros(batch, 0, self.config.index_dim, dtype=high)
        return *super().init_state(batch, length), index_keys

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        keys, values, count, *tails, index_keys = state
        positions = count + torch.arange(x.shape[1], device=x.device)
        q, k, v, tails = self.project(x, positions, tails, ctx)
        k, v = torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        scores, index_keys = self.judge(x.detach(), positions, index_keys)
        visible = ~hidden(x.shape[1], k.shape[1], device=x.device)
        best = largest(scores.detach().masked_fill(~visible, float("-inf")), self.config.top_k)
        chosen = choose(best & visible, ctx)  # (B, T, S)
        wide = self.spread(k)
        o = attend(q, wide, self.spread(v), scale=self.scale, mask=additive(chosen, v)[:, None])
        if ctx is not None and ctx.seed is not None and self.config.index_weight:  # in training
            met = torch.einsum("bthk,bshk->bhts", q.detach(), wide.detach()) * self.scale
            met = met.to(scores.dtype).masked_fill(~visible, float("-inf")).softmax(-1).mean(1)
            loss = self.config.index_weight * divergence(met, scores, visible.expand_as(scores))
            key = f"{self.path}/index"
            ctx.losses[key] = ctx.losses[key] + loss if key in ctx.losses else loss
        return self.read(o, x), (k, v, count + x.shape[1], *tails, index_keys)

    def judge(self, x: Tensor, positions: Tensor, index_keys: Tensor) -> tuple[Tensor, Tensor]:
        """The index (B, T, S) of all tokens for the last T, x (B, T, D), and all r, at least float32."""
        c = self.config
        with full_precision(x):  # rounding would change the choice
            high = torch.promote_types(x.dtype, torch.float32)
            maps = (self.index_query, self.index_key, self.index_head)
            p, r, w = (F.linear(x.to(high), m.weight.to(high)) for m in maps)
            p, r = p.unflatten(-1, (c.index_heads, c.index_dim)), r[:, :, None]
            if c.rope:
                p, r = (rotate(z, positions, base=self.rope_base) for z in (p, r))
            r = torch.cat([index_keys.to(high), r[:, :, 0]], dim=1)
            return index_scores(p, r, w * (c.index_heads * c.index_dim) ** -0.5), r

    def axes(self) -> Axes:
        return super().axes().also({f"index_{n}.weight": ". D" for n in ("query", "key", "head")})

    def reads(self, length: int) -> int:
        """All but the keys and values that are not chosen."""
        idle = max(0, length - self.config.top_k) * self.kv_heads * (self.key_dim + self.value_dim)
        return self.measure_state(length)["total"] - idle

    def pairs(self, length: int) -> int:
        return sum(min(t + 1, self.config.top_k) for t in range(length))

    def flops(self, length: int) -> int:
        judged = length * (length + 1) // 2
        return super().flops(length) + sum(
            index_flops(judged, self.config.index_heads, self.config.index_dim)
        )

    def executed_flops(self, length: int) -> int:
        judged = index_flops(length**2, self.config.index_heads, self.config.index_dim)
        return super().executed_flops(length) + sum(judged)

    def uncounted_flops(self, length: int) -> int:
        judged = index_flops(length**2, self.config.index_heads, self.config.index_dim)
        return super().uncounted_flops(length) + judged[1]
