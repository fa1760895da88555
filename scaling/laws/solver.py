"""The optimum of an objective: the best candidates of variable projection, and a damped Newton descent.

For given exponents a law is linear in E, A and B, so a grid of exponents needs one small linear system per
cell. The descent takes many weightings of the runs at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scaling.laws.law import Array
from scaling.laws.objective import SQUARES, Mask, Points, Problem
from scaling.laws.runs.cleaning import NotIdentified

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


def descend(
    theta: Array,
    problem: Problem,
    weights: Array,
    delta: float,
    *,
    tolerance: float = 1e-13,
    limit: int = 200,
) -> tuple[Array, Array, Mask]:
    """Unknowns, objectives (k,) and whether each converged (k,), from rows of starts.

    Converged: a step of the reweighted least squares would gain less than `tolerance` of the objective.
    """
    low, high = problem.low, problem.high
    theta = np.clip(theta, low, high)
    weights = np.broadcast_to(weights, (len(theta), problem.n))
    best, value, converged = theta.copy(), np.full(len(theta), np.nan), np.zeros(len(theta), bool)
    rows, now = np.arange(len(theta)), problem.system(theta, weights, delta)
    damping = np.full(len(theta), 1.0)
    smallest = 1e-24 * weights.sum(1)
    for _ in range(limit):
        free = ~(((theta <= low) & (now.gradient > 0)) | ((theta >= high) & (now.gradient < 0)))
        gradient = np.where(free, now.gradient, 0.0)
        gain = -np.einsum("ki,ki->k", gradient, _solve(now.bound, gradient, free))
        done = gain <= tolerance * now.value + smallest
        # Damped beyond this, a step is lost in rounding.
        stuck = ~done & (damping > 1e10)
        if (done | stuck).any():
            over = done | stuck
            best[rows[over]], value[rows[over]] = theta[over], now.value[over]
            converged[rows[over]] = done[over] | (gain[over] <= 1e-7 * now.value[over])
            keep = ~over
            if not keep.any():
                return best, value, converged
            theta, weights, rows, damping = theta[keep], weights[keep], rows[keep], damping[keep]
            free, gradient, smallest, now = free[keep], gradient[keep], smallest[keep], now.rows(keep)
        matrix = now.newton + damping[:, None, None] * now.bound
        step = _solve(matrix, gradient, free)
        ends = np.clip(theta + step, low, high) - theta
        beyond = (theta + step < low) | (theta + step > high)
        if beyond.any():
            # What would leave its limits goes to them, and the others to where that is best for them.
            held = np.where(beyond, ends, 0.0)
            inner = free & ~beyond
            pulled = np.where(inner, gradient + np.einsum("kij,kj->ki", matrix, held), 0.0)
            step = np.where(beyond, ends, _solve(matrix, pulled, inner))
        step *= np.minimum(1.0, 1.0 / np.maximum(np.abs(step / problem.reach).max(1), 1e-300))[:, None]
        trial = np.clip(theta + step, low, high)
        then = problem.system(trial, weights, delta)
        lower = then.value < now.value
        moved = trial - theta
        model = -np.einsum("ki,ki->k", now.gradient, moved)
        model -= 0.5 * np.einsum("ki,kij,kj->k", moved, now.newton, moved)
        good = lower & (now.value - then.value > 0.25 * model)
        damping = np.where(good, np.maximum(damping * 0.25, 1e-12), np.where(lower, damping, damping * 10))
        theta, now = np.where(lower[:, None], trial, theta), now.replaced(lower, then)
    best[rows], value[rows] = theta, now.value
    return best, value, converged


def left_out(theta: Array, problem: Problem, weights: Array, delta: float) -> Array:
    """The unknowns (n, p) without each run in turn, by one Newton step from the optimum theta (p,) of all.

    With H the Hessian and run i adding c J J' to it and p J to the gradient, the step is H^-1 J p / (1 - c h)
    where h = J' H^-1 J, by the rank-one update of the inverse.
    """
    r, jacobian = problem.residuals(theta[None])
    now = problem.system(theta[None], weights[None], delta)
    free = (theta > problem.low) & (theta < problem.high)
    matrix = now.newton if (np.linalg.eigvalsh(now.newton[0][np.ix_(free, free)]) > 0).all() else now.bound
    pull = weights * np.clip(r[0], -delta, delta)
    curve = np.where(np.abs(r[0]) <= delta, weights, 0.0) - pull
    towards = np.zeros((len(theta), problem.n))
    towards[free] = np.linalg.solve(matrix[0][np.ix_(free, free)], jacobian[0][free])
    rest = np.maximum(1 - curve * np.einsum("in,in->n", jacobian[0], towards), 1e-3)
    step = (towards * (pull / rest)).T
    step *= np.minimum(1.0, 1.0 / np.maximum(np.abs(step / problem.reach).max(1), 1e-300))[:, None]
    return np.clip(theta + step, problem.low, problem.high)


def _solve(matrix: Array, gradient: Array, free: Mask) -> Array:
    """-matrix^-1 gradient over the free unknowns, scaled to a unit diagonal; the others stay."""
    both = free[:, :, None] & free[:, None, :]
    size = np.sqrt(np.abs(np.einsum("kii->ki", matrix)))
    size = np.where(free & (size > 0), size, 1.0)
    scaled = np.where(both, matrix, 0.0) / (size[:, :, None] * size[:, None, :])
    # The ridge keeps a singular design solvable; it is refused elsewhere.
    scaled += np.where(free, 1e-13, 1.0)[:, :, None] * np.eye(matrix.shape[1])
    return -np.linalg.solve(scaled, (gradient / size)[:, :, None])[:, :, 0] / size


def scaled_condition(theta: Array, problem: Problem, weights: Array) -> Array:
    """Condition number (k,) of the Jacobian of ln L, logs centred, runs weighted, columns of unit length."""
    gram = problem.system(theta, weights, SQUARES).bound
    size = np.sqrt(np.maximum(np.einsum("kii->ki", gram), 1e-300))
    least, *_, largest = np.linalg.eigvalsh(gram / (size[:, :, None] * size[:, None, :])).T
    return np.sqrt(largest / np.maximum(least, 1e-20))


@np.errstate(over="ignore", invalid="ignore")
def vertex(theta: Array, problem: Problem, weights: Array) -> Array:
    """The unknowns (p,) nearby with the lowest sum of absolute residuals.

    That minimum is as a rule a vertex: as many residuals are exactly 0 as there are free unknowns. Which,
    the minimum of a Huber objective with a small threshold tells; Newton's method makes them 0.
    """
    free = (theta > problem.low) & (theta < problem.high)
    before, _ = problem.residuals(theta[None])
    zero = np.argsort(np.abs(before[0]))[: free.sum()]
    there = theta.copy()
    for _ in range(20):
        r, jacobian = problem.residuals(there[None])
        square = jacobian[0][np.ix_(free, zero)].T
        if not np.isfinite(square).all() or np.linalg.matrix_rank(square) < len(zero):
            return theta
        there[free] -= np.linalg.solve(square, r[0, zero])
        there = np.clip(there, problem.low, problem.high)
    after, _ = problem.residuals(there[None])
    return there if np.abs(after[0]) @ weights < np.abs(before[0]) @ weights else theta


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
