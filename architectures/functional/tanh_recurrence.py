"""A matrix state that passes through a product and a tanh at every token, and so has no parallel form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from architectures.functional.fold import Folded
from architectures.functional.precision import full_precision


def tanh_recurrence(
    q: Tensor, k: Tensor, v: Tensor, f: Tensor, w: Tensor, first: Tensor, *, clip: float | None = None
) -> tuple[Tensor, Tensor]:
    """S_t = f_t S_{t-1} + (1 - f_t) tanh(S_{t-1} W + k_t v_t^T),  o_t = S_t^T q_t.

    q, k (B, T, K), v (B, T, H, V), f (B, T, H), w (H, V, V), first (B, H, K, V), the state before the first
    token -> o (B, T, H, V), the last state. `clip` bounds every element of the gradient of S_t, at each token
    on its way back. One function with a gradient of its own: of every token it keeps the state alone.
    """
    o, last, _ = _Recurrence.apply(q, k, v, f, w[None], first, clip)
    return o, last


class _Recurrence(Folded):
    """w is (1, H, V, V), or (R, H, V, V) where R replicas with their own are folded into the batch.

    Inside, everything is (T, R, H, B, K, V), so that one product serves all rows of a replica.
    """

    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, f: Tensor, w: Tensor, first: Tensor, clip: float | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, f, h = _inside(q, k, v, f, first, len(w))
        with full_precision(k):
            states = k[..., None] * v[..., None, :]
            # On the meta device the accounting asks for shapes only.
            for t in range(0 if k.is_meta else len(k)):
                states[t].add_(_times(h, w)).tanh_().lerp_(h, f[t])
                h = states[t]
            o = (q[..., None, :] @ states)[..., 0, :]
        # (T, R, H, B, ...) -> (R B, T, H, ...)
        o = o.permute(1, 3, 0, 2, 4).flatten(0, 1)
        states = states.permute(1, 3, 0, 2, 4, 5).flatten(0, 1)
        return o, states[:, -1].clone(), states

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(*inputs[:6], output[2])
        ctx.clip = inputs[6]

    @staticmethod
    def backward(ctx: Any, go: Tensor, glast: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        q, k, v, f, w, first, states = ctx.saved_tensors
        groups, clip = len(w), ctx.clip
        states = states.unflatten(0, (groups, -1)).permute(2, 0, 3, 1, 4, 5)
        carry = glast.unflatten(0, (groups, -1)).transpose(1, 2)
        go = go.unflatten(0, (groups, -1)).permute(2, 0, 3, 1, 4)
        q, k, v, f, h = _inside(q, k, v, f, first, groups)
        with full_precision(k):
            before = torch.cat([h[None], states[:-1]])
            new = (_times(before, w) + k[..., None] * v[..., None, :]).tanh_()
            # Of the states, then, of what is inside the tanh.
            outer = q[..., None] * go[..., None, :]
            inner = (1 - f) * (1 - new.square())
            for t in range(-1 if k.is_meta else len(k) - 1, -1, -1):
                g = outer[t].add_(carry)
                if clip is not None:
                    g.clamp_(-clip, clip)
                inner[t].mul_(g)
                carry = (f[t] * g).add_(_times(inner[t], w.mT))
            gq = (states @ go[..., None])[..., 0].sum(2)
            gk = (inner @ v[..., None])[..., 0].sum(2)  # (T, R, B, K)
            gv = (k[..., None, :] @ inner)[..., 0, :]
            gf = (outer * (before - new)).sum((-2, -1))
            gw = torch.einsum("trhbkv,trhbku->rhvu", before, inner)
        gq, gk = (g.permute(1, 2, 0, 3).flatten(0, 1) for g in (gq, gk))
        gv = gv.permute(1, 3, 0, 2, 4).flatten(0, 1)
        gf = gf.permute(1, 3, 0, 2).flatten(0, 1)
        return gq, gk, gv, gf, gw, carry.transpose(1, 2).flatten(0, 1), None


def _inside(q: Tensor, k: Tensor, v: Tensor, f: Tensor, h: Tensor, groups: int) -> tuple[Tensor, ...]:
    """q, k (T, R, 1, B, K), v (T, R, H, B, V), f (T, R, H, B, 1, 1), h (R, H, B, K, V)."""
    q, k, v, f, h = (z.unflatten(0, (groups, -1)) for z in (q, k, v, f, h))
    q, k = (z.permute(2, 0, 1, 3)[:, :, None] for z in (q, k))
    f = f.permute(2, 0, 3, 1)[..., None, None]
    return q, k, v.permute(2, 0, 3, 1, 4), f, h.transpose(1, 2)


def _times(h: Tensor, w: Tensor) -> Tensor:
    """h (..., R, H, B, K, V) times w (R, H, V, U): the rows of B and K as one."""
    return (h.flatten(-3, -2) @ w).unflatten(-2, h.shape[-3:-1])
