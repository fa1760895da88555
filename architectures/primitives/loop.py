"""Loop: layers run several times with the same weights, and are shown their input again each time."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from architectures.families.wrapper import Block, Run, Wrapper
from architectures.functional.steps import softplus
from architectures.parts.norms import RMSNorm
from architectures.primitive import Context, Options, option
from architectures.registry import primitive

# What is left of the state after a pass, at the start.
KEPT = math.sqrt(1 / 5)


@primitive(
    "loop", mixes="stream", paper="arXiv:2604.12946", example="loop{mh-attention mlp}", known_as="Parcae"
)
class Loop(Wrapper):
    """h = core(a * h + d * B e), n times over, e = norm(x), y = C h: (B, T, D) -> (B, T, D).

    core is the body with its residuals, the same weights in all n = `times` passes, each with its own state.
    What stands before this layer in a spec is the prelude, what stands after it the coda: its output takes
    the stream's place. d = softplus(b) and a = exp(-d exp(A)) are learned for each channel; a is below 1
    whatever A and b become, so that what is carried from pass to pass fades. B and C (D, D) start as the
    identity, d as 0.805, and with it a = 0.447. `injection`: "diagonal" is that equation; "add" is
    h = core(h + e), "linear" h = core(W h + U e), both without that bound; W and U start as the identity.
    h starts at 0, with `start=input` at e. With a = 1, B = 0 and `start=input` it is `repeat`. Differs from
    the paper: the number of passes is fixed, there drawn for each sequence in training, with a gradient
    through the last ones only; h starts at 0, there with noise; C starts as the identity.

    Hypothesis: with the parameters of one pass, looping helps with several hops and with tracking a state,
    and does nothing for memorisation.
    """

    undecayed = ("rate", "step_bias", "inject", "carry", "out")

    class Config(Options):
        times: int = option(4, "how often the body is run", least=1)
        injection: Literal["diagonal", "add", "linear"] = option("diagonal", "how a pass is shown the input")
        start: Literal["zero", "input"] = option("zero", "the state before the first pass")

    config: Config

    def __init__(self, config: Config, *, body: list[Block], dim: int, **place: int) -> None:
        super().__init__(config, body=body, dim=dim, **place)
        kind = config.injection
        # With one pass from zero there is nothing to carry over.
        self.carries = config.times > 1 or config.start == "input"
        self.norm = RMSNorm(dim)
        self.inject = None if kind == "add" else _identity(dim)
        self.carry = _identity(dim) if kind == "linear" and self.carries else None
        step = -math.log(KEPT)
        self.rate = nn.Parameter(torch.zeros(dim)) if kind == "diagonal" and self.carries else None
        self.step_bias: nn.Parameter | None = None
        if kind == "diagonal":
            self.step_bias = nn.Parameter(torch.full((dim,), step + math.log(-math.expm1(-step))))
        self.out = _identity(dim)

    @classmethod
    def passes(cls, config: Config) -> int:
        return config.times

    def thread(self, x: Tensor, run: Run, ctx: Context) -> Tensor:
        e = self.norm(x)
        shown = e if self.inject is None else self.inject(e)  # the same in every pass
        if self.step_bias is not None:
            shown = softplus(self.step_bias).to(x.dtype) * shown
        h = e if self.config.start == "input" else None
        for _ in range(self.config.times):
            h = shown if h is None else self._carry(h) + shown
            for block in super().order():
                h = h + run(block, h)
        return self.out(h)

    def order(self) -> list[Block]:
        return self.config.times * super().order()

    def own_flops(self, length: int) -> int:
        carried = self._carried() if self.carry is not None else 0
        maps = 1 + (self.inject is not None) + carried
        return 2 * length * maps * self.dim**2 + self.own_uncounted(length)

    def own_uncounted(self, length: int) -> int:
        """A sum for each pass that carries something over, and a factor on both of its terms."""
        diagonal = self.step_bias is not None
        return length * self.dim * (self._carried() * (1 + diagonal) + diagonal)

    def _carry(self, h: Tensor) -> Tensor:
        """What a pass finds of the state that the one before left."""
        if self.carry is not None:
            return self.carry(h)
        if self.rate is None or self.step_bias is None:
            return h
        return torch.exp(-softplus(self.step_bias) * self.rate.exp()).to(h.dtype) * h

    def _carried(self) -> int:
        """The passes that carry a state over."""
        return self.config.times - (self.config.start == "zero")


def _identity(dim: int) -> nn.Linear:
    linear = nn.Linear(dim, dim, bias=False)
    nn.init.eye_(linear.weight)
    return linear
