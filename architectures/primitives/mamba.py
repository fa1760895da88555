"""Mamba (S6): a diagonal state space whose step size, input and output maps depend on the token."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.recurrent import Recurrent
from architectures.functional.scan import selective_scan
from architectures.functional.steps import draw_step_bias
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Options, State, option
from architectures.registry import primitive


@primitive("mamba", mixes="time", version=1, paper="arXiv:2312.00752", known_as="S6; Jamba, Samba")
class Mamba(Recurrent):
    """h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t,  y_t = C_t . h_t + D x_t, gated by silu(z).

    (B, T, D) -> (B, T, D), inner width expand * D; h is (inner, N), one small diagonal system per channel,
    with A = -exp(log_a) fixed in time and delta, B, C computed from the token. x passes a short causal
    convolution and silu first. It needs no channel mixer beside it. Differs from the paper: N = 4 by default,
    the state of the iso-state comparison of arXiv:2403.17844.
    """

    undecayed = ("log_a", "skip", "dt_bias", "conv.weight")

    class Config(Options):
        d_state: int = option(4, "N, state elements per channel", sizes="state", least=1)
        expand: int = option(2, "inner width over the model's width", least=1)
        conv: int = option(4, "taps of the short convolution; 0: silu alone", most=256, least=0)
        dt_rank: int | None = option(None, "rank of the step size; none: D / 16", per="width", least=1)

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.inner = inner = config.expand * dim
        self.rank = rank = config.dt_rank or math.ceil(dim / 16)
        self.project = nn.Linear(dim, 2 * inner, bias=False)
        self.conv = ShortConv(inner, config.conv, bias=True, activation=False)
        self.select = nn.Linear(inner, rank + 2 * config.d_state, bias=False)
        self.dt_weight = nn.Parameter(torch.empty(inner, rank).uniform_(-(rank**-0.5), rank**-0.5))
        self.dt_bias = nn.Parameter(draw_step_bias(inner))
        log_a = torch.arange(1.0, config.d_state + 1).log()[:, None].repeat(1, inner)  # (N, inner)
        self.log_a = nn.Parameter(log_a)
        self.skip = nn.Parameter(torch.ones(inner))
        self.out = nn.Linear(inner, dim, bias=False)

    state_kinds = ("recurrent", "conv")

    def init_state(self, batch: int, length: int | None = None) -> State:
        """h (B, N, inner) and the tail of the short convolution (B, taps - 1, inner)."""
        self.check_length(length)
        weight = self.project.weight
        high = torch.promote_types(weight.dtype, torch.float32)
        h = weight.new_zeros(batch, self.config.d_state, self.inner, dtype=high)
        return h, self.conv.init_tail(weight, batch)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        h, tail = state
        v, z = self.project(x).chunk(2, dim=-1)  # (B, T, inner)
        v, tail = self.conv(v, tail)
        v = F.silu(v)
        n = self.config.d_state
        dt, b, c = self.select(v).split([self.rank, n, n], dim=-1)
        high = torch.promote_types(x.dtype, torch.float32)
        delta = F.softplus(F.linear(dt, self.dt_weight).to(high) + self.dt_bias)  # (B, T, inner)
        rate = -torch.exp(self.log_a.to(high))  # (N, inner)
        y, h = selective_scan(delta, rate, b.to(high), c.to(high), v.to(high), h)
        y = y + self.skip * v
        return self.out((y * F.silu(z)).to(x.dtype)), (h, tail)

    def flops(self, length: int) -> int:
        # In and out projections, the selection, the step size's map, and the reading of the state.
        products = 2 * length * self.inner * (3 * self.dim + 2 * self.rank + 3 * self.config.d_state)
        return products + self.uncounted_flops(length)

    def uncounted_flops(self, length: int) -> int:
        # A cell: delta A, its exponential, B (delta x), multiply-add of the state.
        scan = 5 * length * self.inner * self.config.d_state
        return self.conv.flops(length) + scan + 4 * length * self.inner  # delta x, skip and its sum, gate

    def nominal_state(self, length: int) -> int:
        return self.inner * self.config.d_state
