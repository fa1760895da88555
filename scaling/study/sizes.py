"""Sizes of an architecture: the depth and width at which it has about so many parameters, counted exactly.

Depth is whole repetitions of the stripe pattern, width a multiple of 16 (finer only where that is too coarse
and the layers allow it). Of the shapes near a number of parameters N the one is taken whose aspect ratio,
width / layers, is nearest to 8 (N / 1e5)^(1/6): 8 at 1e5 parameters, 39 at 1e9, 88 at 1e11, where published
models stand. Shapes more than a factor of 8 from it are left out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

import architectures
from architectures.model import resolve_options
from mad.data.bounds import Above, Positive, Text, Whole
from mad.data.protocol import Data
from scaling.lm.cost import counted_params

STEPS = (16, 8, 4)
# The cost of a shape is 1 where it deviates by CLOSE from the wanted N, or by SHAPE from the preferred
# aspect ratio, as factors; beyond COARSE finer widths are tried.
CLOSE, SHAPE, COARSE = 1.2, 1.6, 2.0
# A size further than this factor from its target is refused, and a shape further from its aspect ratio.
FAR, BAND = 1.8, 8.0
# Neighbours in a ladder differ by at least this factor.
APART = 1.15
WIDEST = 65_536


class Size(Data):
    """An architecture at one depth and width.

    params  N: all parameters but the input embedding table; the readout counts ("standard" in
            arXiv:2406.19146). `total` has the table too, `core` neither table nor readout, `active` is that
            part of the core that one token uses.
    flops   training FLOPs per token at the length that it was counted at: 3 x the exact forward pass, of a
            nested model under its draw
    """

    spec: Text
    repeats: Positive
    layers: Positive
    dim: Positive
    params: Positive
    total: Positive
    core: Whole
    active: Whole
    flops: Above


def ladder(
    spec: str | architectures.Spec, targets: Sequence[float], *, vocab_size: int, seq_len: int
) -> tuple[Size, ...]:
    """A size for each number of parameters, increasing: of all such ladders the nearest to the targets.

    targets: numbers of parameters, increasing. Refuses, with a ValueError, a target that no shape is near,
    and a pattern too coarse to tell the targets apart.
    """
    shapes = _shapes(spec, vocab_size, seq_len)
    # The best ladder so far that ends in each shape: (cost, parameters, shapes).
    ends: list[tuple[float, float, tuple[_Shape, ...]]] = [(0.0, 0.0, ())]
    for target in targets:
        found = shapes.near(target)
        longer = []
        for shape in found:
            below = [end for end in ends if APART * end[1] <= shape.params]
            if below:
                cost, _, chain = min(below)
                longer.append((cost + shape.cost**2, shape.params, (*chain, shape)))
        if not longer:
            raise ValueError(shapes.complaint(target, found))
        ends = longer
    return tuple(shapes.size(shape.repeats, shape.dim) for shape in min(ends)[2])


def preferred_aspect(params: float) -> float:
    """Width / layers = 8 (N / 1e5)^(1/6)."""
    return 8.0 * (params / 1e5) ** (1 / 6)


class _Shape(NamedTuple):
    cost: float
    params: float
    repeats: int
    dim: int


class _Shapes:
    """The (repetitions, width) pairs of one pattern, each counted at most once."""

    def __init__(self, spec: str | architectures.Spec, vocab_size: int, seq_len: int) -> None:
        self.given, self.vocab_size, self.seq_len = spec, vocab_size, seq_len
        self.pattern, self.options = architectures.parse(spec), resolve_options(spec)
        self.counted, self.size = functools.cache(self._counted), functools.cache(self._size)

    def near(self, target: float) -> list[_Shape]:
        """The shapes within a factor FAR of a target; of finer widths only if those of 16 are all coarse."""
        found: list[_Shape] = []
        for step in STEPS:
            found += [x for x in self._candidates(target, step) if _off(x.params, target) <= math.log(FAR)]
            if any(x.cost <= COARSE for x in found):
                break
        if not found:
            raise ValueError(self.complaint(target, found))
        return found

    def _size(self, repeats: int, dim: int) -> Size:
        """A shape, counted in full."""
        spec = self._spec(repeats, dim)
        found = architectures.account(
            spec, vocab_size=self.vocab_size, dim=dim, seq_len=self.seq_len, options=self.options
        )
        params = self.counted(repeats, dim)
        assert params is not None
        return Size(
            spec=str(spec),
            repeats=repeats,
            layers=len(spec),
            dim=dim,
            params=params,
            total=found.params,
            core=found.core,
            active=found.active,
            flops=found.require_training_flops(),
        )

    def _candidates(self, target: float, step: int) -> Iterator[_Shape]:
        """Of each width the two depths around the target, where their aspect ratio is in the band."""
        preferred = preferred_aspect(target)
        for dim in _widths(step):
            one = self.counted(1, dim)
            if one is None:
                continue
            if one > FAR * target:
                return
            guess = max(1, int((target - one) / (self._estimate(2, dim) - one)) + 1)
            for repeats in (guess, guess + 1):
                params, shape = self._estimate(repeats, dim), dim / (repeats * len(self.pattern))
                if _off(shape, preferred) <= math.log(BAND):
                    cost = _off(params, target) / math.log(CLOSE), _off(shape, preferred) / math.log(SHAPE)
                    yield _Shape(math.hypot(*cost), params, repeats, dim)

    def _estimate(self, repeats: int, dim: int) -> float:
        """Each repetition adds as many parameters as the second."""
        one, two = self.counted(1, dim), self.counted(2, dim)
        assert one is not None and two is not None
        return one + (repeats - 1) * (two - one)

    def _counted(self, repeats: int, dim: int) -> int | None:
        """N of a shape; None where a layer refuses the width."""
        try:
            with torch.device("meta"):
                model = architectures.build(
                    self._spec(repeats, dim),
                    vocab_size=self.vocab_size,
                    dim=dim,
                    max_len=self.seq_len,
                    seed=0,
                    options=self.options,
                )
        except ValueError:
            return None
        return counted_params(model)

    def _spec(self, repeats: int, dim: int) -> architectures.Spec:
        return architectures.scale(self.pattern, depth=repeats * len(self.pattern), dim=dim)

    def complaint(self, target: float, near: Sequence[_Shape]) -> str:
        nearest = min(near, key=lambda x: _off(x.params, target), default=None)
        have = f"only {nearest.params:,.0f} at width {nearest.dim}, taken already" if nearest else "none near"
        return (
            f"{self.given} has no size of its own for about {target:,.0f} parameters ({have}); choose larger "
            "budgets, another span, fewer sizes, fewer tokens per parameter, a smaller vocabulary, or a "
            "shorter pattern"
        )


# The budgets of a study ask for the same shapes.
_shapes = functools.lru_cache(maxsize=16)(_Shapes)


def _off(value: float, target: float) -> float:
    return abs(math.log(value / target))


def _widths(step: int) -> Iterator[int]:
    """Multiples of `step`; wide ones in wider steps, as few as an octave has sixteenths."""
    dim = step
    while dim <= WIDEST:
        yield dim
        dim += step * max(1, 2 ** int(math.log2(dim / (16 * step)))) if dim >= 16 * step else step
