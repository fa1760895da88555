"""Value residual: every mixer of the body sees the values of its first one beside its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.wrapper import Block, Run, Wrapper
from architectures.functional.value_residual import FIRST, mix_key, unequal_values
from architectures.primitive import Context, Options, Primitive, option
from architectures.registry import primitive


@primitive(
    "value-residual",
    mixes="stream",
    paper="arXiv:2410.17897",
    example="value-residual{delta-net gated-delta-net}",
    known_as="ResFormer",
)
class ValueResidual(Wrapper):
    """v_l = w_0 v_l + w_1 v_1 in every mixer l > 1 of the body, v_1 the first one's: (B, T, D) -> (B, T, D).

    Two learned numbers per mixer, both `initial` at the start. The body needs at least two layers whose
    values can be shared (attention, and the layers around a matrix state), of equal width in all. What is
    shared belongs to the same token, so decoding carries nothing more. Differs from the paper: nothing known.
    """

    class Config(Options):
        initial: float = option(0.5, "both weights of the mix at the start")

    def __init__(self, config: Config, *, body: list[Block], dim: int, **place: int) -> None:
        super().__init__(config, body=body, dim=dim, **place)
        if any(isinstance(layer, ValueResidual) for layer in self.inside()):
            raise ValueError(
                "value-residual stands inside another one; its values are shared already: leave one out"
            )
        count = len(self._sharing())
        if count < 2:
            raise ValueError(
                f"value-residual shares the values of two or more layers, and its body has {count} with "
                "values that can be shared; give it two, such as "
                "value-residual{mh-attention swiglu mh-attention swiglu}"
            )
        first, *later = self._sharing()
        for layer in later:
            if layer.value_widths != first.value_widths:
                raise unequal_values(layer.index, layer.value_widths, first.value_widths)
        self.mix = nn.Parameter(torch.full((count - 1, 2), config.initial))

    def axes(self) -> Axes:
        return Axes(tensors={"mix": ". ."}, fixed=("V", "G", "R", "H"))

    def thread(self, x: Tensor, run: Run, ctx: Context) -> Tensor:
        first, *later = (mix_key(layer.index) for layer in self._sharing())
        ctx.shared |= {first: self.mix.new_empty(0), **dict(zip(later, self.mix.unbind(0), strict=True))}
        for block in self.order():
            x = x + run(block, x)
        for key in (first, *later, FIRST):
            del ctx.shared[key]
        return x

    def _sharing(self) -> list[Primitive]:
        return [layer for layer in self.inside() if layer.value_widths]
