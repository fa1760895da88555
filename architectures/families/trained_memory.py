"""Memories that are trained on the tokens, in batches: what TTT and Titans share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import Trait
from architectures.families.options import canon_taps, count_of_heads, default_heads, divide, per_head
from architectures.functional.inner_batches import Error, norm_error
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Options, State, option


class BatchOptions(Options):
    heads: int | None = count_of_heads()
    key_dim: int | None = per_head("key and value width", sizes="state")
    canon: int = canon_taps()
    batch: int = option(16, "C, tokens whose gradients are taken at one state", least=1, most=4096)

    def sizes(self, dim: int) -> tuple[int, int, int]:
        heads = self.heads or default_heads(dim)
        key = self.key_dim or divide("dim", dim, "heads", heads)
        return heads, key, key


class TrainedMemory(Trait):
    """The loss |LN(z) - (v - k)|^2 / 2 of what the memory gives for k, the reading q + LN(z), and the carry:
    the tail of the short convolution, and the tokens of the batch so far, the length of an empty tensor.

    LN is a LayerNorm per head with a weight and a bias (H, K).
    """

    conv: ShortConv
    carry_kinds = ("conv", "counter")

    def add_inner_norm(self) -> None:
        self.batch = self.config.batch
        self.inner_weight = nn.Parameter(torch.ones(self.heads, self.key_dim))
        self.inner_bias = nn.Parameter(torch.zeros(self.heads, self.key_dim))

    def init_carry(self, like: Tensor, batch: int) -> State:
        return self.conv.init_tail(like, batch), like.new_zeros(batch, 0, 0)

    def advance(self, seen: Tensor, length: int) -> Tensor:
        """The carried (B, tokens of the batch so far, 0) after `length` more."""
        return seen.new_zeros(seen.shape[0], (seen.shape[1] + length) % self.batch, 0)

    def error(self, like: Tensor) -> Error:
        """For the rows and the dtype of `like`."""
        return norm_error(self.inner_weight.to(like.dtype), self.inner_bias.to(like.dtype), len(like))

    def wrap(self, q: Tensor, z: Tensor) -> Tensor:
        """q + LN(z) for (B, T, H, K)."""
        z = F.layer_norm(z, z.shape[-1:], eps=1e-6)
        return q + z * self.inner_weight.to(z.dtype) + self.inner_bias.to(z.dtype)
