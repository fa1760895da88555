"""First-order linear scans, element by element: h_t = a_t h_{t-1} + b_t, alone and inside a selective scan.

The time axis is cut into about sqrt(T) chunks that advance together, then the chunks' ends are chained: the
sequential depth is about 3 sqrt(T), and the memory traffic a few passes, where the usual doubling scan makes
log2(T) of them. Gradients are the same scan run backwards, so nothing but inputs and states is kept.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.functional.fold import Folded, fold, unfold
from architectures.functional.precision import full_precision


def linear_scan(a: Tensor, b: Tensor) -> Tensor:
    """h_t = a_t h_{t-1} + b_t with h_0 = 0 along axis 1: a, b (B, T, ...) -> h (B, T, ...)."""
    return _Scan.apply(a, b)


def selective_scan(
    delta: Tensor, rate: Tensor, b: Tensor, c: Tensor, x: Tensor, first: Tensor
) -> tuple[Tensor, Tensor]:
    """The state space of arXiv:2312.00752: h_t = exp(delta_t rate) h_{t-1} + delta_t b_t x_t; y_t = c_t h_t.

    delta, x (B, T, D); rate (N, D), negative; b, c (B, T, N); first (B, N, D), the state before the first
    token -> y (B, T, D) and the state after the last. One function with a gradient of its own, because the
    states (B, T, N, D) are N times as large as everything else: what counts is how often they are read.
    """
    y, last, _, _ = _SelectiveScan.apply(delta, rate[None, None], b, c, x, first)
    return y, last


def decaying_max(fall: Tensor, x: Tensor, first: Tensor) -> Tensor:
    """m_t = max(m_{t-1} + fall_t, x_t): fall, x (B, T, H), first (B, H), the one before -> m (B, T, H).

    By doubling: after each round a position has seen twice as many before it. Nothing is subtracted, so a
    long sum of `fall` costs no precision where it does not matter.
    """
    width, length = 1, x.shape[1]
    while width < length:
        x = torch.maximum(x, fall + F.pad(x, (0, 0, width, 0), value=float("-inf"))[:, :length])
        fall = fall + F.pad(fall, (0, 0, width, 0))[:, :length]
        width *= 2
    return torch.maximum(x, fall + first[:, None])


def decaying_max_flops(length: int) -> int:
    """FLOPs of `decaying_max` for one row and head as it is written; the recurrence needs 2 per token."""
    return (3 * (length - 1).bit_length() + 2) * length


class _Scan(Folded):
    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return _scan(a, b.clone())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, h = ctx.saved_tensors
        # The gradient of b obeys g_t = grad_t + a_{t+1} g_{t+1}: the same scan, from the end.
        g = _scan_back(a, grad.clone())
        ga = g.clone()
        ga[:, 1:] *= h[:, :-1]
        ga[:, 0] = 0
        return ga, g


class _SelectiveScan(torch.autograd.Function):
    """`rate` is (1, 1, N, D), or (B, 1, N, D) where replicas with their own rates are folded."""

    @staticmethod
    def forward(
        delta: Tensor, rate: Tensor, b: Tensor, c: Tensor, x: Tensor, first: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        decay = (delta[:, :, None] * rate).exp_()  # (B, T, N, D)
        h = b[..., None] * (delta * x)[:, :, None]
        h[:, 0].addcmul_(decay[:, 0], first)
        h = _scan(decay, h)
        with full_precision(h):  # autocast would round what was upcast on purpose
            y = (c[:, :, None] @ h)[:, :, 0]
        return y, h[:, -1].clone(), h, decay

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        _, _, h, decay = output
        ctx.mark_non_differentiable(h, decay)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, h, decay)

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, glast: Tensor | None, *_: Any) -> tuple[Tensor, ...]:
        delta, rate, b, c, x, first, h, decay = ctx.saved_tensors
        gy = torch.zeros_like(x) if gy is None else gy
        g = c[..., None] * gy[:, :, None]  # (B, T, N, D), of the states
        if glast is not None:
            g[:, -1] += glast
        g = _scan_back(decay, g)
        with full_precision(g):
            gb = (g @ (delta * x)[..., None])[..., 0]
            gc = (h @ gy[..., None])[..., 0]
            written = (b[:, :, None] @ g)[:, :, 0]  # of delta * x
        gfirst = g[:, 0] * decay[:, 0]
        # From here on g is the gradient of the exponent delta * rate.
        g[:, 1:] *= h[:, :-1]
        g[:, 0] *= first
        g *= decay
        gdelta = written * x + (g * rate).sum(2)
        grate = (g * delta[:, :, None]).sum(1, keepdim=True)
        if rate.shape[0] == 1:
            grate = grate.sum(0, keepdim=True)
        return gdelta, grate, gb, gc, written * delta, gfirst

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Any, Any]:
        size = info.batch_size
        delta, rate, b, c, x, first = inputs
        rest = [
            fold(z, d, size) for z, d in zip((delta, b, c, x, first), (in_dims[0], *in_dims[2:]), strict=True)
        ]
        if in_dims[1] is not None:
            rate = rate.movedim(in_dims[1], 0)
            rows = rest[0].shape[0] // size
            rate = rate.expand(size, rows, *rate.shape[2:]).flatten(0, 1)
        out = _SelectiveScan.apply(rest[0], rate, *rest[1:])
        return tuple(unfold(z, size) for z in out), (0, 0, 0, 0)


def _scan(a: Tensor, b: Tensor) -> Tensor:
    """The scan of a and b (B, T, ...); b may be overwritten."""
    if b.is_meta:
        return b  # accounting asks for the shape only
    length = b.shape[1]
    a, h = _cut(a), _cut(b)  # (B, T/C, C, ...)
    whole = a[:, :, 0].clone()
    for i in range(1, a.shape[2]):
        h[:, :, i].addcmul_(a[:, :, i], h[:, :, i - 1])
        whole *= a[:, :, i]
    if a.shape[1] > 1:
        entering = torch.cat([torch.zeros_like(h[:, :1, -1]), h[:, :-1, -1]], dim=1)
        for j in range(1, a.shape[1]):
            entering[:, j].addcmul_(whole[:, j - 1], entering[:, j - 1])
        for i in range(a.shape[2]):
            entering *= a[:, :, i]
            h[:, :, i] += entering
    return h.flatten(1, 2)[:, :length]


def _scan_back(a: Tensor, grad: Tensor) -> Tensor:
    """g_t = grad_t + a_{t+1} g_{t+1} over axis 1; grad may be overwritten."""
    length = grad.shape[1]
    a, g = _cut(a), _cut(grad)
    chunk = a.shape[2]
    whole = a[:, :, 0].clone()
    for i in range(chunk - 2, -1, -1):
        g[:, :, i].addcmul_(a[:, :, i + 1], g[:, :, i + 1])
        whole *= a[:, :, i + 1]
    if a.shape[1] > 1:
        # What enters chunk j from the right is a g of the first position of chunk j + 1.
        entering = torch.cat([a[:, 1:, 0] * g[:, 1:, 0], torch.zeros_like(g[:, :1, 0])], dim=1)
        for j in range(a.shape[1] - 2, -1, -1):
            entering[:, j].addcmul_(whole[:, j + 1], entering[:, j + 1])
        for i in range(chunk - 1, -1, -1):
            g[:, :, i] += entering
            entering *= a[:, :, i]
    return g.flatten(1, 2)[:, :length]


def _cut(x: Tensor) -> Tensor:
    """(B, T, ...) -> (B, T/C, C, ...) with C about sqrt(T): a divisor of T near it, else zeros at the end."""
    length = x.shape[1]
    root = math.sqrt(length)
    near = [c for c in range(math.ceil(root / 2), math.floor(2 * root) + 1) if length % c == 0]
    chunk = min(near, key=lambda c: abs(math.log(c / root)), default=max(1, round(root)))
    extra = -length % chunk
    if extra:
        x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, extra))
    return x.reshape(x.shape[0], -1, chunk, *x.shape[2:])
