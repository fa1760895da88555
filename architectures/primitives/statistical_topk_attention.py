"""Spark's attention: to about k keys, found from the mean and the deviation of cheap scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.axes import Axes
from architectures.families.key_values import KeyValueMemory
from architectures.functional.attention import hidden, visible_pairs
from architectures.functional.precision import full_precision
from architectures.functional.rotary import rotate
from architectures.primitive import Context, choose, option
from architectures.registry import primitive

# Queries whose scores are written out at once; the keys after the last of them are left out.
CHUNK = 64
# Of the mean score: how far below the threshold a score still passes.
SLACK = 1e-6


@primitive(
    "statistical-topk-attention",
    mixes="time",
    paper="arXiv:2506.06644",
    known_as="Spark Transformer (attention)",
)
class StatisticalTopKAttention(KeyValueMemory):
    """o_t = sum_{s in S_t} softmax_s(q1_t . k1_s) softplus(q2_t . k2_s) v_s, S_t about the best keys.

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D); q1 are the first r channels of q, q2 the
    rest. Of the n keys that t sees, S_t has those whose q1 . k1 is above mean + std quantile(1 - keep / n)
    over all n, all where n <= keep, and t itself always. The first r channels of every key are read, and the
    rest only of the chosen keys and values; the cache holds everything. A shift by the threshold, which the
    softmax undoes, is left out, and with it the threshold has no gradient. Both products are divided by the
    root of their width, and each part is rotated by itself. Differs from the paper: what scales the products
    and how their parts are rotated, which its summaries do not say; keep is 16 of rows of 128, there 256; the
    statistics are those of the keys that a token sees. Memory grows with the square of time.

    Hypothesis: as good as `mh-attention` where the answer lies with few keys, as in recall, and worse where
    many have to be summed, as in compression.
    """

    # It moves the second product of all keys alike, which no softmax evens out.
    shift_free = False

    class Config(KeyValueMemory.Config):
        keep: int = option(16, "keys that a token attends to, if its scores are normal", least=1)
        rank: int | None = option(
            None, "r, key channels that choose; none: half, in whole pairs with rope", per="head", least=1
        )
        rope: bool = option(True, "rotate queries and keys by their position, both parts by themselves")

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        pair = 2 if config.rope else 1
        self.rank = config.rank or max(pair, self.key_dim // 2 // pair * pair)
        if self.rank >= self.key_dim:
            raise ValueError(
                f"rank={self.rank} does not part the {self.key_dim} channels of a key; choose less, or a "
                f"key_dim above {self.rank}"
            )
        if self.rank % pair or self.key_dim % pair:
            raise ValueError(
                f"rank={self.rank} parts a key of {self.key_dim} channels into odd numbers of them, and RoPE "
                "rotates pairs; choose an even rank and an even key_dim, or rope=false"
            )

    def project(
        self, x: Tensor, positions: Tensor | None, tails: Sequence[Tensor], ctx: Context | None
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        q, k, v, after = super().project(x, None, tails, ctx)
        if positions is not None and self.config.rope:
            q, k = (torch.cat([rotate(z, positions) for z in self._parts(u)], dim=-1) for u in (q, k))
        return q, k, v, after

    def meet(self, q: Tensor, k: Tensor, v: Tensor, *, past: bool, ctx: Context | None) -> Tensor:
        start = k.shape[1] - q.shape[1]
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))  # (B, H, T, K)
        found, rows = [], q.shape[2] if q.is_meta else CHUNK  # without numbers there is no work to spare
        for at in range(0, q.shape[2], rows):
            end = min(at + rows, q.shape[2])
            found.append(self._find(q[:, :, at:end], k[:, :, : start + end], v[:, :, : start + end], ctx))
        return torch.cat(found, dim=2).transpose(1, 2)

    def flops(self, length: int) -> int:
        pairs = visible_pairs(length) * self.heads
        kept = visible_pairs(length, self.config.keep) * self.heads  # pairs of a window as wide
        rest = 2 * (self.key_dim - self.rank + self.value_dim) + 1
        return self.products(length) + 2 * pairs * self.rank + kept * rest + self.elementwise(length)

    def executed_flops(self, length: int) -> int:
        each = 2 * (self.key_dim + self.value_dim) * self._pairs(length)
        return self.products(length) + each + self.uncounted_flops(length)

    def uncounted_flops(self, length: int) -> int:
        return self._pairs(length) + self.elementwise(length)

    def axes(self) -> Axes:
        """The key width stays: a wider one would part its channels elsewhere."""
        said = super().axes()
        return Axes(
            sizes={letter.replace("K", "P"): size for letter, size in said.sizes.items()},
            tensors={name: axes.replace("K", "P") for name, axes in said.tensors.items()},
            zero={letter: names for letter, names in said.zero.items() if letter != "K"},
            options={"heads": "GR", "kv_heads": "G", "key_dim": "P", "value_dim": "V"},
        )

    def _find(self, q: Tensor, k: Tensor, v: Tensor, ctx: Context | None) -> Tensor:
        """`meet` for the last T of S positions, all with the heads first."""
        (q1, q2), (k1, k2) = self._parts(q), self._parts(k)
        high = torch.promote_types(q.dtype, torch.float32)
        with full_precision(q):
            scores = (q1.to(high) * self.rank**-0.5) @ k1.to(high).mT
        left = choose(self._left_out(scores.detach()), ctx)
        weights = scores.masked_fill(left, float("-inf")).softmax(-1)
        # softplus(z) = -logsigmoid(-z); the signs are cheaper on the queries and the values.
        factors = F.logsigmoid(((q2 * -((self.key_dim - self.rank) ** -0.5)) @ k2.mT).to(high))
        return (weights * factors).to(v.dtype) @ -v

    def _left_out(self, scores: Tensor) -> Tensor:
        """True for the keys (B, H, T, S) that a query does not attend to, later ones among them."""
        length, total = scores.shape[-2:]
        blind = hidden(length, total, device=scores.device)
        seen = torch.arange(total - length + 1, total + 1, device=scores.device, dtype=scores.dtype)[:, None]
        mean = scores.masked_fill(blind, 0).sum(-1, keepdim=True) / seen
        apart = (scores - mean).masked_fill_(blind, 0)
        deviation = torch.linalg.vector_norm(apart, dim=-1, keepdim=True) / seen.sqrt()
        # -inf where all are kept; 0 times it would be no number.
        quantile = torch.special.ndtri(1 - (self.config.keep / seen).clamp(max=1)).clamp(min=-1e30)
        # Equal scores are all kept, whatever their mean was rounded to.
        left = apart.masked_fill_(blind, float("-inf")) < quantile * deviation - SLACK * mean.abs()
        left.diagonal(total - length, -2, -1).fill_(False)
        return left

    def _parts(self, z: Tensor) -> list[Tensor]:
        return list(z.split([self.rank, self.key_dim - self.rank], dim=-1))

    def _pairs(self, length: int) -> int:
        """Pairs of positions that are multiplied out, of all heads."""
        ends = [min(at + CHUNK, length) for at in range(0, length, CHUNK)]
        return self.heads * sum(
            (end - at) * end for at, end in zip(range(0, length, CHUNK), ends, strict=True)
        )
