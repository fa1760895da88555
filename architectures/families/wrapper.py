"""The base of layers around layers: they own the residual stream of their body.

A subclass says in `thread` how the stream runs through the blocks; state, step, prefill and the count of work
follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import cast

from torch import Tensor, nn

from architectures.blocks import Advance, Block, WrapperBlock, outermost, state_size
from architectures.primitive import Context, Primitive, State

__all__ = ["Advance", "Block", "Run", "Wrapper", "nominal", "outermost", "state_size"]

# A block of the body and its input -> what the block adds to the stream.
Run = Callable[[Block, Tensor], Tensor]


class Wrapper(Primitive):
    """Blocks of a body in the order of `order`, each with a state of its own; what joins them is `thread`.

    The stream is (..., D): the same code runs (B, T, D) and, in `step`, (B, D).
    """

    kind = "wrapper"

    def __init__(self, config: object, *, body: list[Block], **place: int) -> None:
        super().__init__(config, **place)
        self.body = nn.ModuleList(body)
        self.causal = all(layer.causal for layer in self.inside())
        self.exact_causality = all(layer.exact_causality for layer in self.inside())

    def thread(self, x: Tensor, run: Run, ctx: Context) -> Tensor:
        """The stream after the body; calls `run` for every block of `order`, in that order."""
        raise NotImplementedError(f"{type(self).__name__} defines no thread")

    def order(self) -> list[Block]:
        """The blocks as they are run; one that is run twice stands there twice."""
        return list(cast("Iterable[Block]", self.body))

    def normed(self) -> list[Block]:
        """Every norm and layer in the body, those inside its branches and wrappers too."""
        return [m for m in self.body.modules() if isinstance(m, Block) and not isinstance(m, WrapperBlock)]

    def inside(self) -> Iterator[Primitive]:
        """Every layer in the body, in the order of reading."""
        return (m for m in self.body.modules() if isinstance(m, Primitive))

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return tuple(kind for block in self.order() for kind in block.state_kinds)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        ctx = Context() if ctx is None else ctx
        return self.thread(x, lambda block, u: block(u, ctx), ctx)

    def init_state(self, batch: int, length: int | None = None) -> State:
        """The states of the blocks, in the order in which they are run."""
        self.check_length(length)
        return tuple(t for block in self.order() for t in block.init_state(batch, length))

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        return self._advance("step", x, state, ctx)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        return self._advance("prefill", x, state, ctx)

    def flops(self, length: int) -> int:
        return sum(block.flops(length) for block in self.order()) + self.own_flops(length)

    def executed_flops(self, length: int) -> int:
        return sum(block.executed_flops(length) for block in self.order()) + self.own_flops(length)

    def uncounted_flops(self, length: int) -> int:
        return sum(block.uncounted_flops(length) for block in self.order()) + self.own_uncounted(length)

    def own_flops(self, length: int) -> int:
        """What the wrapper computes around the blocks."""
        return 0

    def own_uncounted(self, length: int) -> int:
        """The part of `own_flops` that is element-wise."""
        return 0

    def nominal_state(self, length: int) -> int:
        return sum(nominal(block, length) for block in self.order())

    def active_params(self) -> int:
        idle = sum(_idle(layer) for layer in outermost(self.body))
        return sum(p.numel() for p in self.parameters()) - idle

    def _advance(self, verb: str, x: Tensor, state: State, ctx: Context | None) -> tuple[Tensor, State]:
        run = Advance(verb, state, ctx := Context() if ctx is None else ctx)
        return self.thread(x, run, ctx), tuple(run.after)


def _idle(layer: Primitive) -> int:
    """Parameters that one token leaves unused."""
    return sum(p.numel() for p in layer.parameters()) - layer.active_params()


def nominal(block: Block, length: int) -> int:
    """The nominal state of a block."""
    return sum(layer.nominal_state(length) for layer in outermost(block))
