"""Top-k routing: which experts a token is sent to, with which weights, and what keeps their loads even."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.functional.precision import full_precision
from architectures.primitive import Context, Options, choose, option


class RoutingConfig(Options):
    experts: int = option(8, "number of experts", least=1)
    top_k: int = option(2, "experts that a token is sent to", least=1)
    gating: Literal["softmax", "sigmoid"] = option("softmax", "scores compete, or each stands for itself")
    balance: Literal["loss", "bias"] | None = option(
        "loss", "what evens the loads: an auxiliary loss, a bias on the choice that no loss trains, or none"
    )
    balance_weight: float = option(1e-2, "weight of the auxiliary loss, balance=loss", least=0)
    bias_rate: float = option(1e-3, "how far a step moves the bias of an expert, balance=bias", least=0)
    z_loss: float = option(0.0, "weight of the mean squared log-sum-exp of the logits", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k > self.experts:
            raise ValueError(f"top_k={self.top_k} must be at most experts {self.experts}; lower it")


class Router(nn.Module):
    """Scores W x of the experts and the weights of the best k, renormalised: exactly 0 for all others.

    The logits are at least float32, also under autocast, which would change the choice. gating="softmax":
    weights softmax(W x) over the chosen; "sigmoid": sigmoid(W x), over their sum. With one chosen expert that
    sum is the score itself, and the weight would always be 1; there the score is the weight, as in
    arXiv:2101.03961. A single expert needs no choice: there is no W, and its weight is 1.
    """

    bias: Tensor

    def __init__(self, dim: int, config: RoutingConfig) -> None:
        super().__init__()
        self.config = config
        several = config.experts > 1
        self.weight = nn.Parameter(0.02 * torch.randn(config.experts, dim)) if several else None
        if several and config.balance == "bias":
            self.register_buffer("bias", torch.zeros(config.experts))

    def forward(self, x: Tensor, ctx: Context | None = None, path: str = "") -> Tensor:
        """x (B, T, D) -> weights (B, T, E); losses and updates go to the context, keyed by the path."""
        if self.weight is None:
            return x.new_ones(*x.shape[:-1], 1, dtype=torch.promote_types(x.dtype, torch.float32))
        logits, chosen = self._choose(x, ctx)
        if ctx is not None:
            self._balance(logits, chosen, ctx, path)
        return self._weigh(logits, chosen)

    def select(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, D) -> the weights of the chosen experts (B, k) and their indices (B, k)."""
        if self.weight is None:
            zero = torch.zeros(x.shape[0], 1, dtype=torch.long, device=x.device)
            return self(x), zero
        logits, chosen = self._choose(x, None)
        found = chosen.to(torch.long)
        indices = found.topk(self.config.top_k, dim=-1).indices
        return self._weigh(logits, chosen).gather(-1, indices), indices

    def flops(self, length: int) -> int:
        return 0 if self.weight is None else 2 * length * self.weight.numel()

    def _choose(self, x: Tensor, ctx: Context | None) -> tuple[Tensor, Tensor]:
        """Logits (..., E) and which experts are chosen, True or False (..., E), k of them."""
        assert self.weight is not None
        high = torch.promote_types(x.dtype, torch.float32)
        with full_precision(x):
            logits = F.linear(x.to(high), self.weight.to(high))
        order = logits.detach()
        if self.config.balance == "bias":
            order = self._scores(order) + self.bias.to(high)
        best = order.topk(self.config.top_k, dim=-1).indices
        every = torch.arange(self.config.experts, device=x.device)
        return logits, choose((best[..., None] == every).any(-2), ctx)

    def _scores(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.config.gating == "sigmoid" else logits.softmax(-1)

    def _weigh(self, logits: Tensor, chosen: Tensor) -> Tensor:
        """The weights (..., E)."""
        if self.config.top_k == 1:
            return torch.where(chosen, self._scores(logits), torch.zeros_like(logits))
        # s / sum s of the chosen is the softmax of log s; the others leave it before the exponential.
        log_scores = F.logsigmoid(logits) if self.config.gating == "sigmoid" else logits
        return torch.where(chosen, log_scores, torch.full_like(logits, -torch.inf)).softmax(-1)

    def _balance(self, logits: Tensor, chosen: Tensor, ctx: Context, path: str) -> None:
        """The auxiliary losses, and in training the next bias of the choice."""
        config, tokens = self.config, tuple(range(logits.dim() - 1))
        if config.balance == "loss" and config.balance_weight:
            # E sum_e (share of the choices) (mean score), 1 where both are even; the choice has no slope.
            scores = self._scores(logits)
            share = chosen.to(logits.dtype).mean(tokens) / config.top_k
            mean = (scores / scores.sum(-1, keepdim=True)).mean(tokens)
            _add(ctx, f"{path}/balance", config.balance_weight * config.experts * (share * mean).sum())
        if config.z_loss:
            _add(ctx, f"{path}/z", config.z_loss * logits.logsumexp(-1).square().mean())
        if config.balance == "bias" and ctx.seed is not None:
            key = f"{path}.router.bias".removeprefix(".")
            load = chosen.to(logits.dtype).sum(tokens)
            # Sums of whole numbers, so that equal loads move nothing.
            lack = torch.sign(load.sum() - config.experts * load)
            ctx.updates[key] = ctx.updates.get(key, self.bias) + config.bias_rate * lack.to(self.bias.dtype)


def _add(ctx: Context, key: str, loss: Tensor) -> None:
    """A layer may run more than once per call."""
    ctx.losses[key] = ctx.losses[key] + loss if key in ctx.losses else loss
