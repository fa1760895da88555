"""Hyena-LI: a long convolution of a few decaying modes between two gates, with a state of fixed size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from architectures.families.gated_conv import GatedConv, GatedConvConfig
from architectures.functional.toeplitz import modal_conv, modal_conv_flops
from architectures.primitive import State, at_least, option
from architectures.registry import primitive

# exp of it is a rate that forgets a token at once; more would be infinite, and 0 times it no number.
LOG_RATE_MAX = 4.0


@primitive("hyena-li", mixes="time", version=1, paper="arXiv:2503.01868")
class HyenaLI(GatedConv):
    """y = W_o [q * (h conv u + d * u)], h_t = sum_n r_n exp(-t e^p_n), in every channel.

    (B, T, D) -> (B, T, D); u = k * v and q, k, v = short_conv(W_i x); r, p (D, `order`), real modes of each
    channel; d (D,). As a recurrence s_t = exp(-e^p) s_{t-1} + u_t with the state s (B, D, `order`), which
    reads r . s_t. It runs at least in float32, with p kept below 4. Differs from the paper: two parameters
    whose sum is p became one; chunks and states instead of an FFT.
    """

    operator = ("log_rate", "residue", "skip")

    @dataclass(frozen=True, kw_only=True)
    class Config(GatedConvConfig):
        order: int = option(16, "modes of a channel", sets="state")

        def __post_init__(self) -> None:
            super().__post_init__()
            at_least(self, order=1)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth, inner=dim, output=dim)
        nn.init.xavier_uniform_(self.project.weight)
        shape = dim, config.order
        self.log_rate = nn.Parameter(torch.empty(shape).uniform_(0.01, 0.1).log() - 1)
        self.residue = nn.Parameter(0.1 * torch.randn(shape) / math.sqrt(config.order))
        self.skip = nn.Parameter(torch.randn(dim))

    @property
    def memory_kinds(self) -> tuple[str, ...]:
        return ("recurrent",)

    def init_memory(self, like: Tensor, batch: int) -> State:
        """s (B, D, N), in at least float32."""
        high = torch.promote_types(like.dtype, torch.float32)
        return (like.new_zeros(batch, self.dim, self.config.order, dtype=high),)

    def convolve(self, u: Tensor, memory: State) -> tuple[Tensor, State]:
        y, s = modal_conv(u.to(memory[0].dtype), *self._modes(memory[0]), memory[0])
        return y.to(u.dtype) + self.skip * u, (s,)

    def convolve_once(self, u: Tensor, memory: State) -> tuple[Tensor, State]:
        rate, residue = self._modes(memory[0])
        s = torch.exp(-rate) * memory[0] + u[:, 0, :, None]
        return (residue * s).sum(-1)[:, None].to(u.dtype) + self.skip * u, (s,)

    def flops(self, length: int) -> int:
        products, rest = modal_conv_flops(length, self.dim, self.config.order)
        recurrence = 4 * length * self.dim * self.config.order
        return super().flops(length) - products - rest + recurrence

    def operator_flops(self, length: int) -> tuple[int, int]:
        products, rest = modal_conv_flops(length, self.dim, self.config.order)
        return products, rest + 2 * length * self.dim

    def _modes(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Rates and residues (D, N) of the state's dtype."""
        rate = self.log_rate.to(like.dtype).clamp(max=LOG_RATE_MAX).exp()
        return rate, self.residue.to(like.dtype)
