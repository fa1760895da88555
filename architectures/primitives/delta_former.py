"""DeltaFormer: softmax attention that writes what is new about a token, as the delta rule does."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.key_values import KeyValueMemory, RotaryOptions
from architectures.families.recurrent import forward_anew
from architectures.functional.precision import full_precision
from architectures.primitive import Context, State
from architectures.registry import primitive

CHUNK = 32


@primitive("delta-former", mixes="time", version=1, paper="arXiv:2505.19488")
class DeltaFormer(KeyValueMemory):
    """o_t = sum_{s <= t} softmax_s(q_t . k_s) u_s,  u_t = v_t - b_t sum_{s < t} softmax_s(q_t . k_s) u_s.

    x (B, T, D) -> q, k (B, T, H, K), v, u (B, T, H, V) -> (B, T, D). Scores are divided by sqrt(K); the
    second softmax is over the earlier tokens alone, and empty for the first one. b_t = tanh(W_b x_t + c) per
    head takes from a value what the memory already answers, so that a value is a function of all earlier
    ones; c starts at 0. The cache holds keys, rotated by RoPE, and u in the place of values, one for every
    query head. Differs from the paper: b_t is kept in (-1, 1), where the public code leaves it free and u may
    grow with its powers; the memory is asked with the token's query, as in that code.

    Hypothesis: tracks a state, such as a permutation, over lengths where attention of one layer fails, and
    recalls like attention.
    """

    forward = forward_anew

    class Config(RotaryOptions, KeyValueMemory.Config):
        pass

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.strength = nn.Linear(dim, self.heads)
        nn.init.zeros_(self.strength.bias)

    def init_state(self, batch: int, length: int | None = None) -> State:
        """Keys (B, t, G, K), u (B, t, H, V), the number of tokens so far, and the tails."""
        keys, values, *rest = super().init_state(batch, length)
        return keys, values.new_zeros(batch, 0, self.heads, self.value_dim), *rest

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        keys, written, count, *tails = state
        positions = count + torch.arange(x.shape[1], device=x.device)
        q, k, v, tails = self.project(x, positions, tails, ctx)
        k = torch.cat([keys, k], dim=1)
        strength = self.strength(x).to(torch.promote_types(x.dtype, torch.float32)).tanh()
        o, u = delta_attend(q, self.spread(k), self.spread(v), strength, written, scale=self.scale)
        return self.read(o.to(v.dtype), x), (k, u, count + x.shape[1], *tails)

    def axes(self) -> Axes:
        return super().axes().also({"strength.weight": "GR D", "strength.bias": "GR"})

    def flops(self, length: int) -> int:
        # The score of a pair serves both softmaxes; no token asks itself before it is written.
        asked = 2 * (self.pairs(length) - length) * self.heads * self.value_dim
        return super().flops(length) + asked

    def executed_flops(self, length: int) -> int:
        size = min(CHUNK, length)
        chunks = -(-length // size)
        before, through = (size**2 * n for n in (chunks * (chunks - 1) // 2, chunks * (chunks + 1) // 2))
        seen = 2 * through * (self.key_dim + self.value_dim) + 2 * before * self.value_dim
        return self.products(length) + self.heads * seen + self.uncounted_flops(length)

    def uncounted_flops(self, length: int) -> int:
        size = min(CHUNK, length)
        return self.heads * -(-length // size) * size**2 * self.value_dim + self.elementwise(length)


def delta_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    strength: Tensor,
    written: Tensor,
    *,
    scale: float,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Both sums for the last T of S positions: o (B, T, H, V) and all u (B, S, H, V), at least float32.

    q (B, T, H, K), k (B, S, H, K), v (B, T, H, V), strength (B, T, H), the u before: written (B, S - T, H,
    V). The u of a chunk solve one unit-triangular system, with what the earlier chunks answer taken off
    first.
    """
    with full_precision(q):
        high = torch.promote_types(q.dtype, torch.float32)
        length, past = q.shape[1], written.shape[1]
        size = length if q.is_meta else min(chunk, length)  # without numbers there is no work to spare

        def cut(z: Tensor) -> Tensor:
            """(B, T, H, .) -> (B, H, T/C, C, .); padding is seen by padding only, and writes nothing."""
            z = F.pad(z.to(high), (0, 0, 0, 0, 0, -length % size))
            return z.unflatten(1, (-1, size)).permute(0, 3, 1, 2, 4)

        q, v, b = cut(q * scale), cut(v), cut(strength[..., None])
        k = F.pad(k.to(high), (0, 0, 0, 0, 0, -length % size)).permute(0, 2, 3, 1)  # (B, H, K, S)
        u = written.to(high).transpose(1, 2)
        future = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
        rows = []
        for n in range(q.shape[2]):
            start = past + n * size
            scores = q[:, :, n] @ k[..., : start + size]
            seen = scores.masked_fill(F.pad(future, (start, 0)), float("-inf")).softmax(-1)
            itself = F.pad(future.logical_not().triu(0), (start, 0))
            if start == 0:
                itself[0, 0] = False  # no row is empty; the diagonal of the system is not read
            hidden = F.pad(future, (start, 0)) | itself
            asked = scores.masked_fill(hidden, float("-inf")).softmax(-1) * b[:, :, n]
            new = v[:, :, n] - asked[..., :start] @ u
            new = torch.linalg.solve_triangular(asked[..., start:], new, upper=False, unitriangular=True)
            u = torch.cat([u, new], dim=-2)
            rows.append(seen @ u)
        o = torch.cat(rows, dim=-2)[..., :length, :]
        return o.transpose(1, 2), u[..., : past + length, :].transpose(1, 2)
