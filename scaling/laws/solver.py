"""Minimise the sum of Huber losses of log residuals, for many weightings of the same runs at once.

Unknowns, a row each: E, ln A', ln B', alpha, beta of L = E + A' e^(-alpha x) + B' e^(-beta y), where x and y
are ln N and ln D less their means: uncentred, the Hessian's condition is above 1e11 (arXiv 2603.22339).
`starts` is variable projection: for given exponents the law is linear, so a grid of exponents needs one
small linear system a cell. `descend` is a damped Newton iteration on the true objective.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from scaling.laws.law import Array

Mask = npt.NDArray[np.bool_]

# Exponents are searched for in the grid and may not leave the limits.
LIMITS = (0.01, 2.0)
GRID = np.geomspace(0.03, 1.9, 36)
LOW = np.array([0.0, -np.inf, -np.inf, LIMITS[0], LIMITS[0]])
HIGH = np.array([np.inf, np.inf, np.inf, LIMITS[1], LIMITS[1]])
# The longest step: a factor of e^3 in a coefficient, 1 in an exponent. Further, the model means nothing.
REACH = np.array([np.inf, 3.0, 3.0, 1.0, 1.0])
# The Huber threshold that no log residual exceeds: half the sum of squares.
SQUARES = 1e6


class Objective(Protocol):
    """What `descend` minimises: n runs, the limits of the unknowns, the longest step, and the evaluation."""

    @property
    def n(self) -> int: ...

    @property
    def low(self) -> Array: ...

    @property
    def high(self) -> Array: ...

    @property
    def reach(self) -> Array: ...

    def system(self, theta: Array, weights: Array, delta: float) -> System: ...


@dataclass(frozen=True, kw_only=True)
class Points:
    """Runs with centred logs: x of N, y of D, and the log of the loss; each (n,)."""

    x: Array
    y: Array
    log_loss: Array
    centre: tuple[float, float]
    low = LOW
    high = HIGH
    reach = REACH

    @property
    def n(self) -> int:
        return len(self.x)

    def system(self, theta: Array, weights: Array, delta: float) -> System:
        return system(theta, self, weights, delta)

    @classmethod
    def of(cls, params: Array, tokens: Array, loss: Array) -> Points:
        log_n, log_d = np.log(params), np.log(tokens)
        centre = (float(log_n.mean()), float(log_d.mean()))
        return cls(x=log_n - centre[0], y=log_d - centre[1], log_loss=np.log(loss), centre=centre)

    def coefficients(self, theta: Array) -> Array:
        """E, A, B, alpha, beta in raw units, from rows of unknowns (k, 5)."""
        raised = theta[:, 3:] * np.array(self.centre)
        return np.column_stack([theta[:, 0], np.exp(theta[:, 1:3] + raised), theta[:, 3:]])


@dataclass(frozen=True, kw_only=True)
class System:
    """The objective at rows of unknowns: value (k,), gradient (k, 5), and two Hessians (k, 5, 5).

    `newton` is exact and may be indefinite. `bound` is positive: that of the reweighted least squares which
    lie above the objective and touch it.
    """

    value: Array
    gradient: Array
    newton: Array
    bound: Array

    def rows(self, keep: Mask) -> System:
        return System(
            value=self.value[keep],
            gradient=self.gradient[keep],
            newton=self.newton[keep],
            bound=self.bound[keep],
        )

    def replaced(self, where: Mask, new: System) -> System:
        column, matrix = where[:, None], where[:, None, None]
        return System(
            value=np.where(where, new.value, self.value),
            gradient=np.where(column, new.gradient, self.gradient),
            newton=np.where(matrix, new.newton, self.newton),
            bound=np.where(matrix, new.bound, self.bound),
        )


def linear(theta: Array, points: Points) -> tuple[Array, Array]:
    """ln of the prediction less ln of the loss (k, n), and its derivatives (k, 5, n)."""
    jacobian = np.empty((len(theta), 5, len(points.x)))
    part_n = np.exp(theta[:, 1:2] - theta[:, 3:4] * points.x)
    part_d = np.exp(theta[:, 2:3] - theta[:, 4:5] * points.y)
    predicted = theta[:, :1] + part_n + part_d
    np.divide(1.0, predicted, out=jacobian[:, 0])
    np.multiply(part_n, jacobian[:, 0], out=jacobian[:, 1])
    np.multiply(part_d, jacobian[:, 0], out=jacobian[:, 2])
    np.multiply(jacobian[:, 1], -points.x, out=jacobian[:, 3])
    np.multiply(jacobian[:, 2], -points.y, out=jacobian[:, 4])
    return np.log(predicted) - points.log_loss, jacobian


def huber(r: Array, delta: float) -> Array:
    """r^2 / 2 within delta, delta (|r| - delta / 2) beyond."""
    inside = np.minimum(np.abs(r), delta)
    return inside * (np.abs(r) - 0.5 * inside)


def system(theta: Array, points: Points, weights: Array, delta: float) -> System:
    """Sum over the runs of weights (k, n) times huber(residual), with its derivatives."""
    r, jacobian = linear(theta, points)
    size = np.abs(r)
    inside = np.minimum(size, delta)
    value = np.einsum("kn,kn->k", weights, inside * (size - 0.5 * inside))
    pull = weights * np.clip(r, -delta, delta)
    gradient = np.matmul(jacobian, pull[:, :, None])[:, :, 0]
    across = jacobian.swapaxes(1, 2)
    bound = np.matmul(jacobian * (weights * (delta / np.maximum(size, delta)))[:, None], across)
    newton = np.matmul(jacobian * (np.where(size <= delta, weights, 0.0) - pull)[:, None], across)
    # Second derivatives of the prediction: each power law curves in its own two unknowns.
    pulled = jacobian[:, 3:] * pull[:, None]
    bend = np.stack([pulled[:, 0] @ -points.x, pulled[:, 1] @ -points.y], axis=1)
    for i in (0, 1):
        newton[:, 1 + i, 1 + i] += gradient[:, 1 + i]
        newton[:, 1 + i, 3 + i] += gradient[:, 3 + i]
        newton[:, 3 + i, 1 + i] += gradient[:, 3 + i]
        newton[:, 3 + i, 3 + i] += bend[:, i]
    return System(value=value, gradient=gradient, newton=newton, bound=bound)


def descend(
    theta: Array,
    points: Objective,
    weights: Array,
    delta: float,
    *,
    tolerance: float = 1e-13,
    limit: int = 200,
) -> tuple[Array, Array, Mask]:
    """Unknowns, objectives (k,) and whether each converged (k,), from rows of starts.

    Converged: a step of the reweighted least squares would gain less than `tolerance` of the objective.
    """
    low, high = points.low, points.high
    theta = np.clip(theta, low, high)
    weights = np.broadcast_to(weights, (len(theta), points.n))
    best, value, converged = theta.copy(), np.full(len(theta), np.nan), np.zeros(len(theta), bool)
    rows, now = np.arange(len(theta)), points.system(theta, weights, delta)
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
        step *= np.minimum(1.0, 1.0 / np.maximum(np.abs(step / points.reach).max(1), 1e-300))[:, None]
        trial = np.clip(theta + step, low, high)
        then = points.system(trial, weights, delta)
        lower = then.value < now.value
        moved = trial - theta
        model = -np.einsum("ki,ki->k", now.gradient, moved)
        model -= 0.5 * np.einsum("ki,kij,kj->k", moved, now.newton, moved)
        good = lower & (now.value - then.value > 0.25 * model)
        damping = np.where(good, np.maximum(damping * 0.25, 1e-12), np.where(lower, damping, damping * 10))
        theta, now = np.where(lower[:, None], trial, theta), now.replaced(lower, then)
    best[rows], value[rows] = theta, now.value
    return best, value, converged


def left_out(theta: Array, points: Points, weights: Array, delta: float) -> Array:
    """The unknowns (n, 5) without each run in turn, by one Newton step from the optimum theta (5,) of all.

    With H the Hessian and run i adding c J J' to it and p J to the gradient, the step is H^-1 J p / (1 - c h)
    where h = J' H^-1 J, by the rank-one update of the inverse.
    """
    r, jacobian = linear(theta[None], points)
    now = system(theta[None], points, weights[None], delta)
    free = (theta > LOW) & (theta < HIGH)
    matrix = now.newton if (np.linalg.eigvalsh(now.newton[0][np.ix_(free, free)]) > 0).all() else now.bound
    pull = weights * np.clip(r[0], -delta, delta)
    curve = np.where(np.abs(r[0]) <= delta, weights, 0.0) - pull
    towards = np.zeros((5, points.n))
    towards[free] = np.linalg.solve(matrix[0][np.ix_(free, free)], jacobian[0][free])
    rest = np.maximum(1 - curve * np.einsum("in,in->n", jacobian[0], towards), 1e-3)
    step = (towards * (pull / rest)).T
    step *= np.minimum(1.0, 1.0 / np.maximum(np.abs(step / points.reach).max(1), 1e-300))[:, None]
    return np.clip(theta + step, LOW, HIGH)


def _solve(matrix: Array, gradient: Array, free: Mask) -> Array:
    """-matrix^-1 gradient over the free unknowns, scaled to a unit diagonal; the others stay."""
    both = free[:, :, None] & free[:, None, :]
    size = np.sqrt(np.abs(np.einsum("kii->ki", matrix)))
    size = np.where(free & (size > 0), size, 1.0)
    scaled = np.where(both, matrix, 0.0) / (size[:, :, None] * size[:, None, :])
    # The ridge keeps a singular design solvable; it is refused elsewhere.
    scaled += np.where(free, 1e-13, 1.0)[:, :, None] * np.eye(matrix.shape[1])
    return -np.linalg.solve(scaled, (gradient / size)[:, :, None])[:, :, 0] / size


def starts(points: Points, weights: Array, count: int = 3) -> Array:
    """The unknowns (at most count, 5) at the best cells of the grid of exponents, no two of them close.

    Least squares of relative error, with E, A', B' >= 0: where E would be negative it is 0.
    Empty if no cell has both A' and B' above 0.
    """
    loss = np.exp(points.log_loss)
    u, v = np.exp(-GRID[:, None] * points.x), np.exp(-GRID[:, None] * points.y)  # (m, n)
    weight = weights / weights.sum() / loss**2
    best, cells = np.full((len(GRID), len(GRID)), np.inf), np.zeros((len(GRID), len(GRID), 5))
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
        cells[better, 0] = e[better] if centred else 0.0
        cells[better, 1:3] = np.log(np.stack([coefficient_a[better], coefficient_b[better]], -1))
    cells[..., 3], cells[..., 4] = GRID[:, None], GRID
    chosen: list[Array] = []
    index = np.arange(len(GRID))
    while len(chosen) < count and np.isfinite(best).any():
        i, j = np.unravel_index(best.argmin(), best.shape)
        chosen.append(cells[i, j])
        best[np.ix_(np.abs(index - i) < 4, np.abs(index - j) < 4)] = np.inf
    return np.array(chosen).reshape(-1, 5)


def scaled_condition(theta: Array, points: Objective, weights: Array) -> Array:
    """Condition number (k,) of the Jacobian of ln L, logs centred, runs weighted, columns of unit length."""
    gram = points.system(theta, weights, SQUARES).bound
    size = np.sqrt(np.maximum(np.einsum("kii->ki", gram), 1e-300))
    least, *_, largest = np.linalg.eigvalsh(gram / (size[:, :, None] * size[:, None, :])).T
    return np.sqrt(largest / np.maximum(least, 1e-20))


def vertex(theta: Array, points: Points, weights: Array) -> Array:
    """The unknowns (5,) nearby with the lowest sum of absolute residuals.

    That minimum is as a rule a vertex: as many residuals are exactly 0 as there are free unknowns. Which,
    the minimum of a Huber objective with a small threshold tells; Newton's method makes them 0.
    """
    free = (theta > LOW) & (theta < HIGH)
    before, _ = linear(theta[None], points)
    zero = np.argsort(np.abs(before[0]))[: free.sum()]
    there = theta.copy()
    for _ in range(20):
        r, jacobian = linear(there[None], points)
        square = jacobian[0][np.ix_(free, zero)].T
        if np.linalg.matrix_rank(square) < len(zero):
            return theta
        there[free] -= np.linalg.solve(square, r[0, zero])
        there = np.clip(there, LOW, HIGH)
    after, _ = linear(there[None], points)
    return there if np.abs(after[0]) @ weights < np.abs(before[0]) @ weights else theta
