"""Mamba-3: a matrix state written by the trapezoidal rule, with keys and queries that turn as time passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import Tokens
from architectures.families.state_space import StateSpace
from architectures.functional.steps import softplus
from architectures.functional.value_residual import share_value
from architectures.parts.norms import RMSNorm
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Hint, State, at_least, option
from architectures.registry import primitive

# The smallest rate of decay.
RATE_MIN = 1e-4


@primitive("mamba3", mixes="time", version=1, paper="arXiv:2603.15569")
class Mamba3(StateSpace):
    """S_t = a_t S_{t-1} + (1 - l_t) d_t a_t B_{t-1} x_{t-1}^T + l_t d_t B_t x_t^T,  y_t = S_t^T C_t + D x_t.

    u (B, T, D) -> x, z (B, T, H, V), B, C (B, T, H, N) -> (B, T, D), with H V = expand * D and S N x V.
    a = exp(-d r), with a step d = softplus(w + dt_bias), a rate r = 1 + w, or 1 / (1 - w) for w below 0, and
    l a sigmoid, each of a w of its own a head. B and C come from the token by RMSNorm, and every head adds
    its biases; then their first pairs of channels are rotated by the sum of d_s pi tanh(angle_s) for s <= t.
    The output is gated by silu(z). The layer mixes time and channels, so it needs no channel mixer beside it.
    Differs from the paper: N = 64 by default, a short convolution of x, B and C as an option, the rate of
    the public code (state-spaces/mamba), and one input and one output a head (SISO) only.
    """

    before = True

    @dataclass(frozen=True, kw_only=True)
    class Config(StateSpace.Config):
        conv: int = option(0, "taps of a short convolution and silu on x, B and C; 0: none", most=256)
        angles: int | None = option(
            None, "pairs of channels of B and C that rotate; none: d_state / 4, rounded down", scales="head"
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            at_least(self, angles=0)
            if self.angles is not None and 2 * self.angles > self.d_state:
                raise ValueError(
                    f"angles={self.angles} rotate more channels than d_state={self.d_state} has; "
                    f"choose at most {self.d_state // 2}"
                )

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        heads, key = self.heads, self.key_dim
        self.angles = key // 4 if config.angles is None else config.angles
        # D x and its sum, the gate; B . C, B and C weighted; the rotations.
        self.gates = 3 * self.inner + 4 * heads * key + 12 * heads * self.angles
        self.widths = [self.inner, self.inner + 2 * key, heads, heads, heads, self.angles]
        self.project = nn.Linear(dim, sum(self.widths), bias=False)
        self.conv = ShortConv(self.widths[1], config.conv, bias=True)
        self.key_norm = RMSNorm(key)
        self.query_norm = RMSNorm(key)
        self.key_bias = nn.Parameter(torch.ones(heads, key))
        self.query_bias = nn.Parameter(torch.ones(heads, key))
        self.out = nn.Linear(self.inner, dim, bias=False)

    @property
    def carry_kinds(self) -> tuple[str, ...]:
        return ("conv", "recurrent", "recurrent", "recurrent")

    def init_carry(self, like: Tensor, batch: int) -> State:
        """The convolution's tail, the last B (B, H, N) and x (B, H, V), and the angles (B, H, A)."""
        high = torch.promote_types(like.dtype, torch.float32)
        widths = (self.key_dim, self.value_dim, self.angles)
        rest = (like.new_zeros(batch, self.heads, width, dtype=high) for width in widths)
        return self.conv.init_tail(like, batch), *rest

    def recur_flops(self, length: int) -> tuple[int, int]:
        products, rest = super().recur_flops(length)
        return products, rest + 2 * self.heads * self.key_dim * self.value_dim

    def hints(self) -> dict[str, Hint]:
        return super().hints() | {name: Hint(decay=False) for name in ("key_bias", "query_bias")}

    def _advance(
        self,
        x: Tensor,
        state: State,
        ctx: Context | None,
        recur: Callable[[Tokens, Tensor], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, State]:
        s, tail, last_k, last_v, turned = state
        z, u, dt, rate, trap, angle = self.project(x).split(self.widths, dim=-1)
        u, tail = self.conv(u, tail)
        high = torch.promote_types(x.dtype, torch.float32)
        dt, rate, trap, angle = (t.to(high) for t in (dt, rate, trap, angle))
        v, k, q = u.to(high).split([self.inner, self.key_dim, self.key_dim], dim=-1)
        v = share_value(v.unflatten(-1, (self.heads, -1)), ctx, self.index)
        delta = softplus(dt + self.dt_bias.to(high))  # (B, T, H)
        speed = math.pi * angle.tanh()[:, :, None]  # (B, T, 1, A)
        phase = turned[:, None] + (delta[..., None] * speed).cumsum(1)  # (B, T, H, A)
        q = _turn(self.query_norm(q)[:, :, None] + self.query_bias.to(high), phase)
        k = _turn(self.key_norm(k)[:, :, None] + self.key_bias.to(high), phase)
        log_a = -delta * (F.relu(rate) + 1 / (1 - rate.clamp(max=0))).clamp(min=RATE_MIN)
        now, late = delta * trap.sigmoid(), delta * (-trap).sigmoid()  # (B, T, H)
        # A token is written a second time by the next one, before that one's decay, and in between only the
        # token itself reads. So the state is read before the token is written, with both weights, and its own
        # pair is added; the second write of the last token is left to whoever continues.
        s = s + (late[:, 0, :, None] * last_k)[..., None] * last_v[..., None, :]
        weight = now + F.pad(late[:, 1:], (0, 0, 0, 1))
        read, written = log_a.exp()[..., None] * q, weight[..., None] * k
        o, s = recur(Tokens(q=read, k=written, v=v, log_a=log_a), s)
        own = now * (q * k).sum(-1) + self.skip.to(high)
        y = (o + own[..., None] * v).flatten(-2) * F.silu(z.to(high))
        carry = tail, k[:, -1], v[:, -1], phase[:, -1].remainder(2 * math.pi)
        return self.out(y.to(x.dtype)), (s, *carry)


def _turn(x: Tensor, phase: Tensor) -> Tensor:
    """Rotate the first pairs of channels (2i, 2i + 1) of x (B, T, H, N) by phase (B, T, H, A)."""
    turned, rest = x.split([2 * phase.shape[-1], x.shape[-1] - 2 * phase.shape[-1]], dim=-1)
    even, odd = turned.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = phase.cos(), phase.sin()
    pairs = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return torch.cat([pairs.flatten(-2), rest], dim=-1)
