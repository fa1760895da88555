"""First-order linear scan, element by element: h_t = a_t h_{t-1} + b_t."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.functional.fold import fold, unfold


def linear_scan(a: Tensor, b: Tensor) -> Tensor:
    """h_t = a_t h_{t-1} + b_t with h_0 = 0 along axis 1: a, b (B, T, ...) -> h (B, T, ...).

    The time axis is cut into about sqrt(T) chunks that advance together, then the chunks' ends are chained:
    the sequential depth is about 3 sqrt(T), and the memory traffic a few passes, where the usual doubling
    scan makes log2(T) of them. The gradient is the same scan run backwards, so only a and h are kept.
    """
    return _Scan.apply(a, b)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        length = b.shape[1]
        if b.is_meta:
            return torch.empty_like(b)  # accounting asks for the shape only
        a, b = _cut(a), _cut(b)  # (B, T/C, C, ...)
        h, whole = b.clone(), a[:, :, 0].clone()
        for i in range(1, a.shape[2]):
            h[:, :, i].addcmul_(a[:, :, i], h[:, :, i - 1])
            whole *= a[:, :, i]
        entering = torch.cat([torch.zeros_like(h[:, :1, -1]), h[:, :-1, -1]], dim=1)
        for j in range(1, a.shape[1]):
            entering[:, j].addcmul_(whole[:, j - 1], entering[:, j - 1])
        for i in range(a.shape[2]):
            entering *= a[:, :, i]
            h[:, :, i] += entering
        return h.flatten(1, 2)[:, :length]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, h = ctx.saved_tensors
        # The gradient of b obeys g_t = grad_t + a_{t+1} g_{t+1}: the same scan, from the end.
        g = _scan_back(_cut(a), _cut(grad)).flatten(1, 2)[:, : a.shape[1]]
        ga = g.clone()
        ga[:, 1:] *= h[:, :-1]
        ga[:, 0] = 0
        return ga, g

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, int | None], a: Tensor, b: Tensor) -> tuple[Tensor, int]:
        size = info.batch_size
        out = _Scan.apply(fold(a, in_dims[0], size), fold(b, in_dims[1], size))
        return unfold(out, size), 0


def _scan_back(a: Tensor, grad: Tensor) -> Tensor:
    """g_i = grad_i + a_{i+1} g_{i+1} over cut axes (B, T/C, C, ...)."""
    chunk = a.shape[2]
    g, whole = grad.clone(), a[:, :, 0].clone()
    for i in range(chunk - 2, -1, -1):
        g[:, :, i].addcmul_(a[:, :, i + 1], g[:, :, i + 1])
        whole *= a[:, :, i + 1]
    # What enters chunk j from the right is a g of the first position of chunk j + 1.
    entering = torch.cat([a[:, 1:, 0] * g[:, 1:, 0], torch.zeros_like(g[:, :1, 0])], dim=1)
    for j in range(a.shape[1] - 2, -1, -1):
        entering[:, j].addcmul_(whole[:, j + 1], entering[:, j + 1])
    for i in range(chunk - 1, -1, -1):
        g[:, :, i] += entering
        entering *= a[:, :, i]
    return g


def _cut(x: Tensor) -> Tensor:
    """(B, T, ...) -> (B, T/C, C, ...) with C about sqrt(T), zeros at the end."""
    length = x.shape[1]
    chunk = max(1, round(math.sqrt(length)))
    extra = -length % chunk
    if extra:
        x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, extra))
    return x.reshape(x.shape[0], -1, chunk, *x.shape[2:])
