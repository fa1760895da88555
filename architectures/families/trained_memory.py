"""Memories that are trained on the tokens in batches, and so carry how far a batch has come."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from architectures.families.matrix_memory import Trait
from architectures.parts.short_conv import ShortConv
from architectures.primitive import State, option


def tokens_of_a_batch() -> Any:
    """The option `batch`."""
    return option(16, "C, tokens whose gradients are taken at one state", least=1, most=4096)


class TrainedMemory(Trait):
    """The carry: the tail of the short convolution, and the tokens of the batch so far, as the length of an
    empty tensor (B, tokens, 0): no value of a tensor decides what is run.
    """

    conv: ShortConv
    carry_kinds = ("conv", "counter")

    def init_carry(self, like: Tensor, batch: int) -> State:
        return self.conv.init_tail(like, batch), like.new_zeros(batch, 0, 0)

    def advance(self, seen: Tensor, length: int) -> Tensor:
        """The tokens of the batch after `length` more."""
        return seen.new_zeros(seen.shape[0], (seen.shape[1] + length) % self.config.batch, 0)
