"""MatFormer: layers whose prefixes were trained as layers of their own, so that one model is many."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.key_values import KeyValueMemory
from architectures.families.nested import NestedConfig, NestedHeads, NestedInner, nested_heads
from architectures.functional.attention import attend, attend_past
from architectures.functional.rotary import rotated_width
from architectures.primitive import Context, State, at_least, option, round_up
from architectures.registry import primitive


@primitive("matformer-mlp", mixes="channel", version=1, paper="arXiv:2310.07707")
class MatFormerMLP(NestedInner):
    """y = W_out[:, :m] gelu(W_in[:m] x), m one of F/8, F/4, F/2, F: (B, T, D) -> (B, T, D).

    Prefixes of the inner units, each inside the next; the whole layer is `mlp` exactly. Slices, not masks:
    a smaller size computes less. `granularities` halve the inner width F, which they must divide.
    """

    rows = ("up.weight",)
    base = "mlp"

    @dataclass(frozen=True, kw_only=True)
    class Config(NestedConfig):
        inner: int | None = option(
            None, "inner width; none: 4 times the width", scales="width", sets="params"
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            at_least(self, inner=1)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.nest_inner(config.inner or 4 * dim, config.granularities)
        self.up = nn.Linear(dim, self.inner, bias=False)
        self.down = nn.Linear(self.inner, dim, bias=False)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        m = self.units(ctx)
        return F.linear(F.gelu(F.linear(x, self.up.weight[:m])), self.down.weight[:, :m])

    def flops(self, length: int) -> int:
        return 4 * length * self.dim * self.units()


@primitive("matformer-swiglu", mixes="channel", version=1, paper="arXiv:2310.07707")
class MatFormerSwiGLU(NestedInner):
    """y = W_out[:, :m] (silu(W_gate[:m] x) * W_up[:m] x), m one of F/8, F/4, F/2, F: (B, T, D) -> (B, T, D).

    The whole layer is `swiglu` exactly; gate and up are cut alike. Differs from the paper: a gated MLP.
    """

    rows = ("gate.weight", "up.weight")
    base = "swiglu"

    @dataclass(frozen=True, kw_only=True)
    class Config(NestedConfig):
        inner: int | None = option(
            None,
            "inner width; none: 8/3 of the width, rounded up to a multiple of 16",
            scales="width",
            sets="params",
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            at_least(self, inner=1)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.nest_inner(config.inner or round_up(8 * dim / 3, 16), config.granularities)
        self.gate = nn.Linear(dim, self.inner, bias=False)
        self.up = nn.Linear(dim, self.inner, bias=False)
        self.down = nn.Linear(self.inner, dim, bias=False)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        m = self.units(ctx)
        h = F.silu(F.linear(x, self.gate.weight[:m])) * F.linear(x, self.up.weight[:m])
        return F.linear(h, self.down.weight[:, :m])

    def flops(self, length: int) -> int:
        return 6 * length * self.dim * self.units() + self.unseen(length)

    def unseen(self, length: int) -> int:
        return length * self.units()


@primitive("matformer-attention", mixes="time", version=1, paper="arXiv:2310.07707")
class MatFormerAttention(NestedHeads):
    """y = sum_{h < m} W_out,h attend(q_h, k_h, v_h), m one of H/4, H/2, 3H/4, H: (B, T, D) -> (B, T, D).

    Prefixes of the heads, whole groups that share their keys and values; the width of a head stays. The
    whole layer is `attention` exactly, with RoPE. The cache of a larger size serves a smaller one. The
    default is the most heads of at least 16 channels that the sizes divide. Differs from the paper: RoPE.
    """

    base = "attention"

    @dataclass(frozen=True, kw_only=True)
    class Config(NestedConfig, KeyValueMemory.Config):
        rope: bool = option(True, "rotate queries and keys by their position")
        rope_fraction: float = option(1.0, "part of the key channels that is rotated, in whole pairs")

        def __post_init__(self) -> None:
            NestedConfig.__post_init__(self)
            KeyValueMemory.Config.__post_init__(self)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        config = nested_heads(config, dim)
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.nest_heads(config.granularities)
        if config.rope:
            self.rotated = self.rotary_width = rotated_width(self.key_dim, config.rope_fraction)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        positions = torch.arange(x.shape[1], device=x.device)
        q, k, v, _ = self.project(x, positions, self.init_tails(x.shape[0]), ctx)
        return self.read(attend(q, self.spread(k), self.spread(v), scale=self.scale), x)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        keys, values, count, *tails = state
        keys, values = self.cached((keys, values), ctx)
        length = x.shape[1]
        q, k, v, tails = self.project(x, count + torch.arange(length, device=x.device), tails, ctx)
        k, v = torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        answer = attend_past if keys.shape[1] else attend
        o = answer(q, self.spread(k), self.spread(v), scale=self.scale)
        return self.read(o, x), (k, v, count + length, *tails)
