"""Gated DeltaNet: the delta rule with a forgetting factor a head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Tokens
from architectures.functional.delta import unit
from architectures.functional.norms import rms_norm
from architectures.functional.steps import draw_rate, draw_step_bias, softplus
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Hint, State, option
from architectures.registry import primitive


@primitive("gated-delta-net", mixes="time", version=1, paper="arXiv:2412.06464")
class GatedDeltaNet(MatrixMemory):
    """S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K).

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). q, k and v pass a short causal convolution
    and silu; q and k have length 1. A head has one strength b_t in (0, 1), a sigmoid, and one decay,
    log a_t = -exp(log_rate) softplus(W x_t + dt_bias). The output is normalised a head by RMSNorm and gated
    by silu(g). `negative_eigenvalues` doubles b_t (arXiv:2411.12537). Differs from the paper: K = V = 16 by
    default; there V = 2 K, with far wider heads.
    """

    form = "tied"

    @dataclass(frozen=True, kw_only=True)
    class Config(MatrixMemory.Config):
        conv: int = option(4, "taps of a short convolution and silu on q, k and v; 0: none", most=256)
        negative_eigenvalues: bool = option(False, "write strength in (0, 2) instead of (0, 1)")

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.widths = [self.heads * w for w in (self.key_dim, self.key_dim, self.value_dim)]
        self.gates = self.heads * self.value_dim
        self.project = nn.Linear(dim, sum(self.widths), bias=False)
        self.conv = ShortConv(sum(self.widths), config.conv)
        self.gate = nn.Linear(dim, self.heads * self.value_dim, bias=False)
        self.dt = nn.Linear(dim, self.heads, bias=False)
        self.dt_bias = nn.Parameter(draw_step_bias(self.heads))
        self.log_rate = nn.Parameter(draw_rate(self.heads, 0, 16).log())
        self.strength = nn.Linear(dim, self.heads, bias=False)
        self.norm = nn.Parameter(torch.ones(self.value_dim))
        self.out = nn.Linear(self.heads * self.value_dim, dim, bias=False)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Tokens, State]:
        z, tail = self.conv(self.project(x), carry[0])
        high = torch.promote_types(x.dtype, torch.float32)
        q, k, v = (u.unflatten(-1, (self.heads, -1)) for u in z.to(high).split(self.widths, dim=-1))
        q, k = unit(q) * self.scale, unit(k)
        strength = self.strength(x).to(high).sigmoid()[..., None]
        if self.config.negative_eigenvalues:
            strength = 2 * strength
        log_a = -self.log_rate.to(high).exp() * softplus(
            self.dt(x).to(high) + self.dt_bias.to(high)
        )  # (B, T, H)
        # The state is asked after it decayed.
        return Tokens(q=q, k=strength * k, v=v, log_a=log_a, y=log_a.exp()[..., None] * k), (tail,)

    def read(self, o: Tensor, x: Tensor, tokens: Tokens) -> Tensor:
        o = rms_norm(o, self.norm, divisor=self.value_dim).flatten(-2).to(x.dtype)
        return self.out(o * F.silu(self.gate(x)))

    def hints(self) -> dict[str, Hint]:
        return super().hints() | {name: Hint(decay=False) for name in ("log_rate", "dt_bias")}
