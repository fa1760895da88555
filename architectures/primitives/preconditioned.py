"""Delta rules that write with a preconditioned key: channels that were used much are written less."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from architectures.families.channel_maps import ChannelMaps, check_gate, decay_gate
from architectures.families.matrix_memory import MatrixMemory, Trait, Vectors
from architectures.families.options import taps
from architectures.functional.delta import SCALAR_CHUNK, delta_flops, delta_rule, unit
from architectures.functional.steps import draw_rate, draw_step_bias, log_decay, strength
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, State, option
from architectures.registry import primitive

# Where the centre of the preconditioner starts, and what keeps its logarithm finite.
CENTRE = -0.2
FLOOR = 1e-6
UNDECAYED = ("log_rate", "dt_bias", "curvature_rate", "curvature_bias", "centre")


def squash_option() -> Any:
    """The option `squash`. Beyond 2 a transition may expand, since b_t k_t . u_t is at most `squash`."""
    doc = "x, the most by which a channel of the key is scaled, up or down; 1: not at all"
    return option(1.5, doc, least=1)


def check_squash(squash: float) -> None:
    if squash > 2:
        raise ValueError(f"squash={squash} lets the state grow; choose at most 2")


class Preconditioner(Trait):
    """c_t (H, K), the carried squares of the keys, and the key u_t that is written instead of k_t.

    c_t = e_t c_{t-1} + s_t k_t^2 with a decay e_t and a strength s_t per head,
    r_t = log(c_t + 1e-6) - centre,  u_t = k_t x^(-r_t / (1 + |r_t|)).
    """

    conv: ShortConv
    gates: int
    carry_kinds = ("conv", "recurrent")

    def add_preconditioner(self, low: float) -> None:
        """`low`: the least rate of the decay e_t as it starts."""
        self.gates = self.gates + 4 * self.heads * self.key_dim  # s k^2, and the product with the key
        self.curvature_dt = nn.Linear(self.dim, self.heads, bias=False)
        self.curvature_strength = nn.Linear(self.dim, self.heads, bias=False)
        self.curvature_rate = nn.Parameter(draw_rate(self.heads, low, 16).log())
        self.curvature_bias = nn.Parameter(draw_step_bias(self.heads))
        self.centre = nn.Parameter(torch.full((self.heads,), CENTRE))

    def init_carry(self, like: Tensor, batch: int) -> State:
        """The tail of the short convolution and c (B, H, 1, K)."""
        high = torch.promote_types(like.dtype, torch.float32)
        return self.conv.init_tail(like, batch), like.new_zeros(
            batch, self.heads, 1, self.key_dim, dtype=high
        )

    def precondition(self, k: Tensor, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """u_t for k (B, T, H, K), x (B, T, D) and c before them, and c after them."""
        log_e = log_decay(self.curvature_dt(x), self.curvature_bias, self.curvature_rate)
        added = strength(self.curvature_strength(x))[..., None] * k.square()
        one = torch.ones_like(k[..., :1])
        c, after = delta_rule(one, one, added, log_e, before)
        r = (c + FLOOR).log() - self.centre.to(c.dtype)[:, None]
        return k * (-math.log(self.config.squash) * r / (1 + r.abs())).exp(), after

    def state_flops(self, length: int) -> int:
        return cast(Any, super()).state_flops(length) + 2 * length * self.heads * self.key_dim

    def recur_flops(self, length: int) -> tuple[int, int]:
        products, rest = cast(Any, super()).recur_flops(length)
        more, others = delta_flops(length, 1, self.key_dim, chunk=SCALAR_CHUNK, form="plain")
        return products + self.heads * more, rest + self.heads * others


@primitive("precond-gdn", mixes="time", version=1, paper="arXiv:2604.21100", known_as="PGDN")
class PrecondGDN(Preconditioner, MatrixMemory):
    """S_t = a_t (I - b_t u_t k_t^T) S_{t-1} + b_t u_t v_t^T,  o_t = S_t^T q_t / sqrt(K),  u_t = k_t * m_t.

    x (B, T, D) -> q, k, u, m (B, T, H, K), v (B, T, H, V) -> (B, T, D). `gated-delta-net` that writes with
    u_t and asks with k_t. m_t in [1 / squash, squash] falls with c_t = e_t c_{t-1} + s_t k_t^2, the decayed
    sum of the squares of each channel of the keys: m_t = squash^(-r / (1 + |r|)), r = log c_t - centre. e_t
    and s_t are a decay and a sigmoid per head of their own, centre a number per head that starts at -0.2.
    c_t is state, H K more elements. Differs from the paper: K = V = 16 by default; no doubled write strength,
    which lets a state grow together with m_t above 1.

    Hypothesis: ahead of `gated-delta-net` where a state holds many pairs, and equal to it where it holds few.
    """

    form = "tied"
    undecayed = UNDECAYED

    class Config(MatrixMemory.Config):
        conv: int = taps(4)
        squash: float = squash_option()

        def __post_init__(self) -> None:
            super().__post_init__()
            check_squash(self.squash)

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.add_projection()
        self.add_gate()
        self.dt = nn.Linear(dim, self.heads, bias=False)
        self.dt_bias = nn.Parameter(draw_step_bias(self.heads))
        self.log_rate = nn.Parameter(draw_rate(self.heads, 0, 16).log())
        self.strength = nn.Linear(dim, self.heads, bias=False)
        self.add_preconditioner(0)
        self.add_output()

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        (q, k, v), tail = self.vectors(x, carry[0])
        q, k = unit(q) * self.scale, unit(k)
        u, c = self.precondition(k, x, carry[1])
        b = strength(self.strength(x))[..., None]
        log_a = log_decay(self.dt(x), self.dt_bias, self.log_rate)  # (B, T, H)
        # The state is asked after it decayed.
        return Vectors(q=q, k=b * u, v=v, log_a=log_a, y=log_a.exp()[..., None] * k), (tail, c)


@primitive("precond-kda", mixes="time", version=1, paper="arXiv:2604.21100")
class PrecondKDA(Preconditioner, ChannelMaps, MatrixMemory):
    """S_t = (I - b_t u_t k_t^T) diag(a_t) S_{t-1} + b_t u_t v_t^T,  u_t = k_t * m_t,  o_t = S_t^T q_t.

    x (B, T, D) -> q, k, a, u, m (B, T, H, K), v (B, T, H, V) -> (B, T, D). `kda` that writes with u_t and
    asks with k_t; m_t and its state c_t are those of `precond-gdn`, and q is scaled by 1 / sqrt(K). Differs
    from the paper: heads of 16 channels by default, the bound at -5 on the softplus gate, and no doubled
    write strength.

    Hypothesis: ahead of `kda` where a state holds many pairs, and equal to it where it holds few.
    """

    form = "tied"
    decay = "vector"
    undecayed = UNDECAYED

    class Config(MatrixMemory.Config):
        conv: int = taps(4)
        gate: str = decay_gate()
        squash: float = squash_option()

        def __post_init__(self) -> None:
            super().__post_init__()
            check_gate(self.gate)
            check_squash(self.squash)

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.gates = self.heads * self.value_dim
        self.add_projection()
        self.add_maps()
        self.strength = nn.Linear(dim, self.heads, bias=False)
        self.add_preconditioner(1)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        (q, k, v), tail = self.vectors(x, carry[0])
        q, k, log_a = unit(q) * self.scale, unit(k), self.log_decay(x)
        u, c = self.precondition(k, x, carry[1])
        b = strength(self.strength(x))[..., None]
        # The state is asked after it decayed.
        return Vectors(q=q, k=b * u, v=v, log_a=log_a, y=log_a.exp() * k), (tail, c)
