"""First-order linear scan, element by element: h_t = a_t h_{t-1} + b_t."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.functional.attention import fold, unfold


def linear_scan(a: Tensor, b: Tensor) -> Tensor:
    """h_t = a_t h_{t-1} + b_t with h_0 = 0 along axis 1: a, b (B, T, ...) -> h (B, T, ...).

    The time axis is cut into about sqrt(T) chunks that advance together, then the chunks' ends are chained: the
    sequential depth is about 2 sqrt(T) and the memory traffic a small multiple of one pass, where the usual
    doubling scan makes log2(T) passes. The gradient is the same scan run backwards, so only a and h are kept.
    """
    return _Scan.apply(a, b)


def _scan(a: Tensor, b: Tensor) -> Tensor:
    length = b.shape[1]
    chunk = max(1, round(math.sqrt(length)))
    chunks = -(-length // chunk)
    extra = chunks * chunk - length
    if extra:
        pad = (0, 0) * (b.dim() - 2) + (0, extra)
        a, b = F.pad(a, pad), F.pad(b, pad)
    a = a.reshape(a.shape[0], chunks, chunk, *a.shape[2:])  # (B, T/C, C, ...)
    b = b.reshape(b.shape[0], chunks, chunk, *b.shape[2:])
    state, decay = b[:, :, 0], a[:, :, 0]
    states, decays = [state], [decay]
    for i in range(1, chunk):
        state = torch.addcmul(b[:, :, i], a[:, :, i], state)
        decay = decay * a[:, :, i]
        states.append(state)
        decays.append(decay)
    carry = torch.zeros_like(state[:, 0])
    carries = [carry]
    for j in range(chunks - 1):
        carry = torch.addcmul(state[:, j], decay[:, j], carry)
        carries.append(carry)
    entering = torch.stack(carries, dim=1)[:, :, None]  # (B, T/C, 1, ...)
    h = torch.addcmul(torch.stack(states, dim=2), torch.stack(decays, dim=2), entering)
    return h.flatten(1, 2)[:, :length]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return _scan(a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, h = ctx.saved_tensors
        # The gradient of b obeys g_t = grad_t + a_{t+1} g_{t+1}: the same scan on the reversed axis.
        later = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], dim=1)
        gb = _scan(later.flip(1), grad.flip(1)).flip(1)
        before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], dim=1)
        return gb * before, gb

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, int | None], a: Tensor, b: Tensor) -> tuple[Tensor, int]:
        size = info.batch_size
        out = _Scan.apply(fold(a, in_dims[0], size), fold(b, in_dims[1], size))
        return unfold(out, size), 0
