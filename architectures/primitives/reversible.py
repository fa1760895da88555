"""Reversible residual streams: activation memory that does not grow with depth."""

from __future__ import annotations

import torch
from torch import Tensor

from architectures.families.wrapper import Run, Wrapper
from architectures.functional.reversible import reversible
from architectures.primitive import Context
from architectures.registry import primitive


@primitive(
    "reversible",
    mixes="stream",
    paper="arXiv:2001.04451",
    example="reversible{mh-attention mlp}",
    known_as="Reformer, Terraformer",
)
class Reversible(Wrapper):
    """(a, b) = (b, a + f(b)) for each block f of the body, y = (a + b) / 2: (B, T, D) -> (B, T, D).

    The two streams start as copies of x. A block's input is found again from its output, so training keeps
    the last two streams and nothing in between: activation memory is that of one block, whatever the depth,
    for about a third more arithmetic. Kept beside them are discrete choices and what blocks leave for each
    other. Differs from the paper: any block; each is a half-residual of its own, as in arXiv:2111.12763.
    """

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        ctx = Context() if ctx is None else ctx
        # A compiler cannot nest the second run, nor repeat random draws of a user's layer: it stores.
        stored = torch.compiler.is_compiling() and (
            ctx.choices is not None or any(layer.draws for layer in self.inside())
        )
        if stored or not torch.is_grad_enabled():
            return super().forward(x, ctx)
        a, b = reversible(self.order(), x, ctx)
        return 0.5 * (a + b)

    def thread(self, x: Tensor, run: Run, ctx: Context) -> Tensor:
        a, b = x, x
        for block in self.order():
            a, b = b, a + run(block, b)
        return 0.5 * (a + b)

    def own_flops(self, length: int) -> int:
        return (len(self.body) + 2) * length * self.dim  # the sums, and the average

    def own_uncounted(self, length: int) -> int:
        return self.own_flops(length)
