"""Gated DeltaNet: the delta rule with a forgetting factor a head."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.functional.delta import SCALAR_CHUNK, delta_flops, delta_rule, delta_step, unit
from architectures.functional.norms import rms_norm
from architectures.functional.short_conv import next_tail, short_conv
from architectures.primitive import Context, Hint, Primitive, State, divisors, option
from architectures.registry import primitive


@primitive("gated-delta-net", mixes="time", version=1, paper="arXiv:2412.06464")
class GatedDeltaNet(Primitive):
    """S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K).

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). q, k and v pass a short causal convolution
    and silu; q and k have length 1. A head has one strength b_t in (0, 1), a sigmoid, and one decay,
    log a_t = -exp(log_rate) softplus(W x_t + dt_bias). The output is normalised a head by RMSNorm and gated
    by silu(g). `negative_eigenvalues` doubles b_t (arXiv:2411.12537). Differs from the paper: K = V = 16 by
    default; there V = 2 K, with far wider heads.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        heads: int | None = option(
            None, "number of heads; none: one for each 16 channels of the width", scales="width"
        )
        conv: int = option(4, "taps of the short convolution of q, k and v; 0: none")
        negative_eigenvalues: bool = option(False, "write strength in (0, 2) instead of (0, 1)")

        def __post_init__(self) -> None:
            if self.heads is not None and self.heads < 1:
                raise ValueError(f"heads={self.heads} must be at least 1")
            if self.conv < 0:
                raise ValueError(f"conv={self.conv} must be at least 0")

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.heads = dim // 16 if config.heads is None else config.heads
        if self.heads < 1 or dim % self.heads:
            raise ValueError(
                f"dim {dim} is not divisible by heads {self.heads}; "
                f"choose heads from {', '.join(map(str, divisors(dim)))}"
            )
        self.width = dim // self.heads
        self.scale = self.width**-0.5
        self.project = nn.Linear(dim, 3 * dim, bias=False)
        if config.conv:
            bound = config.conv**-0.5
            self.conv_weight = nn.Parameter(torch.empty(3 * dim, config.conv).uniform_(-bound, bound))
        self.gate = nn.Linear(dim, dim, bias=False)
        self.dt = nn.Linear(dim, self.heads, bias=False)
        # Step sizes start log-uniform in [1e-3, 1e-1]; the bias is their inverse softplus. Rates reach 16.
        dt = torch.exp(torch.empty(self.heads).uniform_(math.log(1e-3), math.log(1e-1))).clamp(min=1e-4)
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.log_rate = nn.Parameter(torch.empty(self.heads).uniform_(0, 16).clamp(min=1e-4).log())
        self.strength = nn.Linear(dim, self.heads, bias=False)
        self.norm = nn.Parameter(torch.ones(self.width))
        self.out = nn.Linear(dim, dim, bias=False)

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return ("recurrent", "conv") if self.config.conv else ("recurrent",)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        q, k, v, log_a, y, _ = self._inputs(x, ())
        o, _ = delta_rule(q, k, v, log_a, y=y)
        return self._read(o, x)

    def init_state(self, batch: int, length: int | None = None) -> State:
        """S (B, H, K, V) and, with a convolution, its tail (B, taps - 1, 3 D)."""
        self.check_length(length)
        weight = self.project.weight
        high = torch.promote_types(weight.dtype, torch.float32)
        s = weight.new_zeros(batch, self.heads, self.width, self.width, dtype=high)
        if not self.config.conv:
            return (s,)
        return s, weight.new_zeros(batch, self.config.conv - 1, 3 * self.dim)

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        q, k, v, log_a, y, tail = self._inputs(x[:, None], state[1:])
        o, s = delta_step(q[:, 0], k[:, 0], v[:, 0], log_a[:, 0], state[0], y=y[:, 0])
        return self._read(o, x), (s, *tail)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        q, k, v, log_a, y, tail = self._inputs(x, state[1:])
        o, s = delta_rule(q, k, v, log_a, state[0], y=y)
        return self._read(o, x), (s, *tail)

    def flops(self, length: int) -> int:
        # A cell of the state: asked by k, corrected and written as one, read by q. Its decay can be folded
        # into the vectors, as `forward` does, and is not counted.
        state = 6 * length * self.heads * self.width**2
        return self._projections(length) + state + self._elementwise(length)

    def executed(self, length: int) -> int:
        products, rest = self._core(length)
        return self._projections(length) + products + rest + self._elementwise(length)

    def unseen(self, length: int) -> int:
        return self._core(length)[1] + self._elementwise(length)

    def hints(self) -> dict[str, Hint]:
        names = ("log_rate", "dt_bias", "conv_weight") if self.config.conv else ("log_rate", "dt_bias")
        return {name: Hint(decay=False) for name in names}

    def _projections(self, length: int) -> int:
        return 2 * length * self.dim * (5 * self.dim + 2 * self.heads)

    def _elementwise(self, length: int) -> int:
        return (2 * self.config.conv * 3 + 1) * length * self.dim  # convolution and output gate

    def _core(self, length: int) -> tuple[int, int]:
        products, rest = delta_flops(length, self.width, self.width, chunk=SCALAR_CHUNK, form="tied")
        return self.heads * products, self.heads * rest

    def _inputs(self, x: Tensor, tail: State) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, State]:
        """q, the key times its strength, v, log a, the key that asks, and the convolution's next tail."""
        z = u = self.project(x)
        if self.config.conv:
            z = F.silu(short_conv(u, self.conv_weight, tail=tail[0] if tail else None))
        high = torch.promote_types(x.dtype, torch.float32)
        q, k, v = z.to(high).unflatten(-1, (3, self.heads, self.width)).unbind(-3)
        q, k = unit(q) * self.scale, unit(k)
        strength = self.strength(x).to(high).sigmoid()[..., None]
        if self.config.negative_eigenvalues:
            strength = 2 * strength
        rate = torch.exp(self.log_rate.to(high))
        # softplus(z) = -logsigmoid(-z); the compiled gradient of F.softplus assumes strides (torch 2.13).
        log_a = rate * F.logsigmoid(-(self.dt(x).to(high) + self.dt_bias.to(high)))  # (B, T, H)
        # The state is asked after it decayed.
        return q, strength * k, v, log_a, log_a.exp()[..., None] * k, tuple(next_tail(u, t) for t in tail)

    def _read(self, o: Tensor, x: Tensor) -> Tensor:
        o = rms_norm(o, self.norm, divisor=self.width).flatten(-2).to(x.dtype)
        return self.out(o * F.silu(self.gate(x)))
