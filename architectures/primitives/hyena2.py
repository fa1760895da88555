"""The convolutions of StripedHyena 2, short, medium and long, between two gates."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from architectures.families.gated_conv import GatedConv, GatedConvConfig
from architectures.families.options import divide
from architectures.functional.long_conv import grouped_conv, grouped_conv_flops, modal_conv, modal_conv_flops
from architectures.parts.short_conv import next_tail, short_conv
from architectures.primitive import State, option
from architectures.registry import primitive


class FiniteOperator:
    """What the short and the medium filter share: one for each group of channels, and the last products."""

    memory_kinds: tuple[str, ...] = ("conv",)
    config: Any
    dim: int
    filter: nn.Parameter

    def init_memory(self, like: Tensor, batch: int) -> State:
        """The last k * v (B, taps - 1, D)."""
        return (like.new_zeros(batch, self.config.taps - 1, self.dim),)

    def by_channel(self, filter: Tensor) -> Tensor:
        """(G, taps) -> (D, taps), the oldest tap first."""
        return filter.flip(-1).repeat_interleave(self.config.group, dim=0)

    def nominal_state(self, length: int) -> int:
        return (self.config.taps - 1) * self.dim


@primitive("hyena-se", mixes="time", version=1, paper="arXiv:2503.01868", known_as="StripedHyena 2, Evo 2")
class HyenaSE(FiniteOperator, GatedConv):
    """y = W_o [q * (h conv (k * v))] with q, k, v = short_conv(W_i x), h of `taps` taps for each group.

    (B, T, D) -> (B, T, D); h (G, taps), one filter for each `group` contiguous channels, learned tap by tap.
    The state is the last taps - 1 products k * v, of kind "conv", and counts as nominal. Differs from the
    paper: nothing known.
    """

    class Config(GatedConvConfig):
        taps: int = option(7, "filter taps; the state holds one less", sizes="state", most=1024, least=1)
        group: int = option(16, "channels that share a filter", least=1)

    config: Config

    undecayed = ("conv.weight", "filter")

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.add_maps()
        bound = config.taps**-0.5
        groups = divide("dim", dim, "group", config.group)
        self.filter = nn.Parameter(torch.empty(groups, config.taps).uniform_(-bound, bound))

    def convolve(self, u: Tensor, memory: State) -> tuple[Tensor, State]:
        (tail,) = memory
        return short_conv(u, self.by_channel(self.filter), tail=tail), (next_tail(u, tail),)

    def operator_flops(self, length: int) -> tuple[int, int]:
        return 0, 2 * self.config.taps * length * self.dim


# The training length of the public models, over which the fastest filter fades by e^-100.
FADE = 8192


@primitive("hyena-mr", mixes="time", version=1, paper="arXiv:2503.01868", known_as="StripedHyena 2, Evo 2")
class HyenaMR(FiniteOperator, GatedConv):
    """y = W_o [q * ((h * w) conv u + d * u)], u = k * v, with q, k, v = short_conv(W_i x), w_i = e^(-r i).

    (B, T, D) -> (B, T, D). As `hyena-se`, with a skip d (D,) and a fixed window w, whose rates r are spread
    from 1 to 100 in 8192 tokens, whatever `max_len` is. Differs from the paper: the window fades with the
    number of taps, there with their share of the training length.
    """

    window: Tensor
    undecayed = ("conv.weight", "filter", "skip")

    class Config(GatedConvConfig):
        taps: int = option(128, "filter taps; the state holds one less", sizes="state", least=1)
        group: int = option(16, "channels that share a filter", least=1)

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.add_maps()
        groups = divide("dim", dim, "group", config.group)
        self.filter = nn.Parameter(1e-5 * config.taps**-0.5 * torch.randn(groups, config.taps))
        self.skip = nn.Parameter(torch.randn(dim))
        rates = torch.logspace(0, 2, groups)[:, None] / FADE
        self.register_buffer("window", torch.exp(-rates * torch.arange(config.taps)), persistent=False)

    def convolve(self, u: Tensor, memory: State) -> tuple[Tensor, State]:
        (tail,) = memory
        y = grouped_conv(u, self.filter * self.window, tail)
        return y + self.skip * u, (next_tail(u, tail),)

    def convolve_once(self, u: Tensor, memory: State) -> tuple[Tensor, State]:
        (tail,) = memory
        history = torch.cat([tail, u], dim=1)  # (B, taps, D)
        h = self.by_channel(self.filter * self.window)
        y = (h.mT.to(u.dtype) * history).sum(1, keepdim=True)
        return y + self.skip * u, (history[:, 1:],)

    def flops(self, length: int) -> int:
        seen = 2 * self.config.taps * length * self.dim
        return super().flops(length) - self.operator_flops(length)[0] + seen

    def operator_flops(self, length: int) -> tuple[int, int]:
        return grouped_conv_flops(length, self.dim, self.config.taps), 2 * length * self.dim


# exp of it is a rate that forgets a token at once; more would be infinite, and 0 times it no number.
LOG_RATE_MAX = 4.0


@primitive("hyena-li", mixes="time", version=1, paper="arXiv:2503.01868", known_as="StripedHyena 2, Evo 2")
class HyenaLI(GatedConv):
    """y = W_o [q * (h conv u + d * u)], h_t = sum_n r_n exp(-t e^p_n), in every channel.

    (B, T, D) -> (B, T, D); u = k * v and q, k, v = short_conv(W_i x); r, p (D, `order`), real modes of each
    channel; d (D,). As a recurrence s_t = exp(-e^p) s_{t-1} + u_t with the state s (B, D, `order`), which
    reads r . s_t. It runs at least in float32, with p kept below 4. Differs from the paper: two parameters
    whose sum is p became one; chunks and states instead of an FFT.
    """

    undecayed = ("conv.weight", "log_rate", "residue", "skip")

    class Config(GatedConvConfig):
        order: int = option(16, "modes of a channel", sizes="state", least=1)

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.add_maps()
        shape = dim, config.order
        self.log_rate = nn.Parameter(torch.empty(shape).uniform_(0.01, 0.1).log() - 1)
        self.residue = nn.Parameter(0.1 * torch.randn(shape) / math.sqrt(config.order))
        self.skip = nn.Parameter(torch.randn(dim))

    memory_kinds: tuple[str, ...] = ("recurrent",)

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
