"""Softmax attention that folds replicas into the batch.

PyTorch's fused attention has no fast batching rule: under `vmap` it runs one replica at a time. The function
here carries its own rule, so that R replicas of batch B run as one call of batch R * B.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.functional.fold import Folded, fold, unfold
from architectures.functional.precision import full_precision

aten = torch.ops.aten


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    window: int | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Causal softmax attention: (B, T, H, K), (B, T, H, K), (B, T, H, V) -> (B, T, H, V).

    Position i sees the positions j with 0 <= i - j < `window` (all j <= i without one). Memory on a CPU is
    linear in T; elsewhere the scores are written out, all of them or those of a window's blocks.

    `mask`, (B or 1, H or 1, T, S), is added to the scaled scores and says alone who sees whom: -inf hides a
    key, of each position one at least is visible, and k and v may have S entries. It is a constant: no
    gradient goes to it.
    """
    if scale <= 0:
        # The kernel multiplies what is hidden, -inf, by it.
        raise ValueError(f"scale={scale} must be positive")
    if mask is not None and window is not None:
        raise ValueError(
            f"window={window} beside a mask, which says alone who sees whom; put it into the mask"
        )
    width, value_width = q.shape[-1], v.shape[-1]
    # The fused kernel wants equal widths; zeros change neither the scores nor the values.
    if width < value_width:
        q, k = F.pad(q, (0, value_width - width)), F.pad(k, (0, value_width - width))
    elif value_width < width:
        v = F.pad(v, (0, width - value_width))
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    batch, length = q.shape[:2]
    if mask is not None:
        out, _ = _AttendMasked.apply(q, k, v, mask.detach().to(dtype), scale)
        return out[..., :value_width]
    if window is None or not in_blocks(length, window):
        out, _ = _Attend.apply(q, k, v, scale, window, 1)
        return out[..., :value_width]
    blocks = -(-length // window)
    q, k, v = (F.pad(z, (0, 0, 0, 0, 0, -length % window)).unflatten(1, (blocks, window)) for z in (q, k, v))
    k, v = (torch.cat([F.pad(z, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1], z], dim=2) for z in (k, v))
    out, _ = _Attend.apply(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), scale, window, blocks)
    return out.unflatten(0, (batch, blocks)).flatten(1, 2)[:, :length, :, :value_width]


def in_blocks(length: int, window: int) -> bool:
    """Whether a window is cut into blocks that see themselves and the one before: memory linear in time."""
    return length > 2 * window


def executed_pairs(length: int, window: int | None = None) -> int:
    """The pairs that `attend` multiplies out, visible or not."""
    if window is None or not in_blocks(length, window):
        return length**2
    return -(-length // window) * window * 2 * window


def attend_past(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    window: int | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """`attend` for the last T of S positions, written out: q (B, T, H, K), k (B, S, H, K), v (B, S, H, V).

    Here a `mask` has a gradient.
    """
    scores = torch.einsum("bthk,bshk->bhts", q, k) * scale
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is None:
        scores = scores.masked_fill(hidden(q.shape[1], k.shape[1], window, q.device), float("-inf"))
    else:
        scores = scores + mask.to(scores.dtype)
    return torch.einsum("bhts,bshv->bthv", scores.softmax(-1).to(v.dtype), v)


def hidden(length: int, total: int, window: int | None = None, device: Any = None) -> Tensor:
    """(T, S): True where one of the last T of S positions does not see a key, a later one or one before its
    window."""
    at = torch.arange(total, device=device)
    ahead = at[total - length :, None] - at
    blind = ahead < 0
    return blind if window is None else blind | (ahead >= window)


def attend_all(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """Softmax attention in which every position sees every other, written out: memory grows with T * T."""
    scores = torch.einsum("bthk,bshk->bhts", q, k) * scale
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return torch.einsum("bhts,bshv->bthv", scores.softmax(-1).to(v.dtype), v)


def visible_pairs(length: int, window: int | None = None) -> int:
    """The number of (query, key) pairs that causal attention over `length` positions sees."""
    w = min(length, window) if window else length
    return w * (w + 1) // 2 + (length - w) * w


def _window_mask(q: Tensor, k: Tensor, window: int | None, blocks: int) -> Tensor | None:
    """(T, S), or (B, 1, T, S) for blocks, with 0 where a key is visible and -inf elsewhere; none: causal.

    The last query and the last key are at the same position. Of `blocks` neighbours in the batch the first
    one has nothing before it: the first half of its keys is padding.
    """
    if window is None:
        return None
    batch, length, keys = q.shape[0], q.shape[1], k.shape[1]
    blind = hidden(length, keys, window, q.device)
    if blocks > 1:
        first = torch.arange(batch, device=q.device) % blocks == 0
        padding = torch.arange(keys, device=q.device) < keys - length
        blind = blind | (first[:, None, None, None] & padding)
    return torch.zeros(blind.shape, dtype=q.dtype, device=q.device).masked_fill(blind, float("-inf"))


def fused(x: Tensor) -> bool:
    """Whether PyTorch's fused kernel runs here."""
    return x.device.type == "cpu"


class _Attend(Folded):
    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, blocks: int
    ) -> tuple[Tensor, Tensor]:
        return _answer(q, k, v, scale, _window_mask(q, k, window, blocks))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.scale, ctx.window, ctx.blocks = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, *rest = ctx.saved_tensors
        mask = _window_mask(q, k, ctx.window, ctx.blocks)
        return (*_gradients(ctx.scale, mask, grad, q, k, *rest), None, None, None)


class _AttendMasked(torch.autograd.Function):
    """`_Attend` with a mask (B or 1, H or 1, T, S)."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return _answer(q, k, v, scale, mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, mask, ctx.scale = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(q, k, v, *output, mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, mask = ctx.saved_tensors
        return (*_gradients(ctx.scale, mask, grad, *tensors), None, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        size, (*tensors, mask, scale) = info.batch_size, inputs
        folded = [fold(z, dim, size) for z, dim in zip(tensors, in_dims, strict=False)]
        dim = in_dims[3]
        if dim is not None or mask.shape[0] > 1:
            mask = mask.expand(size, *mask.shape) if dim is None else mask.movedim(dim, 0)
            rows = folded[0].shape[0] // size
            mask = mask.expand(size, rows, *mask.shape[2:]).flatten(0, 1)
        out, logsumexp = _AttendMasked.apply(*folded, mask, scale)
        return (unfold(out, size), unfold(logsumexp, size)), (0, 0)


def _answer(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """What is read (B, T, H, V), and the log-sum-exp of the scores; without a mask causal."""
    q, k, v = (z.transpose(1, 2) for z in (q, k, v))  # (B, H, T, K)
    if fused(q):
        out, logsumexp = aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, mask is None, attn_mask=mask, scale=scale
        )
        return out.transpose(1, 2), logsumexp
    with full_precision(q):
        scores = _scores(q, k, scale, mask)
        logsumexp = scores.logsumexp(-1)
        out = torch.exp(scores - logsumexp[..., None]).to(v.dtype) @ v
    return out.transpose(1, 2), logsumexp


def _gradients(
    scale: float,
    mask: Tensor | None,
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
) -> list[Tensor]:
    """Of q, k and v."""
    g, q, k, v, out = (z.transpose(1, 2) for z in (grad, q, k, v, out))
    if fused(q):
        grads = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            g, q, k, v, out, logsumexp, 0.0, mask is None, attn_mask=mask, scale=scale
        )
    else:
        grads = _backward_written_out(g, q, k, v, out, logsumexp, scale, mask)
    return [z.transpose(1, 2) for z in grads]


def _backward_written_out(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, logsumexp: Tensor, *rule: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, from the weights computed once more; `rule`: scale and mask."""
    with full_precision(q):
        p = torch.exp(_scores(q, k, *rule) - logsumexp[..., None])
        g = grad.to(p.dtype)
        inner = (g * out.to(p.dtype)).sum(-1, keepdim=True)
        ds = p * (g @ v.to(p.dtype).mT - inner) * rule[0]
        return (ds @ k.to(p.dtype)).to(q.dtype), (ds.mT @ q.to(p.dtype)).to(k.dtype), (p.mT @ g).to(v.dtype)


def _scores(q: Tensor, k: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """(B, H, T, T) masked scores, at least in float32."""
    high = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(high) @ k.to(high).mT) * scale
    if mask is not None:
        return scores + mask.to(high)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(future, float("-inf"))
