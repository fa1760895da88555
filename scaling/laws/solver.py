"""Minimise an objective from rows of starts: a damped Newton iteration, for many weightings at once."""

from __future__ import annotations

import numpy as np

from scaling.laws.law import Array
from scaling.laws.objective import SQUARES, Mask, Problem


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
