"""Channel mixers that act on each position by itself: MLP, squared-ReLU MLP and SwiGLU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from architectures.families.feed_forward import FeedForward, GatedConfig
from architectures.registry import primitive


@primitive("mlp", mixes="channel", version=1, paper="arXiv:1706.03762", known_as="feed-forward network; GPT")
class MLP(FeedForward):
    """y = W_out gelu(W_in x), position by position: (B, T, D) -> (B, T, D).

    Differs from the paper: GELU (arXiv:1606.08415) instead of ReLU, no biases by default.
    """

    def activate(self, h: Tensor) -> Tensor:
        return F.gelu(h)


@primitive("relu2-mlp", mixes="channel", version=1, paper="arXiv:2109.08668", known_as="Primer, Nemotron")
class ReLU2MLP(FeedForward):
    """y = W_out relu(W_in x)^2, position by position: (B, T, D) -> (B, T, D).

    Differs from the paper: no biases by default.
    """

    def activate(self, h: Tensor) -> Tensor:
        return F.relu(h).square()


@primitive("swiglu", mixes="channel", version=1, paper="arXiv:2002.05202", known_as="Llama, Qwen, Mistral")
class SwiGLU(FeedForward):
    """y = W_out (silu(W_gate x) * W_up x), position by position: (B, T, D) -> (B, T, D)."""

    gated = True
    Config = GatedConfig
