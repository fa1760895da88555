"""A mixture of expert MLPs: each token is computed by the few experts that a router gives it."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.axes import Axes, inner_axes
from architectures.families.options import inner_width
from architectures.parts.routing import Router, RoutingConfig
from architectures.primitive import Context, Primitive, State, option, round_up
from architectures.registry import primitive


@primitive(
    "moe-mlp", mixes="channel", version=1, paper="arXiv:2101.03961", known_as="Switch, Mixtral, DeepSeekMoE"
)
class MoEMLP(Primitive):
    """y = sum_e g_e W_e gelu(V_e x), g = softmax(W_r x) over the best k experts and 0 for all others.

    (B, T, D) -> (B, T, D), V_e (F, D), W_e (F, D), without biases; g (B, T, E), see `Router`. Swiglu experts:
    W_e (silu(U_e x) * V_e x). The first `shared` experts have weight 1 for every token and are not routed.
    Dropless: `forward` computes every expert for every token, and a weight of 0 takes its output and its
    gradient away; `step` reads the chosen experts only. The default inner width gives as many parameters as
    one dense MLP. Losses and updates: `balance` of arXiv:2101.03961, the bias of arXiv:2408.15664, the z-loss
    of arXiv:2202.08906. Differs from the paper: two experts, not one, are chosen by default and their weights
    renormalised; no capacity, so that no token is dropped.
    """

    kind = "experts"
    routed = ("gate", "up", "down")
    writers = ("down",)

    class Config(RoutingConfig):
        inner: int | None = inner_width("4 D / experts (swiglu: 8/3 D), rounded up to 8", " of one expert")
        shared: int = option(0, "experts beside the routed ones that every token uses", least=0)
        activation: Literal["gelu", "swiglu"] = option("gelu", "what an expert is")

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        gated = config.activation == "swiglu"
        self.inner = config.inner or round_up((8 / 3 if gated else 4) * dim / config.experts, 8)
        self.experts = config.shared + config.experts
        self.router = Router(dim, config)
        shape = self.experts, self.inner, dim
        self.gate = nn.Parameter(torch.empty(shape).uniform_(-(dim**-0.5), dim**-0.5)) if gated else None
        self.up = nn.Parameter(torch.empty(shape).uniform_(-(dim**-0.5), dim**-0.5))
        self.down = nn.Parameter(torch.empty(shape).uniform_(-(self.inner**-0.5), self.inner**-0.5))

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        weights = self._with_shared(self.router(x, ctx, self.path))
        # The experts beside each other are one wide MLP whose hidden channels are weighted per block.
        h = F.linear(x, self.up.flatten(0, 1))
        gate = None if self.gate is None else F.linear(x, self.gate.flatten(0, 1))
        h = self._activate(h, gate).unflatten(-1, (self.experts, self.inner))
        h = h * weights[..., None].to(h.dtype)
        return h.flatten(-2) @ self.down.flatten(0, 1)

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        used = self.config.shared + self.config.top_k
        if x.shape[0] * used >= self.experts:  # as much to gather as there is
            return super().step(x, state, ctx)
        weights, chosen = self.router.select(x)
        shared = torch.arange(self.config.shared, device=x.device).expand(x.shape[0], -1)
        chosen = torch.cat([shared, chosen + self.config.shared], dim=-1)
        h = torch.einsum("bd,befd->bef", x, self.up[chosen])
        gate = None if self.gate is None else torch.einsum("bd,befd->bef", x, self.gate[chosen])
        h = self._activate(h, gate)
        h = h * self._with_shared(weights)[..., None].to(h.dtype)
        return torch.einsum("bef,befd->bd", h, self.down[chosen]), state

    def flops(self, length: int) -> int:
        return self._flops(length, self.config.shared + self.config.top_k)

    def executed_flops(self, length: int) -> int:
        return self._flops(length, self.experts)

    def uncounted_flops(self, length: int) -> int:
        return length * self.experts * self.inner * (1 if self.gate is None else 2)

    def active_params(self) -> int:
        matrices = sum(p.numel() for n, p in self.named_parameters() if n in self.routed)
        idle = self.config.experts - self.config.top_k
        return super().active_params() - idle * matrices // self.experts

    def axes(self) -> Axes:
        tensors = {"router.weight": ". D", "up": ". F D", "gate": ". F D", "down": ". F D"}
        return inner_axes(self.inner, tensors, "down")

    def _flops(self, length: int, experts: int) -> int:
        """Products, the weighting of the hidden channels, and the gate of swiglu."""
        products = 4 * self.dim + 1 if self.gate is None else 6 * self.dim + 2
        return self.router.flops(length) + length * experts * self.inner * products

    def _activate(self, h: Tensor, gate: Tensor | None) -> Tensor:
        return F.gelu(h) if gate is None else F.silu(gate) * h

    def _with_shared(self, weights: Tensor) -> Tensor:
        """Ones for the shared experts before the weights of the routed ones."""
        return torch.cat([weights.new_ones(*weights.shape[:-1], self.config.shared), weights], dim=-1)
