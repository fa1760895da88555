"""The Forgetting Transformer's attention: scores fall by what each head forgot since the key."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.key_values import KeyValueMemory
from architectures.functional.attention import attend, attend_past
from architectures.functional.precision import full_precision
from architectures.functional.rotary import rotated_width
from architectures.primitive import Context, State, option
from architectures.registry import primitive


@primitive("fox", mixes="time", version=1, paper="arXiv:2503.02130", known_as="Forgetting Transformer")
class Fox(KeyValueMemory):
    """o_t = sum_{s <= t} softmax_s(q_t . k_s / sqrt(K) + F_t - F_s) v_s with F_t = sum_{r <= t} log f_r.

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). Each head forgets by its own factor f_t =
    sigmoid(W_f x_t + b_f), and no position is needed besides. Differs from the paper: of its "Pro" layer,
    normalised queries and keys and the output gate are options, off by default; its mixing of keys and values
    with those of the token before is left to `conv`.
    """

    class Config(KeyValueMemory.Config):
        rope: bool = option(False, "rotate queries and keys by their position")

    biased = 1

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        if config.rope:
            self.rotated = self.rotary_width = rotated_width(self.key_dim, 1)
        self.forget = nn.Linear(dim, self.heads)

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return (*super().state_kinds, "growing")

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        positions = torch.arange(x.shape[1], device=x.device)
        q, k, v, _ = self.project(x, positions, self.init_tails(x.shape[0]), ctx)
        q, k = self._biased(q, self.spread(k), self._log_forget(x).cumsum(1))
        return self.read(attend(q, k, self.spread(v), scale=self.scale).to(v.dtype), x)

    def init_state(self, batch: int, length: int | None = None) -> State:
        """Keys, values, the number of tokens, the tails, and F (B, t, H), in at least float32."""
        like = self.query.weight
        high = torch.promote_types(like.dtype, torch.float32)
        return *super().init_state(batch, length), like.new_zeros(batch, 0, self.heads, dtype=high)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        keys, values, count, *tails, sums = state
        q, k, v, tails = self.project(x, count + torch.arange(x.shape[1], device=x.device), tails, ctx)
        k, v = torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        before = sums[:, -1:].sum(1, keepdim=True)  # zeros before the first token
        sums = torch.cat([sums, before + self._log_forget(x).cumsum(1)], dim=1)
        q, biased = self._biased(q, self.spread(k), sums)
        with full_precision(x):  # F has more digits than bfloat16 holds
            o = attend_past(q, biased, self.spread(v).to(q.dtype), scale=self.scale)
        return self.read(o.to(v.dtype), x), (k, v, count + x.shape[1], *tails, sums)

    def axes(self) -> Axes:
        return super().axes().also({"forget.weight": "GR D", "forget.bias": "GR"})

    def _log_forget(self, x: Tensor) -> Tensor:
        """log f (B, T, H), in at least float32."""
        return F.logsigmoid(self.forget(x).to(torch.promote_types(x.dtype, torch.float32)))

    def _biased(self, q: Tensor, k: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """q and k with one more channel, whose product adds -F_s to the score of key s.

        F_t is the same for all keys of a query and leaves their softmax as it is.
        """
        bias = (-sums / self.scale)[..., None]
        one = torch.ones_like(bias[:, :1]).expand(-1, q.shape[1], -1, -1)
        return torch.cat([q.to(bias.dtype), one], dim=-1), torch.cat([k.to(bias.dtype), bias], dim=-1)
