"""Reading a matrix state by its columns where its rows decay, each with a rate of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from architectures.functional.delta import VECTOR_CHUNK, in_chunks, in_time
from architectures.functional.precision import full_precision


def match(q: Tensor, k: Tensor, rate: Tensor, log_a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """P_t q_t of every token, with P_t = diag(a_t) P_{t-1} + rate_t k_t^T, and the last P.

    q, k (B, T, H, K), rate, log_a (B, T, H, M), s (B, H, M, K) -> (B, T, H, M), (B, H, M, K). The decay is on
    the axis that is not summed over: the pairs of a chunk need none, and it multiplies what comes out.
    """
    length, size = q.shape[1], min(VECTOR_CHUNK, q.shape[1])

    with full_precision(q):
        q, k, rate, total = (in_chunks(z, size) for z in (q, k, rate, log_a))
        total = total.cumsum(-2)
        inner = (q @ k.mT).tril() @ (rate * (-total).exp())
        written = (rate * (total[..., -1:, :] - total).exp()).mT @ k  # (B, H, T/C, M, K)
        kept = total[..., -1, :, None].exp()
        entering = []
        for n, new in enumerate(written.unbind(2)):
            entering.append(s)
            s = kept.select(2, n) * s + new
        logits = total.exp() * (inner + q @ torch.stack(entering, dim=2).mT)
        return in_time(logits, length), s
