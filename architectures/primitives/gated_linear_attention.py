"""Gated linear attention: linear attention with a forgetting factor a key channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.functional.delta import LOG_DECAY_MIN, VECTOR_CHUNK, delta_flops, delta_rule, delta_step
from architectures.functional.norms import rms_norm
from architectures.functional.short_conv import next_tail, short_conv
from architectures.primitive import Context, Hint, Primitive, State, divisors, option
from architectures.registry import primitive, variant


@primitive("gated-linear-attention", mixes="time", version=1, paper="arXiv:2312.06635")
class GatedLinearAttention(Primitive):
    """S_t = diag(a_t) S_{t-1} + k_t v_t^T,  o_t = S_t^T q_t / sqrt(K),  a_t = sigmoid(W x_t + b)^(1/16).

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). The decay's map W has rank `gate_rank`;
    log a_t is kept above -5, which its division by 16 makes a formality. The output is normalised a head by
    RMSNorm and gated by silu(g). Differs from the paper: K = V instead of V = 2 K with four heads, and the
    short convolution of q, k and v is an option.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        heads: int | None = option(
            1, "number of heads; none: one for each 16 channels of the width", scales="width"
        )
        gate_rank: int = option(16, "rank of the map from the token to its decay")
        conv: int = option(0, "taps of a short convolution and silu on q, k and v; 0: none")

        def __post_init__(self) -> None:
            if self.heads is not None and self.heads < 1:
                raise ValueError(f"heads={self.heads} must be at least 1")
            if self.gate_rank < 1:
                raise ValueError(f"gate_rank={self.gate_rank} must be at least 1")
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
        self.decay_in = nn.Linear(dim, config.gate_rank, bias=False)
        self.decay_out = nn.Linear(config.gate_rank, dim)
        self.norm = nn.Parameter(torch.ones(self.width))
        self.out = nn.Linear(dim, dim, bias=False)

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return ("recurrent", "conv") if self.config.conv else ("recurrent",)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        q, k, v, log_a, _ = self._inputs(x, ())
        o, _ = delta_rule(q, k, v, log_a)
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
        q, k, v, log_a, tail = self._inputs(x[:, None], state[1:])
        o, s = delta_step(q[:, 0], k[:, 0], v[:, 0], log_a[:, 0], state[0])
        return self._read(o, x), (s, *tail)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        q, k, v, log_a, tail = self._inputs(x, state[1:])
        o, s = delta_rule(q, k, v, log_a, state[0])
        return self._read(o, x), (s, *tail)

    def flops(self, length: int) -> int:
        # A cell of the state is written and read. Its decay can be folded into the vectors, as `forward`
        # does, and is not counted.
        state = 4 * length * self.heads * self.width**2
        return self._projections(length) + state + self._elementwise(length)

    def executed(self, length: int) -> int:
        products, rest = self._core(length)
        return self._projections(length) + products + rest + self._elementwise(length)

    def unseen(self, length: int) -> int:
        return self._core(length)[1] + self._elementwise(length)

    def hints(self) -> dict[str, Hint]:
        return {"conv_weight": Hint(decay=False)} if self.config.conv else {}

    def _projections(self, length: int) -> int:
        return 2 * length * self.dim * (5 * self.dim + 2 * self.config.gate_rank)

    def _elementwise(self, length: int) -> int:
        return (2 * self.config.conv * 3 + 1) * length * self.dim  # convolution and output gate

    def _core(self, length: int) -> tuple[int, int]:
        products, rest = delta_flops(length, self.width, self.width, chunk=VECTOR_CHUNK, form="plain")
        return self.heads * products, self.heads * rest

    def _inputs(self, x: Tensor, tail: State) -> tuple[Tensor, Tensor, Tensor, Tensor, State]:
        """q, k, v and log a (B, T, H, .), and the next tail of the convolution."""
        z = u = self.project(x)
        if self.config.conv:
            z = F.silu(short_conv(u, self.conv_weight, tail=tail[0] if tail else None))
        high = torch.promote_types(x.dtype, torch.float32)
        q, k, v = z.to(high).unflatten(-1, (3, self.heads, self.width)).unbind(-3)
        logit = self.decay_out(self.decay_in(x)).to(high).unflatten(-1, (self.heads, self.width))
        log_a = (F.logsigmoid(logit) / 16).clamp(min=LOG_DECAY_MIN)
        return q * self.scale, k, v, log_a, tuple(next_tail(u, t) for t in tail)

    def _read(self, o: Tensor, x: Tensor) -> Tensor:
        o = rms_norm(o, self.norm, divisor=self.width).flatten(-2).to(x.dtype)
        return self.out(o * F.silu(self.gate(x)))


variant("mh-gated-linear-attention", of="gated-linear-attention", heads=None)
