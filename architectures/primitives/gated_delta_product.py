"""Gated DeltaProduct: several delta-rule steps a token, so that a transition is a product of reflections."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Tokens
from architectures.functional.delta import SCALAR_CHUNK, delta_flops, delta_rule, delta_step, unit
from architectures.functional.norms import rms_norm
from architectures.functional.steps import draw_rate, draw_step_bias, softplus
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Hint, State, at_least, option
from architectures.registry import primitive


@primitive("gated-delta-product", mixes="time", version=1, paper="arXiv:2502.10297")
class GatedDeltaProduct(MatrixMemory):
    """S_t = G_n(...G_1(a_t S_{t-1})),  G_j(S) = (I - b_j k_j k_j^T) S + b_j k_j v_j^T,  o_t = S_t^T q_t.

    x (B, T, D) -> q (B, T, H, K), k (B, T, n, H, K), v (B, T, n, H, V) -> (B, T, D), with n = `substeps`. A
    token makes n steps of the delta rule, each with a key, a value and a strength b_j of its own, and is read
    after the last; the state decays once a token, before the first, with log a_t = -exp(log_rate)
    softplus(W x_t + dt_bias). q, k and v pass a short causal convolution and silu; q and k have length 1. The
    output is normalised a head by RMSNorm and gated by silu(g). b_j is in (0, 2), or (0, 1) without
    `negative_eigenvalues`; q is scaled by 1 / sqrt(K). Differs from the paper: K = V = 16 by default.
    """

    form = "tied"

    @dataclass(frozen=True, kw_only=True)
    class Config(MatrixMemory.Config):
        conv: int = option(4, "taps of a short convolution and silu on q, k and v; 0: none", most=256)
        substeps: int = option(2, "steps of the delta rule a token", most=64)
        negative_eigenvalues: bool = option(True, "write strength in (0, 2) instead of (0, 1)")
        forget: bool = option(True, "a decay a head before the first step of a token")

        def __post_init__(self) -> None:
            super().__post_init__()
            at_least(self, substeps=1)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.substeps = config.substeps
        keys, values = self.heads * self.key_dim, self.heads * self.value_dim
        self.widths = [keys, self.substeps * keys, self.substeps * values]
        self.gates = values
        self.project = nn.Linear(dim, sum(self.widths), bias=False)
        self.conv = ShortConv(sum(self.widths), config.conv)
        self.gate = nn.Linear(dim, values, bias=False)
        if config.forget:
            self.dt = nn.Linear(dim, self.heads, bias=False)
            self.dt_bias = nn.Parameter(draw_step_bias(self.heads))
            self.log_rate = nn.Parameter(draw_rate(self.heads, 0, 16).log())
        self.strength = nn.Linear(dim, self.substeps * self.heads, bias=False)
        self.norm = nn.Parameter(torch.ones(self.value_dim))
        self.out = nn.Linear(values, dim, bias=False)

    @property
    def value_widths(self) -> tuple[int, ...]:
        return (self.substeps * self.heads * self.value_dim,)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Tokens, State]:
        z, tail = self.conv(self.project(x), carry[0])
        high = torch.promote_types(x.dtype, torch.float32)
        q, k, v = z.to(high).split(self.widths, dim=-1)
        q = unit(q.unflatten(-1, (self.heads, -1))) * self.scale
        k = unit(k.unflatten(-1, (self.substeps, self.heads, -1)))  # (B, T, n, H, K)
        v = v.unflatten(-1, (self.substeps, self.heads, -1))
        strength = self.strength(x).to(high).sigmoid().unflatten(-1, (self.substeps, self.heads))[..., None]
        if self.config.negative_eigenvalues:
            strength = 2 * strength
        log_a, y = None, k
        if self.config.forget:
            log_a = -self.log_rate.to(high).exp() * softplus(self.dt(x).to(high) + self.dt_bias.to(high))
            log_a = F.pad(log_a[:, :, None], (0, 0, 0, self.substeps - 1))  # (B, T, n, H): 0 after the first
            y = log_a.exp()[..., None] * k  # a step asks the state after it decayed
        return Tokens(q=q, k=strength * k, v=v, log_a=log_a, y=y), (tail,)

    def recur(self, z: Tokens, s: Tensor) -> tuple[Tensor, Tensor]:
        """The steps as T n tokens of the delta rule, of which only the last of each n is read."""
        assert z.y is not None
        q = F.pad(z.q[:, :, None], (0, 0, 0, 0, self.substeps - 1, 0))
        log_a = None if z.log_a is None else z.log_a.flatten(1, 2)
        q, k, v, y = (u.flatten(1, 2) for u in (q, z.k, z.v, z.y))
        o, s = delta_rule(q, k, v, log_a, s, y=y)
        return o[:, self.substeps - 1 :: self.substeps], s

    def recur_once(self, z: Tokens, s: Tensor) -> tuple[Tensor, Tensor]:
        assert z.y is not None
        o = z.q
        for j in range(self.substeps):
            log_a = None if z.log_a is None else z.log_a[:, 0, j]
            o, s = delta_step(z.q[:, 0], z.k[:, 0, j], z.v[:, 0, j], log_a, s, y=z.y[:, 0, j])
        return o[:, None], s

    def read(self, o: Tensor, x: Tensor, tokens: Tokens) -> Tensor:
        o = rms_norm(o, self.norm, divisor=self.value_dim).flatten(-2).to(x.dtype)
        return self.out(o * F.silu(self.gate(x)))

    def flops(self, length: int) -> int:
        # A cell and step is asked and written; a cell and token is read.
        cells = length * self.heads * self.key_dim * self.value_dim
        return self.products(length) + (4 * self.substeps + 2) * cells + self.elementwise(length)

    def recur_flops(self, length: int) -> tuple[int, int]:
        steps = length * self.substeps
        products, rest = delta_flops(steps, self.key_dim, self.value_dim, chunk=SCALAR_CHUNK, form=self.form)
        return self.heads * products, self.heads * rest

    def hints(self) -> dict[str, Hint]:
        rates = ("log_rate", "dt_bias") if self.config.forget else ()
        return super().hints() | {name: Hint(decay=False) for name in rates}
