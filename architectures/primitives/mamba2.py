"""Mamba-2 and Mamba-3: a matrix state per head, with one decay, whose key and query all heads share."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Recur, Vectors
from architectures.families.options import SILU, canon_taps, divide, taps
from architectures.functional.delta import SCALAR_CHUNK
from architectures.functional.steps import draw_rate, draw_step_bias, softplus
from architectures.functional.value_residual import share_value
from architectures.parts.canon import Canon
from architectures.parts.norms import RMSNorm
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Options, State, option
from architectures.registry import primitive

# The smallest rate of decay.
RATE_MIN = 1e-4


@primitive("mamba2", mixes="time", version=1, paper="arXiv:2405.21060", known_as="SSD; Nemotron-H, Falcon-H1")
class Mamba2(MatrixMemory):
    """S_t = exp(-d_t exp(log_rate)) S_{t-1} + d_t B_t x_t^T,  y_t = S_t^T C_t + D x_t,  d = softplus(W u).

    u (B, T, D) -> x, z (B, T, H, V), B, C (B, T, N), d (B, T, H) -> (B, T, D), with H V = expand * D; S is N
    x V per head, and B and C are shared by all heads. x, B and C pass a short causal convolution with a bias
    and silu. The output is gated by silu(z), then normalised over the inner width by RMSNorm. It needs no
    channel mixer beside it. Differs from the paper: N = 64 by default.
    """

    undecayed = ("dt_bias", "skip", "log_rate")

    class Config(Options):
        d_state: int = option(64, "N, state elements per channel", per="head", sizes="state", least=1)
        head_dim: int | None = option(
            None, "V, channels per head; none: the greatest common divisor of 64 and F", per="head", least=1
        )
        expand: int = option(2, "inner width over the model's width", least=1)
        conv: int = taps(4, f"{SILU} x, B and C")
        canon: int = canon_taps("x, z, B, C and d, before conv")

        def sizes(self, dim: int) -> tuple[int, int, int]:
            """H, N and V at a width."""
            inner = self.expand * dim
            value = self.head_dim or math.gcd(64, inner)
            return divide("the inner width", inner, "head_dim", value), self.d_state, value

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.inner = config.expand * dim
        self.dt_bias = nn.Parameter(draw_step_bias(self.heads))
        self.skip = nn.Parameter(torch.ones(self.heads))
        self.gates = 4 * self.inner  # d x, D x and its sum, the gate
        self.widths = [self.inner, self.inner + 2 * self.key_dim, self.heads]
        self.project = nn.Linear(dim, sum(self.widths), bias=False)
        self.conv = ShortConv(self.widths[1], config.conv, bias=True)
        self.log_rate = nn.Parameter(draw_rate(self.heads, 1, 16).log())
        self.norm = RMSNorm(self.inner)
        self.out = nn.Linear(self.inner, dim, bias=False)
        self.canon = Canon(sum(self.widths), config.canon)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        mixed, behind = self.canon(self.project(x), carry[1])
        z, u, dt = mixed.split(self.widths, dim=-1)
        u, tail = self.conv(u, carry[0])
        high = torch.promote_types(x.dtype, torch.float32)
        v, k, q = u.to(high).split([self.inner, self.key_dim, self.key_dim], dim=-1)
        delta = softplus(dt.to(high) + self.dt_bias.to(high))  # (B, T, H)
        # One head of q and k serves all heads of v: the pairs q . k are multiplied out once.
        q, k, v = q[:, :, None], k[:, :, None], v.unflatten(-1, (self.heads, -1))
        return Vectors(q=q, k=k, v=v, log_a=-self.log_rate.to(high).exp() * delta, kept=(delta, z)), (
            tail,
            behind,
        )

    def feed(self, z: Vectors) -> Vectors:
        """The step size multiplies the values, of which every head has its own."""
        return dataclasses.replace(z, v=z.kept[0][..., None] * z.v)

    def read(self, o: Tensor, x: Tensor, tokens: Vectors) -> Tensor:
        y = (o + self.skip.to(o.dtype)[:, None] * tokens.v).flatten(-2)
        return self.out(self.norm(y * F.silu(tokens.kept[1].to(y.dtype))).to(x.dtype))

    def recur_flops(self, length: int) -> tuple[int, int]:
        products, rest = super().recur_flops(length)
        chunk = min(SCALAR_CHUNK, length)
        pairs = 2 * chunk * -(-length // chunk) * chunk * self.key_dim
        return products - (self.heads - 1) * pairs, rest


@primitive("mamba3", mixes="time", version=1, paper="arXiv:2603.15569")
class Mamba3(MatrixMemory):
    """S_t = a_t S_{t-1} + (1 - l_t) d_t a_t B_{t-1} x_{t-1}^T + l_t d_t B_t x_t^T,  y_t = S_t^T C_t + D x_t.

    u (B, T, D) -> x, z (B, T, H, V), B, C (B, T, H, N) -> (B, T, D), with H V = expand * D and S N x V. a =
    exp(-d r), with a step d = softplus(w + dt_bias), a rate r = 1 + w, or 1 / (1 - w) for w below 0, and l a
    sigmoid, each of a w of its own per head. B and C come from the token by RMSNorm, and every head adds its
    biases; then their first pairs of channels are rotated by the sum of d_s pi tanh(angle_s) for s <= t. The
    output is gated by silu(z). It needs no channel mixer beside it. Differs from the paper: N = 64 by
    default, a short convolution of x, B and C as an option, the rate of the public code (state-spaces/mamba),
    and one input and one output per head (SISO) only.
    """

    before = True
    undecayed = ("dt_bias", "skip", "key_bias", "query_bias")

    anew = False

    class Config(Mamba2.Config):
        conv: int = taps(0, f"{SILU} x, B and C")
        angles: int | None = option(None, "rotated pairs; none: d_state // 4", per="head", least=0)

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.angles is not None and 2 * self.angles > self.d_state:
                raise ValueError(
                    f"angles={self.angles} rotate more channels than d_state={self.d_state} has; "
                    f"choose at most {self.d_state // 2}"
                )

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.inner = config.expand * dim
        self.dt_bias = nn.Parameter(draw_step_bias(self.heads))
        self.skip = nn.Parameter(torch.ones(self.heads))
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
        self.canon = Canon(sum(self.widths), config.canon)

    carry_kinds = ("conv", "recurrent", "recurrent", "recurrent", "conv")

    def init_carry(self, like: Tensor, batch: int) -> State:
        """The tail of conv, the last B (B, H, N) and x (B, H, V), the angles (B, H, A), canon's tail."""
        high = torch.promote_types(like.dtype, torch.float32)
        widths = (self.key_dim, self.value_dim, self.angles)
        rest = (like.new_zeros(batch, self.heads, width, dtype=high) for width in widths)
        return self.conv.init_tail(like, batch), *rest, self.canon.init_tail(like, batch)

    def recur_flops(self, length: int) -> tuple[int, int]:
        products, rest = super().recur_flops(length)
        return products, rest + 2 * self.heads * self.key_dim * self.value_dim

    def _advance(self, x: Tensor, state: State, ctx: Context | None, recur: Recur) -> tuple[Tensor, State]:
        s, tail, last_k, last_v, turned, behind = state
        mixed, behind = self.canon(self.project(x), behind)
        z, u, dt, rate, trap, angle = mixed.split(self.widths, dim=-1)
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
        o, s = recur(Vectors(q=read, k=written, v=v, log_a=log_a), s)
        own = now * (q * k).sum(-1) + self.skip.to(high)
        y = (o + own[..., None] * v).flatten(-2) * F.silu(z.to(high))
        carry = tail, k[:, -1], v[:, -1], phase[:, -1].remainder(2 * math.pi), behind
        return self.out(y.to(x.dtype)), (s, *carry)


def _turn(x: Tensor, phase: Tensor) -> Tensor:
    """Rotate the first pairs of channels (2i, 2i + 1) of x (B, T, H, N) by phase (B, T, H, A)."""
    turned, rest = x.split([2 * phase.shape[-1], x.shape[-1] - 2 * phase.shape[-1]], dim=-1)
    even, odd = turned.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = phase.cos(), phase.sin()
    pairs = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return torch.cat([pairs.flatten(-2), rest], dim=-1)
