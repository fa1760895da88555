"""Wall attention: every channel of a score decays by what the tokens between forgot of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.key_values import KeyValueMemory
from architectures.families.recurrent import forward_anew
from architectures.functional.precision import full_precision
from architectures.primitive import Context, State
from architectures.registry import primitive

CHUNK = 8


@primitive("wall", mixes="time", version=1, paper="arXiv:2503.02130", known_as="Wall Attention")
class WallAttention(KeyValueMemory):
    """o_t = sum_{s <= t} softmax_s(sum_c q_tc k_sc prod_{s < i <= t} f_ic / sqrt(K)) v_s with 0 < f < 1.

    x (B, T, D) -> q, k, f (B, T, H, K), v (B, T, H, V) -> (B, T, D) with f = sigmoid(W_f x + b_f) per
    channel, b_f starting at 8, where almost nothing decays. A score decays towards 0, and not to -inf as in
    `fox`; no position is needed besides. The cache holds P_t = sum_{i <= t} log f_i besides keys and values.
    Scores are written out, chunk by chunk of queries: memory grows with T * T. Differs from the paper, which
    is that of `fox`: a gate per channel instead of one per head, by Tilde Research
    (fla-org/flash-linear-attention, layers/wall_attn.py).

    Hypothesis: as attention with RoPE at the trained length, and better at longer ones.
    """

    forward = forward_anew
    shift_free = False

    def __init__(
        self, config: KeyValueMemory.Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1
    ) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.forget = nn.Linear(dim, self.heads * self.key_dim)
        nn.init.constant_(self.forget.bias, 8.0)

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return (*super().state_kinds, "growing")

    def init_state(self, batch: int, length: int | None = None) -> State:
        """Keys, values, the number of tokens, the tails, and P (B, t, H, K), in at least float32."""
        like = self.query.weight
        high = torch.promote_types(like.dtype, torch.float32)
        sums = like.new_zeros(batch, 0, self.heads, self.key_dim, dtype=high)
        return *super().init_state(batch, length), sums

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        keys, values, count, *tails, sums = state
        q, k, v, tails = self.project(x, None, tails, ctx)
        k, v = torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        log_forget = F.logsigmoid(self.forget(x).to(sums.dtype)).unflatten(-1, (self.heads, -1))
        before = sums[:, -1:].sum(1, keepdim=True)  # zeros before the first token
        sums = torch.cat([sums, before + log_forget.cumsum(1)], dim=1)
        o = wall_attend(q, self.spread(k), self.spread(v), sums, scale=self.scale)
        return self.read(o.to(v.dtype), x), (k, v, count + x.shape[1], *tails, sums)

    def flops(self, length: int) -> int:
        return super().flops(length) + 2 * length * self.heads * self.key_dim

    def executed_flops(self, length: int) -> int:
        return self.products(length) + self._chunks(length)[0] + self.uncounted_flops(length)

    def uncounted_flops(self, length: int) -> int:
        return self.elementwise(length) + self._chunks(length)[1]

    def axes(self) -> Axes:
        """Keys that are 0 in a channel need no decay there."""
        return super().axes().also({"forget.weight": "GRK D", "forget.bias": "GRK"})

    def _chunks(self, length: int) -> tuple[int, int]:
        """FLOPs of `wall_attend` on T tokens without a past: of its products, and of its decays."""
        size = min(CHUNK, length)
        chunks = -(-length // size)
        before, own = chunks * (chunks - 1) // 2 * size**2, chunks * size**2
        products = 2 * before * self.key_dim + 2 * (before + own) * self.value_dim
        decays = self.key_dim * (3 * own + before // size + 2 * chunks * size)
        return self.heads * products, self.heads * decays


def wall_attend(q: Tensor, k: Tensor, v: Tensor, sums: Tensor, *, scale: float, chunk: int = CHUNK) -> Tensor:
    """The last T of S positions: q (B, T, H, K), k, sums (B, S, H, K), v (B, S, H, V) -> (B, T, H, V).

    `sums` fall with time. A chunk of queries meets all earlier keys at its first token: queries lose what was
    forgotten since, keys what was forgotten before, and no factor is above 1. Within a chunk every pair has a
    factor of its own for each channel. The result is at least float32.
    """
    with full_precision(q):
        high, length, past = sums.dtype, q.shape[1], k.shape[1] - q.shape[1]
        size = length if q.is_meta else min(chunk, length)  # without numbers there is no work to spare

        def cut(z: Tensor) -> Tensor:
            """(B, T, H, .) -> (B, H, T/C, C, .); padding repeats the last row, and nobody looks at it."""
            z = torch.cat([z, z[:, -1:].expand(-1, -length % size, -1, -1)], dim=1)
            return z.to(high).transpose(1, 2).unflatten(2, (-1, size))

        q, own_keys, at = cut(q * scale), cut(k[:, past:]), cut(sums[:, past:])
        start = at[:, :, :, :1]  # (B, H, T/C, 1, K)
        future = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
        decay = (at[:, :, :, :, None] - at[:, :, :, None]).masked_fill(future[..., None], float("-inf")).exp()
        own = (q[:, :, :, :, None] * decay * own_keys[:, :, :, None]).sum(-1)
        own = own.masked_fill(future, float("-inf"))
        asked = q * (at - start).exp()
        v = F.pad(v.to(high).transpose(1, 2), (0, 0, 0, -length % size))
        keys = k[:, :past].to(high).transpose(1, 2)
        keys = keys * (start[:, :, 0] - sums[:, :past].transpose(1, 2)).exp()
        rows = []
        for n in range(own.shape[2]):
            scores = torch.cat([asked[:, :, n] @ keys.mT, own[:, :, n]], dim=-1)
            rows.append(scores.softmax(-1) @ v[:, :, : past + (n + 1) * size])
            if n + 1 < own.shape[2]:
                later = start[:, :, n + 1]
                new = own_keys[:, :, n] * (later - at[:, :, n]).exp()
                keys = torch.cat([keys * (later - start[:, :, n]).exp(), new], dim=-2)
        return torch.cat(rows, dim=-2)[:, :, :length].transpose(1, 2)
