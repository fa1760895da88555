"""What the delta rules with a decay a key channel share: their projections, their decay and their output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Tokens
from architectures.functional.delta import LOG_DECAY_MIN, unit
from architectures.functional.norms import rms_norm
from architectures.functional.steps import draw_rate, draw_step_bias, softplus
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Hint, State, option

GATES = ("softplus", "bounded")


class ChannelMemory(MatrixMemory):
    """S_t = (I - k_t c_t^T) diag(a_t) S_{t-1} + w_t u_t^T, where a subclass chooses c, w and u in `correct`.

    q, k and v pass a short convolution and silu, q and k have length 1. The decay of a key channel comes from
    a map of rank V through one of two gates, the output is gated by a sigmoid of rank V.
    """

    form = "tied"
    decay = "vector"

    @dataclass(frozen=True, kw_only=True)
    class Config(MatrixMemory.Config):
        conv: int = option(4, "taps of a short convolution and silu on q, k and v; 0: none", most=256)
        gate: str = option(
            "softplus",
            "log a: softplus: -exp(log_rate) softplus(z), at least -5; bounded: -5 sigmoid(exp(log_rate) z)",
        )
        negative_eigenvalues: bool = option(False, "erase with strength in (0, 2) instead of (0, 1)")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.gate not in GATES:
                raise ValueError(f"gate={self.gate!r} is not one of {', '.join(GATES)}; choose one of them")

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        keys, values = self.heads * self.key_dim, self.heads * self.value_dim
        self.widths = [keys, keys, values]
        self.gates = values
        self.project = nn.Linear(dim, sum(self.widths), bias=False)
        self.conv = ShortConv(sum(self.widths), config.conv)
        self.decay_in = nn.Linear(dim, self.value_dim, bias=False)
        self.decay_out = nn.Linear(self.value_dim, keys, bias=False)
        self.dt_bias = nn.Parameter(draw_step_bias(keys))
        bounded = config.gate == "bounded"
        self.log_rate = nn.Parameter(
            torch.zeros(self.heads) if bounded else draw_rate(self.heads, 1, 16).log()
        )
        self.gate_in = nn.Linear(dim, self.value_dim, bias=False)
        self.gate_out = nn.Linear(self.value_dim, values)
        self.norm = nn.Parameter(torch.ones(self.value_dim))
        self.out = nn.Linear(values, dim, bias=False)

    def correct(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, log_a: Tensor) -> Tokens:
        """The recurrence's vectors from x (B, T, D), k (B, T, H, K) of length 1, v and log_a (B, T, H, K)."""
        raise NotImplementedError(f"{type(self).__name__} defines no correct")

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Tokens, State]:
        z, tail = self.conv(self.project(x), carry[0])
        high = torch.promote_types(x.dtype, torch.float32)
        q, k, v = (u.unflatten(-1, (self.heads, -1)) for u in z.to(high).split(self.widths, dim=-1))
        return self.correct(x, unit(q) * self.scale, unit(k), v, self.log_decay(x)), (tail,)

    def log_decay(self, x: Tensor) -> Tensor:
        """log a (B, T, H, K) in [-5, 0], at least float32."""
        high = torch.promote_types(x.dtype, torch.float32)
        logit = self.decay_out(self.decay_in(x)).to(high) + self.dt_bias.to(high)
        logit, rate = logit.unflatten(-1, (self.heads, -1)), self.log_rate.to(high).exp()[:, None]
        if self.config.gate == "bounded":
            return LOG_DECAY_MIN * torch.sigmoid(rate * logit)
        return (-rate * softplus(logit)).clamp(min=LOG_DECAY_MIN)

    def sigmoid(self, z: Tensor, *, doubled: bool = False) -> Tensor:
        """Gates in (0, 1), or (0, 2) where `doubled`, at least float32."""
        gate = torch.sigmoid(z.to(torch.promote_types(z.dtype, torch.float32)))
        return 2 * gate if doubled else gate

    def read(self, o: Tensor, x: Tensor, tokens: Tokens) -> Tensor:
        o = rms_norm(o, self.norm, divisor=self.value_dim).flatten(-2).to(x.dtype)
        return self.out(o * torch.sigmoid(self.gate_out(self.gate_in(x))))

    def hints(self) -> dict[str, Hint]:
        return super().hints() | {name: Hint(decay=False) for name in ("log_rate", "dt_bias")}
