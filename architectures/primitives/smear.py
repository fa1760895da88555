"""Smear: each token takes a little of the one before it along, ahead of the body."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.wrapper import Block, Run, Wrapper
from architectures.parts.short_conv import TokenShift
from architectures.primitive import Context, Options, State, option
from architectures.registry import primitive


@primitive(
    "smear",
    mixes="stream",
    version=1,
    paper="arXiv:2209.11895",
    example="smear{mh-attention mlp}",
    known_as="modded-nanogpt",
)
class Smear(Wrapper):
    """x_t = x_t + c sigmoid(w . x_t[:12]) x_{t-1}, then x = x + f(x) for each f of the body.

    (B, T, D) -> (B, T, D). One number c and one w for all channels, both 0 at the start, when the layer is
    its body. As the outermost wrapper of a spec it smears the embedding. Differs from the paper, which mixes
    the keys of each head with those before them: the stream itself is smeared, by a gate that reads a few
    channels of the token, as in the modded-nanogpt speedrun, whose gate learns at a hundredth of the rate.

    Hypothesis: around one layer of attention it makes in-context recall solvable, later than
    `key-offset-attention`; around a mixer that has a short convolution it does nothing.
    """

    writers = ("strength",)
    undecayed = ("gate",)

    class Config(Options):
        read: int = option(12, "first channels of the token, which the gate reads", least=1)

    config: Config

    def __init__(self, config: Config, *, body: list[Block], dim: int, **place: int) -> None:
        super().__init__(config, body=body, dim=dim, **place)
        if config.read > dim:
            raise ValueError(f"read={config.read} is more than the width {dim}; choose at most {dim}")
        self.gate = nn.Linear(config.read, 1, bias=False)
        nn.init.zeros_(self.gate.weight)
        self.strength = nn.Parameter(torch.zeros(1))
        self.shift = TokenShift(dim)

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return (*super().state_kinds, "conv")

    def init_state(self, batch: int, length: int | None = None) -> State:
        """The states of the blocks, then the stream of the last token before it was smeared (B, 1, D)."""
        return *super().init_state(batch, length), self.shift.init_tail(self.strength, batch)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        return super().forward(self._smear(x, self.shift.init_tail(x, x.shape[0]))[0], ctx)

    def thread(self, x: Tensor, run: Run, ctx: Context) -> Tensor:
        for block in self.order():
            x = x + run(block, x)
        return x

    def own_flops(self, length: int) -> int:
        return 2 * length * self.config.read + self.own_uncounted(length)

    def own_uncounted(self, length: int) -> int:
        return 2 * length * self.dim

    def axes(self) -> Axes:
        return Axes(tensors={"gate.weight": ". .", "strength": "."})

    def _smear(self, x: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, D) and the token before it (B, 1, D) -> the smeared x, and the last token."""
        before, last = self.shift(x, last)
        gate = self.strength * self.gate(x[..., : self.config.read]).sigmoid()
        return x + gate.to(x.dtype) * before, last

    def _advance(self, verb: str, x: Tensor, state: State, ctx: Context | None) -> tuple[Tensor, State]:
        *inside, last = state
        smeared, last = self._smear(x if verb == "prefill" else x[:, None], last)
        y, after = super()._advance(verb, smeared if verb == "prefill" else smeared[:, 0], tuple(inside), ctx)
        return y, (*after, last)
