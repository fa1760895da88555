"""Hyena experts: narrow long convolutions beside each other, of which each token reads a few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from architectures.families.gated_conv import GatedConv, GatedConvConfig
from architectures.functional.long_conv import long_conv, long_conv_flops
from architectures.parts.implicit_filter import ImplicitFilter
from architectures.parts.routing import Router, RoutingConfig
from architectures.primitive import Context, Hint, State, at_least, option
from architectures.registry import primitive


@primitive("hyena-experts", mixes="time", version=1, paper="arXiv:2403.17844")
class HyenaExperts(GatedConv):
    """y = W_o sum_e g_e o_e, o_e = q_e * (h_e conv (k_e * v_e) + d_e * (k_e * v_e)), g of the best k experts.

    x (B, T, D) -> q, k, v = short_conv(W_i x), each E experts of `expert_dim` contiguous channels ->
    (B, T, D); g (B, T, E), softmax(W_r x) over the chosen and 0 for all others, see `Router`. Every expert
    hears every token, and the token chooses whom it reads. The filter h is that of `hyena`: a sine network of
    the position, of width `order`, under a fixed exponential window, its length tied to `max_len`. The
    nominal state is the distilled one: `order` elements a channel, 2,048 at the defaults; the state of `step`
    is the history of k * v. Differs from the paper: the position features are fixed by default. Differs from
    the public MAD code (athms/mad-lab): there the scores of all other experts are set to 0 before the
    softmax, and keep a share of the output; the router has a bias.
    """

    exact_causality = False

    undecayed = ("conv.weight", "skip", "filter")
    config: Config

    @dataclass(frozen=True, kw_only=True)
    class Config(GatedConvConfig, RoutingConfig):
        expert_dim: int = option(16, "channels of one expert")
        order: int = option(16, "width of the filter's network; nominal state a channel", sizes="state")
        positions: Literal["fixed", "learned"] = option(
            "fixed",
            "features of the position, of which the filter is a network; learned: 3 max_len numbers",
        )

        def __post_init__(self) -> None:
            GatedConvConfig.__post_init__(self)
            RoutingConfig.__post_init__(self)
            at_least(self, expert_dim=1, order=1)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        inner, place = config.experts * config.expert_dim, {"index": index, "depth": depth}
        super().__init__(
            config, dim=dim, max_len=max_len, inner=inner, output=config.expert_dim, bias=True, **place
        )
        self.router = Router(dim, config)
        self.filter = ImplicitFilter(inner, config.order, max_len, learned=config.positions == "learned")
        self.skip = nn.Parameter(torch.randn(inner))

    @property
    def memory_kinds(self) -> tuple[str, ...]:
        return ("growing",)

    def init_memory(self, like: Tensor, batch: int) -> State:
        """The history of k * v (B, t, inner)."""
        return (like.new_zeros(batch, 0, self.inner),)

    def convolve(self, u: Tensor, memory: State) -> tuple[Tensor, State]:
        history = self._extend(u, memory)
        past = memory[0].shape[1]
        y = long_conv(history, self.filter(history.shape[1]))[:, past:]
        return y + self.skip * u, (history,)

    def convolve_once(self, u: Tensor, memory: State) -> tuple[Tensor, State]:
        history = self._extend(u, memory)
        h = self.filter(history.shape[1]).flip(0)
        return (h.to(u.dtype) * history).sum(1, keepdim=True) + self.skip * u, (history,)

    def read(self, o: Tensor, x: Tensor, ctx: Context | None) -> Tensor:
        weights = self.router(x, ctx, self.path).to(o.dtype)
        o = o.unflatten(-1, (self.config.experts, self.config.expert_dim))
        return self.out((weights[..., None] * o).sum(-2))

    def hints(self) -> dict[str, Hint]:
        return super().hints() | self.filter.hints()

    def flops(self, length: int) -> int:
        idle = (self.config.experts - self.config.top_k) * self.config.expert_dim
        return self.executed_flops(length) - 3 * length * idle  # their q, weight and part of the sum

    def operator_flops(self, length: int) -> tuple[int, int]:
        rest = 4 * length * self.inner  # the skip, and the weighted sum over the experts
        return self.router.flops(length), long_conv_flops(length, self.inner) + rest

    def nominal_state(self, length: int) -> int:
        return self.inner * self.config.order

    def _extend(self, u: Tensor, memory: State) -> Tensor:
        history = torch.cat([memory[0], u], dim=1)
        self.check_length(history.shape[1])
        return history
