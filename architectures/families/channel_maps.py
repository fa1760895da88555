"""Decays per channel and output gates by maps of low rank: what `kda` and its relatives share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from architectures.families.matrix_memory import Trait, Vectors
from architectures.functional.delta import LOG_DECAY_MIN
from architectures.functional.steps import draw_rate, draw_step_bias, softplus
from architectures.parts.norms import rms_norm
from architectures.primitive import option

GATES = ("softplus", "bounded")


def decay_gate() -> Any:
    """The option `gate`."""
    doc = "log a: softplus: -exp(log_rate) softplus(z), at least -5; bounded: -5 sigmoid(exp(log_rate) z)"
    return option("softplus", doc)


def check_gate(gate: str) -> None:
    if gate not in GATES:
        raise ValueError(f"gate={gate!r} is not one of {', '.join(GATES)}; choose one of them")


class ChannelMaps(Trait):
    """log a of rank V, one per key channel unless stated, and an output gate of rank V."""

    def add_maps(self, width: int | None = None) -> None:
        """`width`: the channels of a head that decay, by default those of its key."""
        decays, values = self.heads * (width or self.key_dim), self.heads * self.value_dim
        self.decay_in = nn.Linear(self.dim, self.value_dim, bias=False)
        self.decay_out = nn.Linear(self.value_dim, decays, bias=False)
        self.dt_bias = nn.Parameter(draw_step_bias(decays))
        bounded = self.config.gate == "bounded"
        rate = torch.zeros(self.heads) if bounded else draw_rate(self.heads, 1, 16).log()
        self.log_rate = nn.Parameter(rate)
        self.gate_in = nn.Linear(self.dim, self.value_dim, bias=False)
        self.gate_out = nn.Linear(self.value_dim, values)
        self.norm = nn.Parameter(torch.ones(self.value_dim))
        self.out = nn.Linear(values, self.dim, bias=False)

    def log_decay(self, x: Tensor) -> Tensor:
        """log a (B, T, H, .) in [-5, 0], at least float32."""
        high = torch.promote_types(x.dtype, torch.float32)
        logit = self.decay_out(self.decay_in(x)).to(high) + self.dt_bias.to(high)
        logit, rate = logit.unflatten(-1, (self.heads, -1)), self.log_rate.to(high).exp()[:, None]
        if self.config.gate == "bounded":
            return LOG_DECAY_MIN * torch.sigmoid(rate * logit)
        return (-rate * softplus(logit)).clamp(min=LOG_DECAY_MIN)

    def read(self, o: Tensor, x: Tensor, tokens: Vectors) -> Tensor:
        o = rms_norm(o, self.norm, divisor=self.value_dim).flatten(-2).to(x.dtype)
        return self.out(o * torch.sigmoid(self.gate_out(self.gate_in(x))))
