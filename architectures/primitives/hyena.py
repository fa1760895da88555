"""Hyena: a long implicit convolution between two gates."""

from __future__ import annotations

from typing import Literal

from torch import nn

from architectures.families.gated_conv import GatedConv, ImplicitOperator
from architectures.families.options import copies_of_map, filter_order, filter_positions, taps
from architectures.functional.long_conv import long_conv_flops
from architectures.parts.linear import TiledLinear
from architectures.primitive import Options, option
from architectures.registry import primitive


@primitive("hyena", mixes="time", version=1, paper="arXiv:2302.10866")
class Hyena(ImplicitOperator, GatedConv):
    """y = W_o [q * (h conv (k * v) + d * (k * v))] with q, k, v = short_conv(W_i x); h is a network of time.

    (B, T, D) -> (B, T, D), inner width `expand` * D. The filter h (T, inner) is a sine network of the
    position, of width `order`, under a fixed exponential window; its length is tied to `max_len`. The
    operator is of order 2. The nominal state is the distilled one: `order` elements per channel. The public
    MAD code (athms/mad-lab) reads q, k and v from shared features and trains those of the position: `tied=4`
    and `positions=learned`. Differs from the paper: the position features are fixed by default.
    """

    undecayed = ("skip", "conv.weight")

    class Config(Options):
        expand: int = option(4, "inner width over the model's width", least=1)
        order: int = filter_order(4, " a channel")
        conv: int = taps(3, "the short convolution of q, k and v")
        tied: int = copies_of_map()
        positions: Literal["fixed", "learned"] = filter_positions()

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        inner = config.expand * dim
        self.add_gates(inner, TiledLinear(dim, 3 * inner, config.tied))
        self.add_operator()
        self.out = nn.Linear(inner, dim)

    def operator_flops(self, length: int) -> tuple[int, int]:
        return 0, 2 * length * self.inner + long_conv_flops(length, self.inner)  # 2: skip * u and its sum
