"""PaTH attention: between a key and a query lie the reflections of the tokens between them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.key_values import KeyValueMemory
from architectures.families.options import SILU, taps
from architectures.families.recurrent import forward_anew
from architectures.functional.delta import unit
from architectures.functional.precision import full_precision
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, State, option
from architectures.registry import primitive

CHUNK = 32


@primitive("path-attention", mixes="time", version=1, paper="arXiv:2505.16381", known_as="PaTH")
class PathAttention(KeyValueMemory):
    """o_t = sum_{s <= t} softmax_s(q_t^T P_t .. P_{s+1} k_s / sqrt(K)) v_s with P_t = I - b_t w_t w_t^T.

    x (B, T, D) -> q, k, w (B, T, H, K), v (B, T, H, V) -> (B, T, D). w has length 1 and comes through a map
    of low rank, a short convolution and silu; b_t = 2 sigmoid(W_b x_t + c) in (0, 2) makes P_t anything from
    the identity over a projection to a reflection. These products carry the position: nothing is rotated. The
    cache holds the keys as they stand at its end, and each new token moves all of them. Differs from the
    paper: without the forgetting gate of its variant PaTH-FoX.
    """

    forward = forward_anew
    undecayed = (*KeyValueMemory.undecayed, "w_conv.weight")
    rewrites = True

    class Config(KeyValueMemory.Config):
        rank: int = option(32, "rank of the map to w", least=1)
        w_conv: int = taps(3, f"{SILU} w")

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        width = self.kv_heads * self.key_dim
        self.w_down = nn.Linear(dim, config.rank, bias=False)
        self.w_up = nn.Linear(config.rank, width, bias=False)
        self.w_conv = ShortConv(width, config.w_conv)
        self.strength = nn.Linear(dim, self.kv_heads)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        keys, values, count, *tails = state
        q, k, v, tails = self.project(x, None, tails, ctx)
        w = self.w_up(self.w_down(x))
        if self.w_conv.taps:
            w, tails[-1] = self.w_conv(w, tails[-1])
        high = torch.promote_types(x.dtype, torch.float32)
        w = unit(w.to(high).unflatten(-1, (self.kv_heads, self.key_dim)))
        strength = 2 * self.strength(x).to(high).sigmoid()
        values = torch.cat([values, v], dim=1)
        o, keys = path_attend(q, k, values, w, strength, keys, scale=self.scale)
        return self.read(o.to(v.dtype), x), (keys, values, count + x.shape[1], *tails)

    def axes(self) -> Axes:
        """Its reflections must not turn old key channels into new ones."""
        tensors = {"w_down.weight": ". D", "w_up.weight": "GK .", "w_conv.weight": "GK ."}
        tensors |= {"strength.weight": "G D", "strength.bias": "G"}
        return super().axes().also(tensors, K=("w_up.weight",))

    def flops(self, length: int) -> int:
        inner, _ = path_flops(length, self.heads, self.kv_heads, self.key_dim, self.value_dim)
        # Earlier keys moved token by token, or as the chunks do, whichever is less.
        moved = min(4 * self.kv_heads * self.key_dim * (length * (length - 1) // 2), inner)
        seen = 2 * self.pairs(length) * self.heads * (self.key_dim + self.value_dim)
        return self.products(length) + seen + moved + self.elementwise(length)

    def executed_flops(self, length: int) -> int:
        inner, outer = path_flops(length, self.heads, self.kv_heads, self.key_dim, self.value_dim)
        return self.products(length) + inner + outer + self.elementwise(length)

    def uncounted_flops(self, length: int) -> int:
        size = min(CHUNK, length)
        solved = -(-length // size) * size**2 * (self.key_dim + size)
        return self.kv_heads * solved + self.elementwise(length)


def path_attend(
    q: Tensor,
    k: Tensor,
    values: Tensor,
    w: Tensor,
    strength: Tensor,
    keys: Tensor,
    *,
    scale: float,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Attention of the last T of S positions: o (B, T, H, V), and the keys (B, S, G, K) moved to the end.

    q (B, T, H, K), k, w (B, T, G, K), strength (B, T, G), values (B, S, G, V), keys (B, S - T, G, K) as they
    stand before the first of the T; the result is at least float32. A chunk needs one unit-triangular system,
    which moves its queries to its start, its keys to its end, and gives the K x K map P_C ... P_1 for all
    earlier keys. The system is that of the delta rule: what token i takes from a vector depends on what the
    earlier ones left of it.
    """
    with full_precision(q):
        high = torch.promote_types(q.dtype, torch.float32)
        length, key = q.shape[1], q.shape[-1]
        past, groups, size = keys.shape[1], k.shape[2], min(chunk, length)

        def cut(z: Tensor) -> Tensor:
            """(B, T, H, .) -> (B, G, H/G, T/C, C, .); padding moves nothing and is seen by padding only."""
            z = F.pad(z.to(high), (0, 0, 0, 0, 0, -length % size))
            return z.unflatten(1, (-1, size)).unflatten(3, (groups, -1)).permute(0, 3, 4, 1, 2, 5)

        q, k, w, b = cut(q * scale), cut(k), cut(w), cut(strength[..., None])
        taken = b * w
        asked = torch.cat([taken, (taken @ k.mT).tril(-1)], dim=-1)
        solved = torch.linalg.solve_triangular(taken @ w.mT, asked, upper=False, unitriangular=True)
        lost = (q @ w.mT).tril() @ solved
        earlier = q - lost[..., :key]
        future = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
        own = (q @ k.mT - lost[..., key:]).masked_fill(future, float("-inf"))
        left = k - solved[..., key:].mT @ w
        moves = solved[..., :key].mT @ w  # I - P_C ... P_1, applied from the right

        values = F.pad(values.to(high), (0, 0, 0, 0, 0, -length % size)).transpose(1, 2)[:, :, None]
        keys = keys.to(high).transpose(1, 2)[:, :, None]  # (B, G, 1, S, K)
        rows = []
        for n in range(own.shape[3]):
            scores = torch.cat([earlier[:, :, :, n] @ keys.mT, own[:, :, :, n]], dim=-1)
            rows.append(scores.softmax(-1) @ values[..., : past + (n + 1) * size, :])
            keys = torch.cat([keys - keys @ moves[:, :, :, n], left[:, :, :, n]], dim=-2)
        o = torch.cat(rows, dim=-2)[..., :length, :].flatten(1, 2)
        return o.transpose(1, 2), keys[:, :, 0, : past + length].transpose(1, 2)


def path_flops(length: int, heads: int, groups: int, key: int, value: int) -> tuple[int, int]:
    """FLOPs of `path_attend` on T tokens without a past: what moves queries and keys, and what attends."""
    size = min(CHUNK, length)
    chunks = -(-length // size)
    padded = chunks * size
    before = chunks * (chunks - 1) // 2 * size**2  # pairs of a query and a key of an earlier chunk
    system = padded * size * (6 * key + key + size) + 2 * padded * key**2  # left, right, left; the solve
    moved = 2 * (before // size) * key**2
    lost = 2 * padded * size * (2 * key + size)
    attended = 2 * (before + padded * size) * (key + value)
    return groups * (system + moved) + heads * lost, heads * attended
