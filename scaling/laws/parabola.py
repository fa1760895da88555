"""A parabola of loss in the logarithm of size, and draws of it from the scatter of the runs around it.

    L(x) = L* + h/2 (x - x*)^2,  x = ln N or ln D,  of the runs of one compute budget

It is a Taylor expansion: `scaling.laws.bias` says how far its vertex lies from that of a law.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

Array = npt.NDArray[np.float64]

# A point that the fit meets whatever its loss is says nothing of the noise.
SMALLEST_FREEDOM = 1e-6


def vertex(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """x*, L* and the curvature h of the parabola by least squares, for y of shape (..., n).

    x* and L* are NaN where h <= 0.
    """
    centre = x.mean()
    a, b, c = np.moveaxis(y @ np.linalg.pinv(_terms(x)).T, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(c > 0, -b / (2 * c), np.nan)
    return centre + shift, a + b * shift / 2, 2 * c


def basis(x: Array) -> Array:
    """An orthonormal basis (n, 3) of the parabolas on the points x."""
    return np.linalg.qr(_terms(x))[0]


def noise(bases: Sequence[Array], ys: Sequence[Array], count: int, rng: np.random.Generator) -> list[Array]:
    """`count` draws of the noise of each group of runs, shape (count, n_group) each.

    The residuals of all groups, each divided by the root of its freedom (1 - leverage) and by the scale of
    its group, are one pool from which all are drawn: one run a size is enough. The scales are those of
    `scales`; each draw draws them too, as sqrt(df / chi2_df), so that few residuals make wide intervals as
    Student's t does. The list holds NaN where no residual is free.
    """
    squares, pool, dfs = [], [], []
    for q, y in zip(bases, ys, strict=True):
        residual = y - q @ (q.T @ y)
        freedom = 1 - (q * q).sum(1)
        free = freedom > SMALLEST_FREEDOM
        pool.append(residual[free] / np.sqrt(freedom[free]))
        squares.append(float(residual @ residual))
        dfs.append(len(y) - q.shape[1])
    if sum(dfs) < 1:
        return [np.full((count, len(y)), np.nan) for y in ys]
    variances, weights, common = scales(np.array(squares), np.array(dfs))
    if not variances.all():
        return [np.zeros((count, len(y))) for y in ys]
    found = np.concatenate([part / np.sqrt(v) for part, v in zip(pool, variances, strict=True)])
    found = (found - found.mean()) * np.sqrt(len(found) / (len(found) - 1))
    one = rng.chisquare(sum(dfs), size=(count, 1)) / sum(dfs)
    out = []
    for y, variance, df in zip(ys, variances, weights, strict=True):
        scale = one if common else rng.chisquare(df, size=(count, 1)) / df
        out.append(np.sqrt(variance / scale) * found[rng.integers(len(found), size=(count, len(y)))])
    return out


def variances(xs: Sequence[Array], ys: Sequence[Array]) -> tuple[Array, int]:
    """Of the L* of each group of runs, from one scatter of all groups; and its degrees of freedom.

    By the derivatives of L* by the losses. NaN where no degree of freedom is left.
    """
    squares, df, sizes = 0.0, 0, []
    for x, y in zip(xs, ys, strict=True):
        inverse = np.linalg.pinv(_terms(x))
        residual = y - _terms(x) @ (inverse @ y)
        away = float(vertex(x, y)[0] - x.mean())
        pull = np.array([1.0, away, away**2]) @ inverse
        sizes.append(float(pull @ pull))
        squares += float(residual @ residual)
        df += len(y) - 3
    return np.array(sizes) * (squares / df if df else np.nan), df


def scales(squares: Array, dfs: Array) -> tuple[Array, Array, bool]:
    """Variances of the groups, each drawn towards the common one, their degrees of freedom, and True for one.

    From sums of squares and degrees of freedom, as far as the groups' variances differ no more than chance
    makes them: the moderated variance of Smyth (2004), doi:10.2202/1544-6115.1027. Three budgets of five runs
    say little each of their own noise; twelve budgets of ten runs may show that it differs.
    """
    total, pooled = float(dfs.sum()), float(squares.sum() / dfs.sum())
    same = np.full(len(dfs), pooled), np.full(len(dfs), total), True
    free = (dfs > 0) & (squares > 0)
    if free.sum() < 3:
        return same
    half = dfs[free] / 2
    logs = np.log(squares[free] / dfs[free]) - special.digamma(half) + np.log(half)
    excess = float(logs.var(ddof=1) - special.polygamma(1, half).mean())
    if excess <= special.polygamma(1, total / 2):
        return same
    prior = 2 * optimize.brentq(lambda h: float(special.polygamma(1, h)) - excess, 1e-4, total)
    level = np.exp(logs.mean() + special.digamma(prior / 2) - np.log(prior / 2))
    return (prior * level + squares) / (prior + dfs), np.minimum(prior + dfs, total), False


def _terms(x: Array) -> Array:
    u = x - x.mean()
    return np.stack([np.ones_like(u), u, u * u], axis=1)
