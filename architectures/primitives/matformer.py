"""MatFormer: layers whose prefixes were trained as layers of their own, so that one model is many."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from architectures.families.feed_forward import FeedForward, GatedConfig
from architectures.families.key_values import KeyValueMemory, RotaryOptions
from architectures.families.nested import NestedConfig, NestedHeads, NestedInner
from architectures.primitive import Primitive
from architectures.registry import primitive


@primitive("matformer-mlp", mixes="channel", version=1, paper="arXiv:2310.07707")
class MatFormerMLP(NestedInner, FeedForward):
    """y = W_out[:, :m] gelu(W_in[:m] x), m one of F/8, F/4, F/2, F: (B, T, D) -> (B, T, D).

    Prefixes of the inner units, each inside the next; the whole layer is `mlp` exactly. Slices, not masks: a
    smaller size computes less. `granularities` halve the inner width F, which they must divide.
    """

    base = "mlp"

    class Config(FeedForward.Config, NestedConfig):
        pass

    def activate(self, h: Tensor) -> Tensor:
        return F.gelu(h)


@primitive("matformer-swiglu", mixes="channel", version=1, paper="arXiv:2310.07707")
class MatFormerSwiGLU(NestedInner, FeedForward):
    """y = W_out[:, :m] (silu(W_gate[:m] x) * W_up[:m] x), m one of F/8, F/4, F/2, F: (B, T, D) -> (B, T, D).

    The whole layer is `swiglu` exactly; gate and up are cut alike. Differs from the paper: a gated MLP.
    """

    gated = True
    base = "swiglu"

    class Config(GatedConfig, NestedConfig):
        pass


@primitive("matformer-attention", mixes="time", version=1, paper="arXiv:2310.07707")
class MatFormerAttention(NestedHeads, KeyValueMemory):
    """y = sum_{h < m} W_out,h attend(q_h, k_h, v_h), m one of H/4, H/2, 3H/4, H: (B, T, D) -> (B, T, D).

    Prefixes of the heads, whole groups that share their keys and values; the width of a head stays. The whole
    layer is `attention` exactly. The cache of a larger size serves a smaller one. The default is the most
    heads of at least 16 channels that the sizes divide. Differs from the paper: RoPE.
    """

    base = "attention"

    class Config(RotaryOptions, NestedConfig, KeyValueMemory.Config):
        pass


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

    class Config(NestedConfig, RotaryOptions, KeyValueMemory.Config):
        pass
