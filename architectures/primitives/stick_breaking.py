"""Stick-breaking attention: from the newest key back, each breaks its part off what later ones left."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from architectures.families.key_values import KeyValueMemory
from architectures.functional.scores import by_rows, pairs_by_rows, products
from architectures.primitive import Context
from architectures.registry import primitive


@primitive("stick-breaking", mixes="time", version=1, paper="arXiv:2410.17980")
class StickBreaking(KeyValueMemory):
    """o_t = sum_{s < t} A_ts v_s + (1 - sum_{s < t} A_ts) v_t, A_ts = f(z_ts) prod_{s < i < t} (1 - f(z_ti)).

    f is the logistic function, z_ts = q_t . k_s / sqrt(K). x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V)
    -> (B, T, D). A key is met only with what the keys between it and the query left, which makes attention
    recent without positions: nothing is rotated. What all keys leave goes to the token itself. Scores and
    weights are written out: memory grows with T * T. Differs from the paper: of its language models, which
    give the rest to a learned vector per head and normalise what the heads found, neither.

    Hypothesis: the latest of several equal keys wins, so it recalls keys that were overwritten, and holds
    beyond the trained length.
    """

    shift_free = False

    def meet(self, q: Tensor, k: Tensor, v: Tensor, *, past: bool, ctx: Context | None) -> Tensor:
        return by_rows(break_stick, q * self.scale, k, v)

    def executed_flops(self, length: int) -> int:
        work = 2 * pairs_by_rows(length) * self.heads * (self.key_dim + self.value_dim)
        return self.products(length) + work + self.elementwise(length)


def break_stick(q: Tensor, k: Tensor, v: Tensor, blind: Tensor) -> Tensor:
    """Stick-breaking attention of a block, see `by_rows`."""
    # From the newest key back, as the sums run; the token itself is hidden, too.
    scores = products(q, k.flip(2))
    blind = F.pad(blind[:, 1:], (0, 1), value=True).flip(1)
    left = F.logsigmoid(-scores).masked_fill(blind, 0).cumsum(-1)  # log f(z) = z + log(1 - f(z))
    weights = (scores + left).masked_fill(blind, float("-inf")).exp()
    own, rest = v[:, :, v.shape[2] - q.shape[2] :], left[..., -1:].exp()
    return weights.to(v.dtype) @ v.flip(2) + rest.to(v.dtype) * own
