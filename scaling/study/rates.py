"""The learning-rate rule: tuned at two sizes of an architecture, a power of N in between.

    lr(N) = c N^-p

At each of the two sizes the best rate is the vertex of a parabola in ln lr through the best point of a short
grid and its neighbours. A best point on the grid's edge extends the grid once; if it is on the edge still,
that point is taken and flagged. Outside of the tuned sizes the power law goes on, by at most a factor CAP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

# The rates that are tuned over, where none are named.
LRS = (4e-3, 8e-3, 1.6e-2, 3.2e-2)
CAP = 2.0
# How many points an extension adds.
FURTHER = 2


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """The best learning rate at a size of `params` parameters. `on_edge`: the grid did not reach past it."""

    params: float
    lr: float
    on_edge: bool


def extension(losses: Mapping[float, float | None], grid: tuple[float, ...]) -> tuple[float, ...]:
    """The rates to try beyond a grid whose best point is its first or last; none where it is inside.

    losses: held-out loss by learning rate, None for a run that diverged; all of `grid`, which increases.
    """
    best = _best({lr: losses[lr] for lr in grid})
    if best == grid[-1]:
        ratio = grid[-1] / grid[-2]
        return tuple(_tidy(grid[-1] * ratio**k) for k in range(1, FURTHER + 1))
    if best == grid[0]:
        ratio = grid[1] / grid[0]
        return tuple(_tidy(grid[0] / ratio**k) for k in range(FURTHER, 0, -1))
    return ()


def optimum(losses: Mapping[float, float | None], *, params: float) -> Optimum:
    """The best rate among those that were tried at one size; ValueError where every run diverged."""
    best, rates = _best(losses), sorted(losses)
    at = rates.index(best)
    on_edge = at in (0, len(rates) - 1)
    if on_edge or any(losses[rates[i]] is None for i in (at - 1, at + 1)):
        return Optimum(params=params, lr=best, on_edge=on_edge)
    x = [math.log(rates[i] / best) for i in (at - 1, at + 1)]
    y = [_loss(losses, rates[i]) - _loss(losses, best) for i in (at - 1, at + 1)]
    # The parabola a x^2 + b x through (0, 0) and the two neighbours, both of which lie above it.
    a = (y[1] / x[1] - y[0] / x[0]) / (x[1] - x[0])
    b = y[0] / x[0] - a * x[0]
    return Optimum(params=params, lr=best * math.exp(-b / (2 * a)) if a > 0 else best, on_edge=False)


@dataclass(frozen=True, kw_only=True)
class RateRule:
    """lr(N) = c N^-p through the optima of a small and a large size; through one optimum a constant."""

    optima: tuple[Optimum, ...]

    def at(self, params: float) -> float:
        """The learning rate of a size: rounded to three digits, so that it reads as it is stored."""
        small, large = self.optima[0], self.optima[-1]
        if small.params == large.params:
            return _tidy(small.lr)
        slope = math.log(large.lr / small.lr) / math.log(large.params / small.params)
        lr = small.lr * (params / small.params) ** slope
        inside = sorted((small.lr, large.lr))
        return _tidy(min(max(lr, inside[0] / CAP), inside[1] * CAP))

    @property
    def exponent(self) -> float:
        """p: positive where larger models want smaller rates."""
        small, large = self.optima[0], self.optima[-1]
        if small.params == large.params:
            return 0.0
        return -math.log(large.lr / small.lr) / math.log(large.params / small.params)

    @property
    def flags(self) -> tuple[str, ...]:
        return tuple(
            f"best learning rate {best.lr:.3g} at {best.params:,.0f} parameters lies on the edge of its grid"
            for best in self.optima
            if best.on_edge
        )


def _best(losses: Mapping[float, float | None]) -> float:
    finite = {lr: loss for lr, loss in losses.items() if loss is not None}
    if not finite:
        raise ValueError(
            f"every run diverged at learning rates {', '.join(f'{lr:g}' for lr in sorted(losses))}; give "
            "smaller ones"
        )
    return min(finite, key=lambda lr: (finite[lr], lr))


def _loss(losses: Mapping[float, float | None], lr: float) -> float:
    loss = losses[lr]
    assert loss is not None
    return loss


def _tidy(lr: float) -> float:
    return float(f"{lr:.3g}")
