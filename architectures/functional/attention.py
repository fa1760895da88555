"""Softmax attention that folds replicas into the batch.

PyTorch's fused attention has no fast batching rule: under `vmap` it runs one replica at a time. The function
here carries its own rule, so that R replicas of batch B run as one call of batch R * B.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.functional.fold import fold, unfold

aten = torch.ops.aten


def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None = None) -> Tensor:
    """Causal softmax attention: (B, T, H, K), (B, T, H, K), (B, T, H, V) -> (B, T, H, V).

    Position i sees the positions j with 0 <= i - j < `window` (all j <= i without one).
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
    out, _ = _Attend.apply(q.to(dtype), k.to(dtype), v.to(dtype), scale, window)
    return out[..., :value_width]


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


def visible_pairs(length: int, window: int | None = None) -> int:
    """The number of (query, key) pairs that causal attention over `length` positions sees."""
    w = min(length, window) if window else length
    return w * (w + 1) // 2 + (length - w) * w


def _window_mask(length: int, window: int, like: Tensor) -> Tensor:
    """(T, T) with 0 where a key is visible and -inf elsewhere."""
    ahead = torch.arange(length, device=like.device)[:, None] - torch.arange(length, device=like.device)
    blind = (ahead < 0) | (ahead >= window)
    return torch.zeros(length, length, dtype=like.dtype, device=like.device).masked_fill(blind, float("-inf"))


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> tuple[Tensor, Tensor]:
        forward = _forward_fused if q.device.type == "cpu" else _forward_written_out
        mask = None if window is None else _window_mask(q.shape[1], window, q)
        qh, kh, vh = (z.transpose(1, 2) for z in (q, k, v))  # (B, H, T, K)
        out, logsumexp = forward(qh, kh, vh, scale, mask)
        return out.transpose(1, 2), logsumexp

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, ctx.scale, ctx.window = inputs
        out, logsumexp = output
        ctx.mark_non_differentiable(logsumexp)
        ctx.save_for_backward(q, k, v, out, logsumexp)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, logsumexp = ctx.saved_tensors
        mask = None if ctx.window is None else _window_mask(q.shape[1], ctx.window, q)
        g, qh, kh, vh, oh = (z.transpose(1, 2) for z in (grad, q, k, v, out))
        backward = _backward_fused if q.device.type == "cpu" else _backward_written_out
        grads = backward(g, qh, kh, vh, oh, logsumexp, ctx.scale, mask)
        return (*(z.transpose(1, 2) for z in grads), None, None)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        window: int | None,
    ) -> tuple[Any, Any]:
        size = info.batch_size
        folded = [fold(z, dim, size) for z, dim in zip((q, k, v), in_dims[:3], strict=True)]
        out, logsumexp = _Attend.apply(*folded, scale, window)
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
    with no_autocast(q.device.type):
        scores = _scores(q, k, scale, mask)
        logsumexp = scores.logsumexp(-1)
        return torch.exp(scores - logsumexp[..., None]).to(v.dtype) @ v, logsumexp


def no_autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    """Autocast would round the scores to bfloat16, and often in the forward pass only."""
    available = torch.amp.autocast_mode.is_autocast_available(device)  # not on meta
    return torch.autocast(device, enabled=False) if available else contextlib.nullcontext()


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
    with no_autocast(q.device.type):
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
