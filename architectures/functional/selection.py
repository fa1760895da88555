"""What sparse attention chooses: the best of many keys, and the small scores by which they are judged."""

from __future__ import annotations

import torch
from torch import Tensor


def largest(scores: Tensor, count: int) -> Tensor:
    """True at the `count` largest of scores (..., S); of equal ones the last are taken.

    Keys stand in the order of time: of equal ones the most recent win, whatever stands behind them.
    """
    if count >= scores.shape[-1]:
        return torch.ones_like(scores, dtype=torch.bool)
    least = scores.topk(count, dim=-1).values[..., -1:]
    above, equal = scores > least, scores == least
    behind = equal.flip(-1).cumsum(-1, dtype=torch.int32).flip(-1)
    return above | (equal & (behind <= count - above.sum(-1, keepdim=True)))


def additive(chosen: Tensor, like: Tensor) -> Tensor:
    """The mask of `attend`: 0 where chosen, -inf elsewhere."""
    zero = torch.zeros((), dtype=like.dtype, device=like.device)
    return torch.where(chosen, zero, float("-inf"))


def block_means(z: Tensor, block: int) -> Tensor:
    """(B, S, H, K) -> (B, S // block, H, K): the mean of every whole block."""
    count = z.shape[1] // block
    return z[:, : count * block].unflatten(1, (count, block)).mean(2)


def index_scores(q: Tensor, k: Tensor, w: Tensor) -> Tensor:
    """sum_j w_tj relu(q_tj . k_s): q (B, T, J, C), k (B, S, C), w (B, T, J) -> (B, T, S)."""
    met = torch.einsum("btjc,bsc->btjs", q, k).relu()
    return (met * w[..., None]).sum(2)


def index_flops(pairs: int, heads: int, width: int) -> tuple[int, int]:
    """FLOPs of `index_scores` for pairs of a query and a key: matrix products, and what is not one."""
    return 2 * pairs * heads * width, 2 * pairs * heads


def divergence(target: Tensor, scores: Tensor, visible: Tensor) -> Tensor:
    """Mean of KL(target || softmax(scores)) over the rows that see something, all (B, T, S).

    `target` has no gradient and sum 1 over what is visible, or 0 where nothing is.
    """
    some = visible.any(-1, keepdim=True)
    logits = torch.where(visible | ~some, scores, float("-inf")).log_softmax(-1)
    logits = torch.where(visible, logits, torch.zeros_like(logits))
    total = (torch.special.xlogy(target, target) - target * logits).sum()
    return total / some.expand(*target.shape[:-1], 1).sum().clamp(min=1)
