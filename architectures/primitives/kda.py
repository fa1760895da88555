"""Delta rules with a forgetting factor per key channel: Kimi delta attention and Gated DeltaNet 2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Trait, Vectors
from architectures.families.options import taps
from architectures.functional.delta import LOG_DECAY_MIN, unit
from architectures.functional.steps import draw_rate, draw_step_bias, softplus, strength
from architectures.parts.norms import rms_norm
from architectures.primitive import Context, State, option
from architectures.registry import primitive

GATES = ("softplus", "bounded")


class ChannelMaps(Trait):
    """The maps of both layers: log a of rank V, one per key channel, and an output gate of rank V."""

    def add_maps(self) -> None:
        keys, values = self.heads * self.key_dim, self.heads * self.value_dim
        self.decay_in = nn.Linear(self.dim, self.value_dim, bias=False)
        self.decay_out = nn.Linear(self.value_dim, keys, bias=False)
        self.dt_bias = nn.Parameter(draw_step_bias(keys))
        bounded = self.config.gate == "bounded"
        rate = torch.zeros(self.heads) if bounded else draw_rate(self.heads, 1, 16).log()
        self.log_rate = nn.Parameter(rate)
        self.gate_in = nn.Linear(self.dim, self.value_dim, bias=False)
        self.gate_out = nn.Linear(self.value_dim, values)
        self.norm = nn.Parameter(torch.ones(self.value_dim))
        self.out = nn.Linear(values, self.dim, bias=False)

    def log_decay(self, x: Tensor) -> Tensor:
        """log a (B, T, H, K) in [-5, 0], at least float32."""
        high = torch.promote_types(x.dtype, torch.float32)
        logit = self.decay_out(self.decay_in(x)).to(high) + self.dt_bias.to(high)
        logit, rate = logit.unflatten(-1, (self.heads, -1)), self.log_rate.to(high).exp()[:, None]
        if self.config.gate == "bounded":
            return LOG_DECAY_MIN * torch.sigmoid(rate * logit)
        return (-rate * softplus(logit)).clamp(min=LOG_DECAY_MIN)

    def read(self, o: Tensor, x: Tensor, tokens: Vectors) -> Tensor:
        o = rms_norm(o, self.norm, divisor=self.value_dim).flatten(-2).to(x.dtype)
        return self.out(o * torch.sigmoid(self.gate_out(self.gate_in(x))))


@primitive("kda", mixes="time", version=1, paper="arXiv:2510.26692", known_as="Kimi Linear")
class KDA(ChannelMaps, MatrixMemory):
    """S_t = (I - b_t k_t k_t^T) diag(a_t) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K).

    x (B, T, D) -> q, k, a (B, T, H, K), v (B, T, H, V) -> (B, T, D). As `gated-delta-net`, but for the decay
    and the gate of the output, a sigmoid, which are maps of rank V. `gate` makes the logit, plus dt_bias, log
    a, one per key channel: softplus, kept above -5 in both forms of the layer, or bounded. Differs from the
    paper: heads of 16 channels by default, and the bound at -5 on the softplus gate.
    """

    form = "tied"
    decay = "vector"
    undecayed = ("log_rate", "dt_bias")

    class Config(MatrixMemory.Config):
        conv: int = taps(4)
        gate: str = option(
            "softplus",
            "log a: softplus: -exp(log_rate) softplus(z), at least -5; bounded: -5 sigmoid(exp(log_rate) z)",
        )
        negative_eigenvalues: bool = option(False, "erase with strength in (0, 2) instead of (0, 1)")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.gate not in GATES:
                raise ValueError(f"gate={self.gate!r} is not one of {', '.join(GATES)}; choose one of them")

    config: Config

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.gates = self.heads * self.value_dim
        self.add_projection()
        self.add_maps()
        self.strength = nn.Linear(dim, self.heads, bias=False)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        (q, k, v), tail = self.vectors(x, carry[0])
        q, k, log_a = unit(q) * self.scale, unit(k), self.log_decay(x)
        b = strength(self.strength(x), doubled=self.config.negative_eigenvalues)[..., None]
        # The state is asked after it decayed.
        return Vectors(q=q, k=b * k, v=v, log_a=log_a, y=log_a.exp() * k), (tail,)


@primitive("gdn2", mixes="time", version=1, paper="arXiv:2605.22791")
class GDN2(ChannelMaps, MatrixMemory):
    """S_t = (I - k_t (b_t * k_t)^T) diag(a_t) S_{t-1} + k_t (w_t * v_t)^T,  o_t = S_t^T q_t / sqrt(K).

    x (B, T, D) -> q, k, a, b (B, T, H, K), v, w (B, T, H, V) -> (B, T, D). The gates b (erase) and w (write)
    are sigmoids, one per channel; the rest is as in `kda`. `negative_eigenvalues` doubles b alone. Differs
    from the paper: heads of 16 channels by default, and the bound at -5 on the softplus gate.
    """

    form = "tied"
    decay = "vector"
    undecayed = ("log_rate", "dt_bias")

    class Config(KDA.Config):
        pass

    config: Config

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.gates = self.heads * (self.key_dim + 2 * self.value_dim)
        self.add_projection()
        self.add_maps()
        self.erase = nn.Linear(dim, self.heads * self.key_dim, bias=False)
        self.admit = nn.Linear(dim, self.heads * self.value_dim, bias=False)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        (q, k, v), tail = self.vectors(x, carry[0])
        q, k, log_a = unit(q) * self.scale, unit(k), self.log_decay(x)
        erase = strength(self.erase(x), doubled=self.config.negative_eigenvalues).view_as(k)
        admit = strength(self.admit(x)).view_as(v)
        # The state is asked after it decayed.
        return Vectors(q=q, k=k, v=admit * v, log_a=log_a, y=log_a.exp() * erase * k), (tail,)
