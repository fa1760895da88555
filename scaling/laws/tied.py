"""Several laws with unknowns in common, as one objective for the solver.

Each law keeps its own points and its own A and B; E, alpha and beta are each shared by all or each law's own.
A slot is the place of an unknown in the joint vector; laws that share an unknown have the same slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scaling.laws.law import Array
from scaling.laws.solver import GRID, HIGH, LOW, REACH, Points, System, descend, starts, system

NAMES = ("E", "A", "B", "alpha", "beta")
SHAREABLE = ("E", "alpha", "beta")
# Every other exponent of the grid: where both are shared, all pairs of them are solved for.
COARSE = GRID[::2]
# Best cells that the descent starts from.
STARTS = 4
# Exponents of a law whose own runs suggest none.
USUAL = 0.35


@dataclass(frozen=True, kw_only=True)
class Tied:
    """Laws (k) with slots (k, 5) in p joint unknowns: an objective over all their runs, law after law."""

    points: tuple[Points, ...]
    slots: npt.NDArray[np.intp]
    low: Array
    high: Array
    reach: Array

    @classmethod
    def of(cls, points: Sequence[Points], shared: Sequence[str]) -> Tied:
        slots = np.empty((len(points), len(NAMES)), np.intp)
        first = 0
        for j, name in enumerate(NAMES):
            own = 1 if name in shared else len(points)
            slots[:, j] = first + np.arange(len(points)) % own
            first += own
        low, high, reach = np.empty(first), np.empty(first), np.empty(first)
        low[slots], high[slots], reach[slots] = LOW, HIGH, REACH
        return cls(points=tuple(points), slots=slots, low=low, high=high, reach=reach)

    @property
    def n(self) -> int:
        return sum(points.n for points in self.points)

    def system(self, theta: Array, weights: Array, delta: float) -> System:
        rows, unknowns = theta.shape
        value, gradient = np.zeros(rows), np.zeros((rows, unknowns))
        newton, bound = np.zeros((rows, unknowns, unknowns)), np.zeros((rows, unknowns, unknowns))
        first = 0
        for points, slot in zip(self.points, self.slots, strict=True):
            block = np.ix_(np.arange(rows), slot, slot)
            part = system(theta[:, slot], points, weights[:, first : first + points.n], delta)
            value += part.value
            gradient[:, slot] += part.gradient
            newton[block] += part.newton
            bound[block] += part.bound
            first += points.n
        return System(value=value, gradient=gradient, newton=newton, bound=bound)

    def coefficients(self, theta: Array) -> list[Array]:
        """For each law its E, A, B, alpha, beta in raw units, (rows, 5), from joint unknowns (rows, p)."""
        return [
            points.coefficients(theta[:, slot]) for points, slot in zip(self.points, self.slots, strict=True)
        ]


def optimum(tied: Tied, delta: float) -> tuple[Array, float, bool]:
    """The joint unknowns (p,) with the lowest objective of several starts, its value, if it converged."""
    theta, value, converged = descend(joint_starts(tied), tied, np.ones(tied.n), delta)
    best = int(value.argmin())
    return theta[best], float(value[best]), bool(converged[best])


def joint_starts(tied: Tied) -> Array:
    """The joint unknowns (at most 4, p) of the best candidates, best first: variable projection.

    For given exponents all else is linear, so a candidate is a pair of exponents a law and one linear system.
    """
    exponents = _candidates(tied)  # (m, k, 2)
    count = len(exponents)
    floors = tied.slots[:, 0].max() + 1
    theta = np.zeros((count, len(tied.low)))
    best = np.full(count, np.inf)
    for with_floor in (False, True):
        coefficients, error = _linear(tied, exponents, floors, with_floor)
        # A law that a start leaves without one of its terms begins with a trace of it.
        positive = (coefficients[:, floors:] > 0).all(1) & (coefficients[:, :floors] >= 0).all(1)
        better = (positive & (error < best)) if with_floor else np.ones(count, bool)
        theta[better, :floors] = coefficients[better, :floors]
        theta[better, floors : floors + 2 * len(tied.points)] = np.log(
            np.maximum(coefficients[better, floors:], 1e-3)
        )
        best = np.where(better, np.where(positive, error, 1e3 + error), best)
    for k, slot in enumerate(tied.slots):
        theta[:, slot[3:]] = exponents[:, k]
    return theta[np.argsort(best, kind="stable")[:STARTS]]


def _candidates(tied: Tied) -> Array:
    """Exponents (m, k, 2) to try: a shared one runs over the grid, an own one is its law's best cell."""
    own = np.full((len(tied.points), 2), USUAL)
    for k, points in enumerate(tied.points):
        found = starts(points, np.ones(points.n), 1)
        if len(found):
            own[k] = found[0, 3:]
    shared = [len(set(tied.slots[:, j])) == 1 for j in (3, 4)]
    axes = [COARSE if one else np.zeros(1) for one in shared]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 1, 2)
    return np.where(shared, grid, own)


def _linear(tied: Tied, exponents: Array, floors: int, with_floor: bool) -> tuple[Array, Array]:
    """Least squares of relative error: E's, A's and B's (m, floors + 2 k) and the error (m,) by candidate."""
    count, laws = len(exponents), len(tied.points)
    unknowns = floors + 2 * laws
    gram, right, total = np.zeros((count, unknowns, unknowns)), np.zeros((count, unknowns)), 0.0
    for k, points in enumerate(tied.points):
        inverse = np.exp(-points.log_loss)
        columns = np.stack(
            [
                np.broadcast_to(inverse, (count, points.n)) * with_floor,
                np.exp(-exponents[:, k, :1] * points.x) * inverse,
                np.exp(-exponents[:, k, 1:] * points.y) * inverse,
            ],
            axis=1,
        )
        slot = tied.slots[k, :3]
        gram[np.ix_(np.arange(count), slot, slot)] += columns @ columns.swapaxes(1, 2)
        right[:, slot] += columns.sum(2)
        total += points.n
    size = np.sqrt(np.maximum(np.einsum("mii->mi", gram), 1e-300))
    scaled = gram / (size[:, :, None] * size[:, None, :]) + 1e-10 * np.eye(unknowns)
    found = np.linalg.solve(scaled, (right / size)[:, :, None])[:, :, 0] / size
    return found, total - np.einsum("mi,mi->m", found, right)
