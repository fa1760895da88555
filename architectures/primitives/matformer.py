"""MatFormer: layers whose prefixes were trained as layers of their own, so that one model is many."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from architectures.families.feed_forward import FeedForward, GatedConfig, gated_inner
from architectures.families.key_values import KeyValueMemory
from architectures.families.nested import NestedConfig, NestedHeads, NestedInner, nested_heads
from architectures.functional.rotary import rotated_width
from architectures.primitive import option
from architectures.registry import primitive


@primitive("matformer-mlp", mixes="channel", version=1, paper="arXiv:2310.07707")
class MatFormerMLP(NestedInner, FeedForward):
    """y = W_out[:, :m] gelu(W_in[:m] x), m one of F/8, F/4, F/2, F: (B, T, D) -> (B, T, D).

    Prefixes of the inner units, each inside the next; the whole layer is `mlp` exactly. Slices, not masks:
    a smaller size computes less. `granularities` halve the inner width F, which they must divide.
    """

    base = "mlp"

    config: Config

    @dataclass(frozen=True, kw_only=True)
    class Config(FeedForward.Config, NestedConfig):
        def __post_init__(self) -> None:
            NestedConfig.__post_init__(self)
            FeedForward.Config.__post_init__(self)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.nest_inner()

    def activate(self, h: Tensor) -> Tensor:
        return F.gelu(h)


@primitive("matformer-swiglu", mixes="channel", version=1, paper="arXiv:2310.07707")
class MatFormerSwiGLU(NestedInner, FeedForward):
    """y = W_out[:, :m] (silu(W_gate[:m] x) * W_up[:m] x), m one of F/8, F/4, F/2, F: (B, T, D) -> (B, T, D).

    The whole layer is `swiglu` exactly; gate and up are cut alike. Differs from the paper: a gated MLP.
    """

    gated = True
    base = "swiglu"

    config: Config

    @dataclass(frozen=True, kw_only=True)
    class Config(GatedConfig, NestedConfig):
        def __post_init__(self) -> None:
            NestedConfig.__post_init__(self)
            GatedConfig.__post_init__(self)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.nest_inner()

    default_inner = staticmethod(gated_inner)


@primitive("matformer-attention", mixes="time", version=1, paper="arXiv:2310.07707")
class MatFormerAttention(NestedHeads, KeyValueMemory):
    """y = sum_{h < m} W_out,h attend(q_h, k_h, v_h), m one of H/4, H/2, 3H/4, H: (B, T, D) -> (B, T, D).

    Prefixes of the heads, whole groups that share their keys and values; the width of a head stays. The
    whole layer is `attention` exactly, with RoPE. The cache of a larger size serves a smaller one. The
    default is the most heads of at least 16 channels that the sizes divide. Differs from the paper: RoPE.
    """

    base = "attention"

    config: Config

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
        self.nest_heads()
        if config.rope:
            self.rotated = self.rotary_width = rotated_width(self.key_dim, config.rope_fraction)
