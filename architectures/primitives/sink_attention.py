"""Attention with a sink: each head may give a part of its attention to nothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.key_values import KeyValueMemory, RotaryOptions
from architectures.functional.attention import attend, attend_past, hidden
from architectures.primitive import Context, option
from architectures.registry import primitive, variant

# The score of a key that is not there: its weight is 0, and it is finite in every dtype.
NOBODY = -1e4


@primitive("sink-attention", mixes="time", version=1, paper="arXiv:2508.10925", known_as="gpt-oss")
class SinkAttention(KeyValueMemory):
    """o_t = sum_{s <= t} exp(q_t . k_s / sqrt(K)) v_s / (exp(b) + sum_{s <= t} exp(q_t . k_s / sqrt(K))).

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). The sink is one more score b, learned per
    head and 0 at the start, whose value is 0; so the weights of the tokens sum to less than 1. It is a key
    before all others, in a channel of its own, so that the same kernel computes it. With a `window`, position
    t sees itself and the window - 1 positions before it, and the sink always. Differs from the paper: no
    biases; b starts at 0.

    Hypothesis: recalls as attention does, and better among noise, where a head may look at nothing; with a
    window the sink matters more than without.
    """

    biased = 1

    shift_free = False

    class Config(RotaryOptions, KeyValueMemory.Config):
        window: int | None = option(
            None, "visible positions, itself included; none: all earlier ones", sizes="state", least=1
        )

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.window = config.window
        self.sink = nn.Parameter(torch.zeros(self.heads))

    def meet(self, q: Tensor, k: Tensor, v: Tensor, *, past: bool, ctx: Context | None) -> Tensor:
        # A channel in which every query is 1 / scale, so that what a key has there is added to its scores.
        q, k = F.pad(q, (0, 1), value=1 / self.scale), F.pad(k, (0, 1))
        if past:
            mask = seen(q.shape[1], k.shape[1], self.window, q)
            return attend_past(q, *self._after_sink(k, v), scale=self.scale, mask=mask)
        if self.window is None:
            # A query before all others meets the sink, and nobody reads what it finds.
            q = F.pad(q, (0, 0, 0, 0, 1, 0))
            return attend(q, *self._after_sink(k, v), scale=self.scale)[:, 1:]
        return self._in_blocks(q, k, v, self.window)

    def executed_flops(self, length: int) -> int:
        window = self.window
        pairs = (length + 1) ** 2 if window is None else -(-length // window) * window * (2 * window + 1)
        width = max(self.key_dim + self.biased, self.value_dim)
        return self.products(length) + 4 * pairs * self.heads * width + self.elementwise(length)

    def axes(self) -> Axes:
        return super().axes().also({"sink": "GR"})

    def _in_blocks(self, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        """Blocks of queries as long as the window see themselves, the block before, and the sink."""
        length = q.shape[1]
        q, k, v = (F.pad(z, (0, 0, 0, 0, 0, -length % window)).unflatten(1, (-1, window)) for z in (q, k, v))
        none = F.pad(torch.zeros_like(k[:, :1, ..., :-1]), (0, 1), value=NOBODY)
        k = torch.cat([torch.cat([none, k[:, :-1]], dim=1), k], dim=2)
        v = torch.cat([torch.cat([torch.zeros_like(v[:, :1]), v[:, :-1]], dim=1), v], dim=2)
        q, k, v = (z.flatten(0, 1) for z in (q, k, v))
        mask = seen(window, 2 * window, window, q)
        o = attend(q, *self._after_sink(k, v), scale=self.scale, mask=mask)
        return o.unflatten(0, (-1, -(-length // window))).flatten(1, 2)[:, :length]

    def _after_sink(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values with the sink's before them."""
        sink = F.pad(self.sink.to(k.dtype)[:, None], (self.key_dim, 0)).expand(k.shape[0], 1, -1, -1)
        return torch.cat([sink, k], dim=1), F.pad(v, (0, 0, 0, 0, 1, 0))


def seen(length: int, total: int, window: int | None, like: Tensor) -> Tensor:
    """(1, 1, T, 1 + S): 0 where one of the last T of S positions sees the sink or a key, -inf elsewhere."""
    blind = F.pad(hidden(length, total, window, like.device), (1, 0))
    return torch.zeros_like(blind, dtype=like.dtype).masked_fill(blind, float("-inf"))[None, None]


SUM = "sum_s exp(q_t . k_s / sqrt(K))"
WINDOW = f"o_t = {SUM} v_s / (exp(b) + {SUM}) over t - window < s <= t"

variant("sliding-sink-attention", of="sink-attention", equation=WINDOW, window=32, known_as="gpt-oss")
