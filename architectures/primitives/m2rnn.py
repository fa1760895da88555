"""M2RNN: a matrix memory that is not linear in its state."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Vectors
from architectures.families.options import taps
from architectures.functional.fold import Folded
from architectures.functional.precision import full_precision
from architectures.functional.steps import draw_rate, draw_step_bias, log_decay
from architectures.parts.norms import RMSNorm
from architectures.primitive import Context, State, option
from architectures.registry import primitive


@primitive("m2rnn", mixes="time", version=1, paper="arXiv:2603.14360")
class M2RNN(MatrixMemory):
    """S_t = f_t S_{t-1} + (1 - f_t) tanh(S_{t-1} W + k_t v_t^T),  o_t = S_t^T q_t + d * v_t.

    x (B, T, D) -> q, k (B, T, K), shared by all heads, v (B, T, H, V), f (B, T, H) -> (B, T, D). q, k and v
    pass a short causal convolution and silu; f_t is the decay of `gated-delta-net`. W (V, V) per head starts
    as the identity, d (V) per head at 1. The output, gated by silu, is normalised by RMSNorm over all heads.
    The gradient of every element of S_t is clipped to +-`clip` at each token, so it is not the slope where
    the clip binds. Sequential: nothing is done in chunks, and both passes take T steps, each with a product
    of V x V for every row of S. Differs from the paper: heads of 16 channels by default, with K = 16 for an
    equal state, where K = 64 there.

    Hypothesis: follows states at lengths beyond those trained on, where linear memories fail; recalls no more
    than a linear memory of equal state.
    """

    anew = False
    undecayed = ("log_rate", "dt_bias", "skip")
    straight_through = True  # a clipped gradient is not the slope

    class Config(MatrixMemory.Config):
        conv: int = taps(4)
        clip: float | None = option(
            1.0, "bound on an element of the gradient of the state, at each token; none: no bound", least=0
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.clip == 0:
                raise ValueError("clip=0 lets no gradient through; choose a number above 0, or none")

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        key, values = self.key_dim, self.heads * self.value_dim
        self.add_projection(key, key, values)
        self.add_gate()
        self.gates += 2 * values  # d v
        self.dt = nn.Linear(dim, self.heads, bias=False)
        self.dt_bias = nn.Parameter(draw_step_bias(self.heads))
        self.log_rate = nn.Parameter(draw_rate(self.heads, 0, 16).log())
        self.transition = nn.Parameter(torch.eye(self.value_dim).repeat(self.heads, 1, 1))
        self.skip = nn.Parameter(torch.ones(self.heads, self.value_dim))
        self.norm = RMSNorm(values)
        self.out = nn.Linear(values, dim, bias=False)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        z, tail = self.conv(self.project(x), carry[0])
        q, k, v = z.to(torch.promote_types(x.dtype, torch.float32)).split(self.widths, dim=-1)
        log_f = log_decay(self.dt(x), self.dt_bias, self.log_rate)  # (B, T, H)
        return Vectors(q=q, k=k, v=v.unflatten(-1, (self.heads, -1)), log_a=log_f), (tail,)

    def recur(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        assert z.log_a is not None
        w = self.transition.to(z.v.dtype)
        return tanh_recurrence(z.q, z.k, z.v, z.log_a.exp(), w, s, clip=self.config.clip)

    recur_once = recur

    def read(self, o: Tensor, x: Tensor, tokens: Vectors) -> Tensor:
        o = (o + self.skip.to(o.dtype) * tokens.v).flatten(-2).to(x.dtype)
        return self.out(self.norm(o * F.silu(self.gate(x))))

    def state_flops(self, length: int) -> int:
        return sum(self.recur_flops(length))

    def recur_flops(self, length: int) -> tuple[int, int]:
        # A cell of S: a row times a column of W, and its reading; k v^T and its sum, and the mean by f.
        cells = length * self.heads * self.key_dim * self.value_dim
        return (2 * self.value_dim + 2) * cells, 5 * cells


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
