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

aten = torch.ops.aten


def attend(q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None = None) -> Tensor:
    """Causal softmax attention: (B, T, H, K), (B, T, H, K), (B, T, H, V) -> (B, T, H, V).

    Position i sees the positions j with 0 <= i - j < `window` (all j <= i without one).
    """
    width, value_width = q.shape[-1], v.shape[-1]
    # The fused kernel wants equal widths; zeros change neither the scores nor the values.
    if width < value_width:
        q, k = F.pad(q, (0, value_width - width)), F.pad(k, (0, value_width - width))
    elif value_width < width:
        v = F.pad(v, (0, width - value_width))
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    out, _ = _Attend.apply(q.to(dtype), k.to(dtype), v.to(dtype), scale, window)
    return out[..., :value_width]


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
        mask = None if window is None else _window_mask(q.shape[1], window, q)
        qh, kh, vh = (z.transpose(1, 2) for z in (q, k, v))  # (B, H, T, K)
        if q.device.type == "cpu":
            out, logsumexp = aten._scaled_dot_product_flash_attention_for_cpu(
                qh, kh, vh, 0.0, mask is None, attn_mask=mask, scale=scale
            )
        else:
            scores = _scores(qh, kh, scale, mask)
            logsumexp = scores.logsumexp(-1)
            out = torch.exp(scores - logsumexp[..., None]).to(v.dtype) @ vh
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
        if q.device.type == "cpu":
            grads = aten._scaled_dot_product_flash_attention_for_cpu_backward(
                g, qh, kh, vh, oh, logsumexp, 0.0, mask is None, attn_mask=mask, scale=ctx.scale
            )
        else:
            p = torch.exp(_scores(qh, kh, ctx.scale, mask) - logsumexp[..., None])
            high = p.dtype
            inner = (g.to(high) * oh.to(high)).sum(-1, keepdim=True)
            ds = p * (g.to(high) @ vh.to(high).mT - inner) * ctx.scale
            grads = (
                (ds @ kh.to(high)).to(q.dtype),
                (ds.mT @ qh.to(high)).to(k.dtype),
                (p.mT @ g.to(high)).to(v.dtype),
            )
        return (*(z.transpose(1, 2) for z in grads), None, None)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None
    ) -> tuple[Any, Any]:
        size = info.batch_size
        folded = [fold(z, dim, size) for z, dim in zip((q, k, v), in_dims[:3], strict=True)]
        out, logsumexp = _Attend.apply(*folded, scale, window)
        return (unfold(out, size), unfold(logsumexp, size)), (0, 0)


def _scores(q: Tensor, k: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """(B, H, T, T) masked scores, at least in float32."""
    high = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(high) @ k.to(high).mT) * scale
    if mask is None:
        length = q.shape[-2]
        future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        return scores.masked_fill(future, float("-inf"))
    return scores + mask.to(high)

