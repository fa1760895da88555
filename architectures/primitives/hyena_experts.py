"""Hyena experts: narrow long convolutions beside each other, of which each token reads a few."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from architectures.families.gated_conv import GatedConv, GatedConvConfig, ImplicitOperator
from architectures.families.options import filter_order, filter_positions
from architectures.functional.long_conv import long_conv_flops
from architectures.parts.routing import Router, RoutingConfig
from architectures.primitive import Context, option
from architectures.registry import primitive


@primitive("hyena-experts", mixes="time", version=1, paper="arXiv:2403.17844")
class HyenaExperts(ImplicitOperator, GatedConv):
    """y = W_o sum_e g_e o_e, o_e = q_e * (h_e conv (k_e * v_e) + d_e * (k_e * v_e)), g of the best k experts.

    x (B, T, D) -> q, k, v = short_conv(W_i x), each E experts of `expert_dim` contiguous channels -> (B, T,
    D); g (B, T, E), softmax(W_r x) over the chosen and 0 for all others, see `Router`. Every expert hears
    every token, and the token chooses whom it reads. The filter h and the nominal state, 2,048 at the
    defaults, are those of `hyena`; the state of `step` is the history of k * v. Differs from the paper: the
    position features are fixed by default. Differs from the public MAD code (athms/mad-lab): there the scores
    of all other experts are set to 0 before the softmax, and keep a share of the output; the router has a
    bias.
    """

    undecayed = ("conv.weight", "skip", "filter")

    class Config(GatedConvConfig, RoutingConfig):
        expert_dim: int = option(16, "channels of one expert", least=1)
        order: int = filter_order(16, " a channel")
        positions: Literal["fixed", "learned"] = filter_positions()

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        inner = config.experts * config.expert_dim
        self.add_gates(inner, nn.Linear(dim, 3 * inner))
        self.out = nn.Linear(config.expert_dim, dim)
        self.router = Router(dim, config)
        self.add_operator()

    def read(self, o: Tensor, x: Tensor, ctx: Context | None) -> Tensor:
        weights = self.router(x, ctx, self.path).to(o.dtype)
        o = o.unflatten(-1, (self.config.experts, self.config.expert_dim))
        return self.out((weights[..., None] * o).sum(-2))

    def flops(self, length: int) -> int:
        idle = (self.config.experts - self.config.top_k) * self.config.expert_dim
        return self.executed_flops(length) - 3 * length * idle  # their q, weight and part of the sum

    def operator_flops(self, length: int) -> tuple[int, int]:
        rest = 4 * length * self.inner  # the skip, and the weighted sum over the experts
        return self.router.flops(length), long_conv_flops(length, self.inner) + rest
