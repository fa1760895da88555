"""Repeat: layers run several times with the same weights."""

from __future__ import annotations

from torch import Tensor

from architectures.axes import Axes
from architectures.families.wrapper import Block, Run, Wrapper
from architectures.primitive import Context, Options, option
from architectures.registry import primitive


@primitive(
    "repeat",
    mixes="stream",
    version=1,
    paper="arXiv:1807.03819",
    example="repeat{mh-attention mlp}",
    known_as="Universal Transformer",
)
class Repeat(Wrapper):
    """x = body(x), `times` times over with the same weights: (B, T, D) -> (B, T, D).

    Depth without parameters: what a model needs for several hops or for tracking a state. Each pass has a
    state of its own. Differs from the paper: no code of the pass and no halting, every position is run
    `times` times.
    """

    class Config(Options):
        times: int = option(2, "how often the body is run", least=1)

    config: Config

    @classmethod
    def passes(cls, config: Config) -> int:
        return config.times

    def axes(self) -> Axes:
        return Axes()

    def thread(self, x: Tensor, run: Run, ctx: Context) -> Tensor:
        for block in self.order():
            x = x + run(block, x)
        return x

    def order(self) -> list[Block]:
        return self.config.times * super().order()
