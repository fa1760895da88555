"""Softmax attention of an encoder: every position sees every other, later ones too."""

from __future__ import annotations

from dataclasses import dataclass

from architectures.families.key_values import KeyValueMemory
from architectures.families.nested import NestedConfig, NestedHeads, nested_heads
from architectures.functional.rotary import rotated_width
from architectures.primitive import Primitive, option
from architectures.registry import primitive


@primitive("encoder-attention", mixes="time", version=1, paper="arXiv:1706.03762")
class EncoderAttention(KeyValueMemory):
    """o_t = sum_s softmax_s(q_t . k_s / sqrt(K)) v_s over all positions s: (B, T, D) -> (B, T, D).

    q, k (B, T, H, K), v (B, T, H, V). For encoders: a model with it cannot decode. Differs from the paper:
    RoPE (arXiv:2104.09864) instead of position embeddings; with `rope=false` the layer sees a set.
    """

    causal = False
    step = Primitive.step
    prefill = Primitive.prefill
    config: Config

    @dataclass(frozen=True, kw_only=True)
    class Config(KeyValueMemory.Config):
        rope: bool = option(True, "rotate queries and keys by their position")
        rope_fraction: float = option(1.0, "part of the key channels that is rotated, in whole pairs")

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        if config.rope:
            self.rotated = self.rotary_width = rotated_width(self.key_dim, config.rope_fraction)


@primitive("matformer-encoder-attention", mixes="time", version=1, paper="arXiv:2310.07707")
class MatFormerEncoderAttention(NestedHeads, KeyValueMemory):
    """y = sum_{h < m} W_out,h attend_all(q_h, k_h, v_h), m one of H/4, H/2, 3H/4, H: (B, T, D) -> (B, T, D).

    As `matformer-attention`, over all positions, later ones too; the whole layer is `encoder-attention`
    exactly.
    """

    base = "encoder-attention"

    causal = False
    step = Primitive.step
    prefill = Primitive.prefill
    config: Config

    @dataclass(frozen=True, kw_only=True)
    class Config(NestedConfig, EncoderAttention.Config):
        def __post_init__(self) -> None:
            NestedConfig.__post_init__(self)
            EncoderAttention.Config.__post_init__(self)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        config = nested_heads(config, dim)
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.nest_heads()
        if config.rope:
            self.rotated = self.rotary_width = rotated_width(self.key_dim, config.rope_fraction)
