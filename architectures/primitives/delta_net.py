"""DeltaNet: linear attention that overwrites what its key already holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.functional.delta import SCALAR_CHUNK, delta_flops, delta_rule, delta_step, unit
from architectures.functional.norms import rms_norm
from architectures.functional.short_conv import next_tail, short_conv
from architectures.primitive import Context, Hint, Primitive, State, divisors, option
from architectures.registry import primitive


@primitive("delta-net", mixes="time", version=1, paper="arXiv:2406.06484")
class DeltaNet(Primitive):
    """S_t = (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K).

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). q, k and v pass a short causal convolution
    and silu; q and k have length 1; b_t in (0, 1) is a sigmoid a head. The output is normalised a head by
    RMSNorm. `negative_eigenvalues` doubles b_t (arXiv:2411.12537): the transition may then reflect, which
    state tracking needs. Differs from the paper: heads of 16 channels by default.
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
        self.strength = nn.Linear(dim, self.heads, bias=False)
        self.norm = nn.Parameter(torch.ones(self.width))
        self.out = nn.Linear(dim, dim, bias=False)

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return ("recurrent", "conv") if self.config.conv else ("recurrent",)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        q, k, v, y, _ = self._inputs(x, ())
        o, _ = delta_rule(q, k, v, y=y)
        return self._read(o, x.dtype)

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
        q, k, v, y, tail = self._inputs(x[:, None], state[1:])
        o, s = delta_step(q[:, 0], k[:, 0], v[:, 0], None, state[0], y=y[:, 0])
        return self._read(o, x.dtype), (s, *tail)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        q, k, v, y, tail = self._inputs(x, state[1:])
        o, s = delta_rule(q, k, v, state=state[0], y=y)
        return self._read(o, x.dtype), (s, *tail)

    def flops(self, length: int) -> int:
        # A cell of the state: asked by k, corrected and written as one, read by q.
        state = 6 * length * self.heads * self.width**2
        return self._projections(length) + state + self._short(length)

    def executed(self, length: int) -> int:
        products, rest = self._core(length)
        return self._projections(length) + products + rest + self._short(length)

    def unseen(self, length: int) -> int:
        return self._core(length)[1] + self._short(length)

    def hints(self) -> dict[str, Hint]:
        return {"conv_weight": Hint(decay=False)} if self.config.conv else {}

    def _projections(self, length: int) -> int:
        return 2 * length * self.dim * (4 * self.dim + self.heads)

    def _short(self, length: int) -> int:
        return 2 * self.config.conv * length * 3 * self.dim

    def _core(self, length: int) -> tuple[int, int]:
        products, rest = delta_flops(length, self.width, self.width, chunk=SCALAR_CHUNK, form="tied")
        return self.heads * products, self.heads * rest

    def _inputs(self, x: Tensor, tail: State) -> tuple[Tensor, Tensor, Tensor, Tensor, State]:
        """q, the key times its strength, v and the key (B, T, H, .), and the next tail of the convolution."""
        z = u = self.project(x)
        if self.config.conv:
            z = F.silu(short_conv(u, self.conv_weight, tail=tail[0] if tail else None))
        high = torch.promote_types(x.dtype, torch.float32)
        q, k, v = z.to(high).unflatten(-1, (3, self.heads, self.width)).unbind(-3)
        q, k = unit(q) * self.scale, unit(k)
        strength = self.strength(x).to(high).sigmoid()[..., None]
        if self.config.negative_eigenvalues:
            strength = 2 * strength
        return q, strength * k, v, k, tuple(next_tail(u, t) for t in tail)

    def _read(self, o: Tensor, dtype: torch.dtype) -> Tensor:
        return self.out(rms_norm(o, self.norm, divisor=self.width).flatten(-2).to(dtype))
