"""Log-linear attention: a matrix state for each level of a Fenwick tree, read with weights of its own."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Trait, Vectors
from architectures.families.options import taps
from architectures.functional.delta import unit
from architectures.functional.fenwick import buckets, fenwick_flops, fenwick_rule, fenwick_step, levels_for
from architectures.functional.steps import draw_rate, draw_step_bias, log_decay, softplus, strength
from architectures.parts.norms import rms_norm
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Options, State, option
from architectures.registry import primitive

UNDECAYED = ("log_rate", "dt_bias", "level_scale", "skip")


class Levels(Trait):
    """The state (S, tail, seen): S (B, H, L, K, V), and the number of tokens, which places them in the tree.

    Shared by both layers, which create `level_scale` (H, L), and whose `write` keeps (weights, seen, ...).
    """

    form: ClassVar[Literal["plain", "tied", "free"]]
    level_scale: nn.Parameter
    conv: ShortConv

    carry_kinds = ("conv", "counter")

    @property
    def levels(self) -> int:
        return levels_for(self.max_len)

    def init_carry(self, like: Tensor, batch: int) -> State:
        return self.conv.init_tail(like, batch), torch.zeros(batch, dtype=torch.long, device=like.device)

    def start(self, batch: int) -> State:
        """Where all rows start together: one tree for the whole batch."""
        s, tail, seen = self.init_state(batch)
        return s, tail, seen[:1]

    def memory_shape(self) -> tuple[int, ...]:
        return self.heads, self.levels, self.key_dim, self.value_dim

    def recur(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        assert z.log_a is not None
        weights, seen, *_ = z.kept
        return fenwick_rule(z.q, z.k, z.v, z.log_a, weights, s, seen, ask=z.y)

    def recur_once(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        assert z.log_a is not None
        weights, seen, *_ = z.kept
        ask = None if z.y is None else z.y[:, 0]
        o, s = fenwick_step(z.q[:, 0], z.k[:, 0], z.v[:, 0], z.log_a[:, 0], weights[:, 0], s, seen, ask=ask)
        return o[:, None], s

    def level_weights(self, z: Tensor) -> Tensor:
        """(B, T, H L) -> (B, T, H, L), positive."""
        high = torch.promote_types(z.dtype, torch.float32)
        return softplus(self.level_scale.to(high) * z.to(high).unflatten(-1, (self.heads, self.levels)))

    def state_flops(self, length: int) -> int:
        # One level is written; those in use are read, corrected where the rule asks them, and merged.
        used, merged = buckets(length)
        each = 2 if self.form == "plain" else 6
        return self.heads * self.key_dim * self.value_dim * (2 * length + each * used + merged)

    def recur_flops(self, length: int) -> tuple[int, int]:
        corrects = self.form == "tied"
        products, rest = fenwick_flops(length, self.key_dim, self.value_dim, self.levels, corrects=corrects)
        return self.heads * products, self.heads * rest


@primitive("log-linear-gated-delta-net", mixes="time", version=1, paper="arXiv:2506.04761")
class LogLinearGatedDeltaNet(Levels, MatrixMemory):
    """S^l_t = a_t (I - b_t k_t k_t^T) S^l_{t-1},  S^0_t += b_t k_t v_t^T,  o_t = sum_l w^l_t (S^l_t)^T q_t.

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V), w (B, T, H, L) -> (B, T, D). Before token t, level l
    holds 2^(l-1) tokens where bit l - 1 of t is set: full buckets merge upwards, level 0 is the token itself.
    All L = ceil(log2(max_len)) + 1 levels are kept from the start, so the state does not grow within
    `max_len`; beyond it the last level takes everything. w^l = softplus(level_scale W x) is a head's weight
    of a level. The rest is `gated-delta-net`. Differs from the paper: K = V = 16 by default, and the number
    of levels follows `max_len`.
    """

    form = "tied"
    undecayed = UNDECAYED

    class Config(MatrixMemory.Config):
        conv: int = taps(4)
        negative_eigenvalues: bool = option(False, "write strength in (0, 2) instead of (0, 1)")

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.add_projection()
        self.add_gate()
        self.dt = nn.Linear(dim, self.heads, bias=False)
        self.dt_bias = nn.Parameter(draw_step_bias(self.heads))
        self.log_rate = nn.Parameter(draw_rate(self.heads, 0, 16).log())
        self.strength = nn.Linear(dim, self.heads, bias=False)
        self.weigh = nn.Linear(dim, self.heads * self.levels, bias=False)
        self.level_scale = nn.Parameter(torch.ones(self.heads, self.levels))
        self.add_output()

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        tail, seen = carry
        (q, k, v), tail = self.vectors(x, tail)
        q, k = unit(q) * self.scale, unit(k)
        b = strength(self.strength(x), doubled=self.config.negative_eigenvalues)[..., None]
        log_a = log_decay(self.dt(x), self.dt_bias, self.log_rate)
        kept = (self.level_weights(self.weigh(x)), seen)
        return Vectors(q=q, k=b * k, v=v, log_a=log_a, y=k, kept=kept), (tail, seen + x.shape[1])


@primitive("log-linear-mamba2", mixes="time", version=1, paper="arXiv:2506.04761")
class LogLinearMamba2(Levels, MatrixMemory):
    """S^l_t = exp(dt_t A) S^l_{t-1},  S^0_t += dt_t B_t u_t^T,  y_t = sum_l w^l_t (S^l_t)^T C_t + d u_t.

    x (B, T, D) -> B, C (B, T, N), u (B, T, H, P), dt (B, T, H), w (B, T, H, L) -> (B, T, D). The levels and
    their weights are those of `log-linear-gated-delta-net`. The rest is Mamba-2: `expand` D channels in heads
    of P = `head_dim`, B and C shared by all heads, a short convolution and silu on (u, B, C), dt = softplus(W
    x + dt_bias), A = -exp(log_rate), which starts at -1..-H, and W RMSNorm(y * silu(z)). Differs from the
    paper: N = P = 16 by default, because every level holds a whole state, and the number of levels follows
    `max_len`.
    """

    undecayed = UNDECAYED

    class Config(Options):
        expand: int = option(2, "inner width as a multiple of the width", least=1)
        head_dim: int = option(16, "P, channels of one head", per="head", least=1)
        d_state: int = option(16, "N, width of B and C", sizes="state", least=1)
        conv: int = taps(4, "the short convolution and silu on u, B and C")

        def sizes(self, dim: int) -> tuple[int, int, int]:
            if self.expand * dim % self.head_dim:
                raise ValueError(
                    f"inner width {self.expand * dim} is not divisible by head_dim {self.head_dim}; choose a "
                    "head_dim that divides expand * dim"
                )
            return self.expand * dim // self.head_dim, self.d_state, self.head_dim

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        inner = config.expand * dim
        self.gates = 3 * inner  # dt u, d u, silu(z)
        self.widths = [inner, inner + 2 * self.key_dim, self.heads, self.heads * self.levels]
        self.project = nn.Linear(dim, sum(self.widths))
        self.conv = ShortConv(inner + 2 * self.key_dim, config.conv)
        self.dt_bias = nn.Parameter(draw_step_bias(self.heads))
        self.log_rate = nn.Parameter(torch.arange(1, self.heads + 1, dtype=torch.get_default_dtype()).log())
        self.level_scale = nn.Parameter(torch.ones(self.heads, self.levels))
        self.skip = nn.Parameter(torch.ones(self.heads))
        self.norm = nn.Parameter(torch.ones(inner))
        self.out = nn.Linear(inner, dim)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        tail, seen = carry
        gate, z, dt, weights = self.project(x).split(self.widths, dim=-1)
        z, tail = self.conv(z, tail)
        high = torch.promote_types(x.dtype, torch.float32)
        u, b, c = z.to(high).split([self.widths[0], self.key_dim, self.key_dim], dim=-1)
        u = u.unflatten(-1, (self.heads, -1))
        b, c = (m[..., None, :].expand(-1, -1, self.heads, -1) for m in (b, c))
        dt = softplus(dt.to(high) + self.dt_bias.to(high))  # (B, T, H)
        kept = (self.level_weights(weights), seen, u, gate)
        tokens = Vectors(q=c, k=b, v=dt[..., None] * u, log_a=-self.log_rate.to(high).exp() * dt, kept=kept)
        return tokens, (tail, seen + x.shape[1])

    def read(self, o: Tensor, x: Tensor, tokens: Vectors) -> Tensor:
        _, _, u, gate = tokens.kept
        y = (o + self.skip.to(o.dtype)[:, None] * u).flatten(-2) * F.silu(gate.to(o.dtype))
        return self.out(rms_norm(y, self.norm, divisor=self.widths[0]).to(x.dtype))
