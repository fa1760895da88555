"""The optimum of an objective: a search from the best candidates of variable projection.

For given exponents a law is linear in E, A and B, so a grid of exponents needs one small linear system per
cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scaling.laws.law import Array
from scaling.laws.objective import SQUARES, Points, Problem
from scaling.laws.runs.cleaning import NotIdentified
from scaling.laws.solver import descend, vertex

GRID = np.geomspace(0.03, 1.9, 36)
# Every other exponent of the grid: where both are tied, all pairs of them are solved for.
COARSE = GRID[::2]
# Best cells that the descent starts from: of one law with free exponents, and of others.
CELLS, CANDIDATES = 3, 4
# Exponents of a law whose own runs suggest none.
USUAL = 0.35
# Least absolute deviations are approached by Huber objectives.
LAD = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
# For resamples, which start at the optimum and whose scatter is far above the difference.
LAD_AGAIN = (1e-3, 1e-4, 1e-5)


def stages(objective: str, delta: float) -> tuple[float, ...]:
    """The thresholds of the Huber objectives by which an objective is reached."""
    return {"huber": (delta,), "lad": LAD, "log-mse": (SQUARES,)}[objective]


def optimum(problem: Problem, thresholds: Sequence[float]) -> tuple[Array, float, bool]:
    """The unknowns (p,) with the lowest objective over several starts, its value, and whether it converged.

    thresholds of the Huber objective: each from the optimum of the last. LAD ends at a vertex.
    """
    weights = np.ones(problem.n)
    theta = starts(problem, weights)
    if not len(theta):
        raise NotIdentified(
            "in no power law of these runs does the loss fall with both params and tokens; add runs that "
            "vary one while the other stays, over a factor of 10 or more"
        )
    for delta in thresholds:
        theta, value, converged = descend(theta, problem, weights, delta)
    best = int(value.argmin())
    if thresholds != LAD:
        return theta[best], float(value[best]), bool(converged[best])
    exact = vertex(theta[best], problem, weights)
    return exact, float(np.abs(problem.residuals(exact[None])[0][0]) @ weights), bool(converged[best])


def starts(problem: Problem, weights: Array) -> Array:
    """The unknowns (k, p) of the best candidates; empty where a single law falls with N and D in none.

    A form with gamma starts from laws without it: the logarithms of both terms are divided by gamma, and
    shifted so that where the terms are equal their sum is as before.
    """
    if len(problem.points) == 1 and not problem.tied_exponents.any():
        found = cells(problem.points[0], weights)
        theta = np.zeros((len(found), len(problem.low)))
        theta[:, problem.slots[0, :5]] = found
    else:
        theta = _together(problem)
    if not problem.form.gammas:
        return theta
    places, parts = problem.slots[:, 1:3], []
    for gamma in problem.form.gammas:
        raised = theta.copy()
        raised[:, places] = theta[:, places] / gamma + (1 / gamma - 1) * np.log(2)
        raised[:, problem.slots[:, 3:5]] = theta[:, problem.slots[:, 3:5]] / gamma
        raised[:, problem.slots[:, 5]] = gamma
        parts.append(raised)
    return np.concatenate(parts)


def cells(points: Points, weights: Array, count: int = CELLS) -> Array:
    """E, ln A', ln B', alpha, beta (at most count, 5) at the best cells of the grid, no two of them close.

    Least squares of relative error, with E, A', B' >= 0: where E would be negative it is 0.
    Empty if no cell has both A' and B' above 0.
    """
    loss = np.exp(points.log_loss)
    u, v = np.exp(-GRID[:, None] * points.x), np.exp(-GRID[:, None] * points.y)  # (m, n)
    weight = weights / weights.sum() / loss**2
    best, found = np.full((len(GRID), len(GRID)), np.inf), np.zeros((len(GRID), len(GRID), 5))
    for centred in (False, True):
        mean = weight / weight.sum() if centred else np.zeros_like(weight)
        u0, v0, loss0 = u @ mean, v @ mean, loss @ mean
        du, dv, dl = u - u0[:, None], v - v0[:, None], loss - loss0
        norm_u, norm_v = np.sqrt(du**2 @ weight), np.sqrt(dv**2 @ weight)
        cross = (du * weight) @ dv.T / (norm_u[:, None] * norm_v)
        to_u, to_v = (du @ (weight * dl) / norm_u)[:, None], (dv @ (weight * dl) / norm_v)[None]
        rest = np.maximum(1 - cross**2, 1e-12)
        a, b = (to_u - cross * to_v) / rest, (to_v - cross * to_u) / rest
        error = dl**2 @ weight - a * to_u - b * to_v
        coefficient_a, coefficient_b = a / norm_u[:, None], b / norm_v
        e = loss0 - coefficient_a * u0[:, None] - coefficient_b * v0
        better = (a > 0) & (b > 0) & (e >= 0) & (error < best)
        best[better] = error[better]
        found[better, 0] = e[better] if centred else 0.0
        found[better, 1:3] = np.log(np.stack([coefficient_a[better], coefficient_b[better]], -1))
    found[..., 3], found[..., 4] = GRID[:, None], GRID
    chosen: list[Array] = []
    index = np.arange(len(GRID))
    while len(chosen) < count and np.isfinite(best).any():
        i, j = np.unravel_index(best.argmin(), best.shape)
        chosen.append(found[i, j])
        best[np.ix_(np.abs(index - i) < 4, np.abs(index - j) < 4)] = np.inf
    return np.array(chosen).reshape(-1, 5)


def _together(problem: Problem) -> Array:
    """The unknowns (at most 4, p) of the best candidates, each the exponents of all laws; gamma is left 0."""
    exponents = _candidates(problem)  # (m, k, 2)
    count, laws = len(exponents), len(problem.points)
    floors = int(problem.slots[:, 0].max()) + 1
    theta, best = np.zeros((count, len(problem.low))), np.full(count, np.inf)
    lawful = np.zeros(count, bool)
    for with_floor in (False, True):
        coefficients, error = _linear(problem, exponents, floors, with_floor)
        # A law that a start leaves without one of its terms begins with a trace of it.
        positive = (coefficients[:, floors:] > 0).all(1) & (coefficients[:, :floors] >= 0).all(1)
        better = (positive & (error < best)) if with_floor else np.ones(count, bool)
        theta[better, :floors] = coefficients[better, :floors]
        theta[better, floors : floors + 2 * laws] = np.log(np.maximum(coefficients[better, floors:], 1e-3))
        lawful |= positive
        best = np.where(better, np.where(positive, error, 1e3 + error), best)
    for k, slot in enumerate(problem.slots):
        theta[:, slot[3:5]] = exponents[:, k]
    order = np.argsort(best, kind="stable")
    return theta[(order[lawful[order]] if laws == 1 else order)[:CANDIDATES]]


def _candidates(problem: Problem) -> Array:
    """Exponents (m, k, 2) to try: tied ones run over the grid, an own one is its law's best cell."""
    own = np.full((len(problem.points), 2), USUAL)
    for k, points in enumerate(problem.points):
        found = cells(points, np.ones(points.n), 1)
        if len(found):
            own[k] = found[0, 3:]
    tied = problem.tied_exponents
    axes = [COARSE if one else np.zeros(1) for one in tied]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 1, 2)
    if (problem.slots[:, 3] == problem.slots[:, 4]).all():
        grid = grid[grid[..., 0] == grid[..., 1]].reshape(-1, 1, 2)
    return np.where(tied, grid, own)


def _linear(problem: Problem, exponents: Array, floors: int, with_floor: bool) -> tuple[Array, Array]:
    """Least squares of relative error: E's, A's and B's (m, floors + 2 k) and the error (m,) by candidate."""
    count, laws = len(exponents), len(problem.points)
    unknowns = floors + 2 * laws
    gram, right, total = np.zeros((count, unknowns, unknowns)), np.zeros((count, unknowns)), 0.0
    for k, points in enumerate(problem.points):
        inverse = np.exp(-points.log_loss)
        columns = np.stack(
            [
                np.broadcast_to(inverse, (count, points.n)) * with_floor,
                np.exp(-exponents[:, k, :1] * points.x) * inverse,
                np.exp(-exponents[:, k, 1:] * points.y) * inverse,
            ],
            axis=1,
        )
        slot = problem.slots[k, :3]
        gram[np.ix_(np.arange(count), slot, slot)] += columns @ columns.swapaxes(1, 2)
        right[:, slot] += columns.sum(2)
        total += points.n
    size = np.sqrt(np.maximum(np.einsum("mii->mi", gram), 1e-300))
    scaled = gram / (size[:, :, None] * size[:, None, :]) + 1e-10 * np.eye(unknowns)
    found = np.linalg.solve(scaled, (right / size)[:, :, None])[:, :, 0] / size
    return found, total - np.einsum("mi,mi->m", found, right)
