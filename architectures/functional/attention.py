"""Softmax attention that folds replicas into the batch.

PyTorch's fused attention has no fast batching rule: under `vmap` it runs one replica at a time. The function
here carries its own rule, so that R replicas of batch B run as one call of batch R * B.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.functional.fold import fold, unfold
from architectures.functional.precision import full_precision

aten = torch.ops.aten


def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None = None) -> Tensor:
    """Causal softmax attention: (B, T, H, K), (B, T, H, K), (B, T, H, V) -> (B, T, H, V).

    Position i sees the positions j with 0 <= i - j < `window` (all j <= i without one). Memory on a CPU is
    linear in T; elsewhere the scores are written out, all of them or those of a window's blocks.
    """
    if scale <= 0:
        raise ValueError(
            f"scale={scale} must be positive"
        )  # the kernel multiplies what is hidden, -inf, by it
    width, value_width = q.shape[-1], v.shape[-1]
    # The fused kernel wants equal widths; zeros change neither the scores nor the values.
    if width < value_width:
        q, k = F.pad(q, (0, value_width - width)), F.pad(k, (0, value_width - width))
    elif value_width < width:
        v = F.pad(v, (0, width - value_width))
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    batch, length = q.shape[:2]
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


def attend_past(q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None = None) -> Tensor:
    """`attend` for the last T of S positions, written out: q (B, T, H, K), k (B, S, H, K), v (B, S, H, V)."""
    length, total = q.shape[1], k.shape[1]
    ahead = torch.arange(total - length, total, device=q.device)[:, None] - torch.arange(
        total, device=q.device
    )
    blind = ahead < 0
    if window is not None:
        blind = blind | (ahead >= window)
    scores = torch.einsum("bthk,bshk->bhts", q, k) * scale
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    weights = scores.masked_fill(blind, float("-inf")).softmax(-1).to(v.dtype)
    return torch.einsum("bhts,bshv->bthv", weights, v)


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
    at = torch.arange(keys, device=q.device)
    ahead = at[keys - length :, None] - at
    blind = (ahead < 0) | (ahead >= window)
    if blocks > 1:
        first = torch.arange(batch, device=q.device) % blocks == 0
        blind = blind | (first[:, None, None, None] & (at < keys - length))
    return torch.zeros(blind.shape, dtype=q.dtype, device=q.device).masked_fill(blind, float("-inf"))


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, blocks: int
    ) -> tuple[Tensor, Tensor]:
        forward = _forward_fused if q.device.type == "cpu" else _forward_written_out
        mask = _window_mask(q, k, window, blocks)
        qh, kh, vh = (z.transpose(1, 2) for z in (q, k, v))  # (B, H, T, K)
        out, logsumexp = forward(qh, kh, vh, scale, mask)
        return out.transpose(1, 2), logsumexp

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, ctx.scale, ctx.window, ctx.blocks = inputs
        out, logsumexp = output
        ctx.mark_non_differentiable(logsumexp)
        ctx.save_for_backward(q, k, v, out, logsumexp)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, logsumexp = ctx.saved_tensors
        mask = _window_mask(q, k, ctx.window, ctx.blocks)
        g, qh, kh, vh, oh = (z.transpose(1, 2) for z in (grad, q, k, v, out))
        backward = _backward_fused if q.device.type == "cpu" else _backward_written_out
        grads = backward(g, qh, kh, vh, oh, logsumexp, ctx.scale, mask)
        return (*(z.transpose(1, 2) for z in grads), None, None, None)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        window: int | None,
        blocks: int,
    ) -> tuple[Any, Any]:
        size = info.batch_size
        folded = [fold(z, dim, size) for z, dim in zip((q, k, v), in_dims[:3], strict=True)]
        out, logsumexp = _Attend.apply(*folded, scale, window, blocks)
        return (unfold(out, size), unfold(logsumexp, size)), (0, 0)


def _forward_fused(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    return aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, mask is None, attn_mask=mask, scale=scale
    )


def _backward_fused(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, q, k, v, out, logsumexp, 0.0, mask is None, attn_mask=mask, scale=scale
    )


def _forward_written_out(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(B, H, T, .) -> the output and the logarithm of the softmax's denominator (B, H, T)."""
    with full_precision(q):
        scores = _scores(q, k, scale, mask)
        logsumexp = scores.logsumexp(-1)
        return torch.exp(scores - logsumexp[..., None]).to(v.dtype) @ v, logsumexp


def _backward_written_out(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, from the weights computed once more."""
    with full_precision(q):
        p = torch.exp(_scores(q, k, scale, mask) - logsumexp[..., None])
        high = p.dtype
        g = grad.to(high)
        inner = (g * out.to(high)).sum(-1, keepdim=True)
        ds = p * (g @ v.to(high).mT - inner) * scale
        return (ds @ k.to(high)).to(q.dtype), (ds.mT @ q.to(high)).to(k.dtype), (p.mT @ g).to(v.dtype)


def _scores(q: Tensor, k: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """(B, H, T, T) masked scores, at least in float32."""
    high = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(high) @ k.to(high).mT) * scale
    if mask is None:
        length = q.shape[-2]
        future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        return scores.masked_fill(future, float("-inf"))
    return scores + mask.to(high)
