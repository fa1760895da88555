"""Momentum DeltaNet: a gated delta rule whose corrections gather momentum."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Vectors
from architectures.families.options import taps
from architectures.functional.delta import unit
from architectures.functional.momentum import momentum_flops, momentum_rule, momentum_step
from architectures.functional.steps import draw_rate, draw_step_bias, log_decay, strength
from architectures.parts.norms import rms_norm
from architectures.primitive import Context, State
from architectures.registry import primitive

# The least logarithm of the momentum's decay.
LOG_MOMENTUM_MIN = -2.0


@primitive("momentum-delta-net", mixes="time", version=1, paper="arXiv:2605.05838")
class MomentumDeltaNet(MatrixMemory):
    """S_t = a_t S_{t-1} - b_t M_t, M_t = m_t M_{t-1} - e_t k_t (v_t - a_t S_{t-1}^T k_t)^T, o_t = S_t^T q_t.

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V), a, b, m, e (B, T, H) -> (B, T, D). m_t is a decay like
    that of `gated-delta-net`, of its own, with log m_t at least -2; e_t = 1 + tanh(W x_t / sqrt(D)). Decay
    and strength share a whole: c = 1 / (1 + (e_t exp(share))^2) times the decay of `gated-delta-net` is a_t,
    and 1 - c times a sigmoid is b_t. k and q - d k, with d learned per head, pass a short causal convolution
    and silu and have length 1; q is scaled by 1 / sqrt(K). The output is normalised per head by RMSNorm and
    gated by a sigmoid. The state is S above M, (B, H, 2 K, V). Differs from the paper: heads of 16 channels,
    K = V, where V = 2 K there.

    Hypothesis: ahead of `gated-delta-net` of equal state on noisy recall, where a single correction misleads.
    """

    undecayed = ("log_rate", "dt_bias", "momentum_rate", "momentum_bias", "share", "correction")

    class Config(MatrixMemory.Config):
        conv: int = taps(4)

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.add_projection()
        self.add_gate()
        self.gates += 3 * self.heads * self.key_dim  # d k, its difference from q, e k
        self.dt = nn.Linear(dim, self.heads, bias=False)
        self.dt_bias = nn.Parameter(draw_step_bias(self.heads))
        self.log_rate = nn.Parameter(draw_rate(self.heads, 0, 16).log())
        self.momentum = nn.Linear(dim, self.heads, bias=False)
        self.momentum_bias = nn.Parameter(self.dt_bias.detach().clone())
        self.momentum_rate = nn.Parameter(draw_rate(self.heads, 0, 16).log())
        self.strength = nn.Linear(dim, self.heads, bias=False)
        self.pace = nn.Linear(dim, self.heads, bias=False)
        self.pace_width = dim
        self.share = nn.Parameter(draw_rate(self.heads, 0, 4).log())
        self.correction = nn.Parameter(draw_rate(self.heads, 0, 1).log())
        self.add_output()

    def axes(self) -> None:
        """A wider model would divide by the root of another width."""

    def memory_shape(self) -> tuple[int, ...]:
        return self.heads, 2 * self.key_dim, self.value_dim

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        (q, k, v), tail = self.vectors(x, carry[0])
        high = q.dtype
        q, k = unit(q - self.correction.to(high).exp()[:, None] * k) * self.scale, unit(k)
        pace = 1 + torch.tanh(self.pace(x).to(high) / math.sqrt(self.pace_width))  # (B, T, H)
        odds = (pace * self.share.to(high).exp()).square()
        log_a = log_decay(self.dt(x), self.dt_bias, self.log_rate) - odds.log1p()
        b = odds / (1 + odds) * strength(self.strength(x))
        log_m = log_decay(self.momentum(x), self.momentum_bias, self.momentum_rate)
        kept = log_m.clamp(min=LOG_MOMENTUM_MIN), b
        # The state is asked after it decayed.
        y = log_a.exp()[..., None] * k
        return Vectors(q=q, k=pace[..., None] * k, v=v, log_a=log_a, y=y, kept=kept), (tail,)

    def recur(self, z: Vectors, s: Tensor | None) -> tuple[Tensor, Tensor]:
        assert z.log_a is not None and z.y is not None
        log_m, b = z.kept
        return momentum_rule(z.q, z.k, z.v, z.y, z.log_a, log_m, b, s)

    def recur_once(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        assert z.log_a is not None and z.y is not None
        found = (z.y[:, 0, ..., None] * s[..., : self.key_dim, :]).sum(-2)
        log_m, b = z.kept
        u = z.v[:, 0] - found
        o, s = momentum_step(z.q[:, 0], z.k[:, 0], u, z.log_a[:, 0], log_m[:, 0], b[:, 0], s)
        return o[:, None], s

    def read(self, o: Tensor, x: Tensor, tokens: Vectors) -> Tensor:
        o = rms_norm(o, self.norm, divisor=self.value_dim).flatten(-2).to(x.dtype)
        return self.out(o * torch.sigmoid(self.gate(x)))

    def state_flops(self, length: int) -> int:
        # S is asked and read, M takes the token up, and S takes M up.
        return 8 * length * self.heads * self.key_dim * self.value_dim

    def recur_flops(self, length: int) -> tuple[int, int]:
        products, rest = momentum_flops(length, self.key_dim, self.value_dim, anew=True)
        return self.heads * products, self.heads * rest
