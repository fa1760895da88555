"""The optimum of each compute budget: a parabola of loss in ln N and one in ln D, and what flaws it has.

    L(x) = L* + h/2 (x - x*)^2,  x = ln N or ln D,  of the runs of one compute budget

It is a Taylor expansion: `scaling.laws.basins` says how far its vertex lies from that of a law.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, special

from scaling.laws.law import Array, Interval
from scaling.laws.runs import cleaning as runs
from scaling.laws.runs.cleaning import NotIdentified

# exp of more overflows.
LARGEST_LOG = 700.0
# A point that the fit meets whatever its loss is says nothing of the noise.
SMALLEST_FREEDOM = 1e-6

FEW, THREE, CONCAVE, OUTSIDE = "too few sizes", "three sizes", "not convex", "vertex outside"
MENDED = {
    FEW: "train at least four sizes",
    THREE: "train a fourth size, or accept it (in Python, keep=['three sizes'])",
    CONCAVE: "train smaller and larger sizes, or further seeds",
    OUTSIDE: "train sizes on the other side of the vertex",
}
NAMES = ("params", "tokens", "loss")
ENDS = [f"{name}_{end}" for name in NAMES for end in ("low", "high")]
COLUMNS = ["arch", "budget", "flops", *NAMES, *ENDS, "curvature", "n", "sizes", "used", "flag"]


def grouped(source: runs.Table, *, budgets: Sequence[float] | None = None, within: float = 0.1) -> runs.Runs:
    """Clean runs with their `budget` and the FLOPs `compute` it stands for, sorted."""
    whole = runs.clean(source)
    table = whole.frame
    named = budgets is not None or "budget" in table
    table["budget"] = runs.budgets(table, given=budgets, within=within)
    lost = int(table["budget"].isna().sum())
    table = table.dropna(subset="budget").sort_values(["arch", "budget", "params", "tokens", "loss"])
    if table.empty:
        raise NotIdentified(f"no run lies within {100 * within:g}% of a budget; give budgets= as FLOPs")
    spread = table.groupby("budget")["flops"].agg(lambda c: c.max() / c.min())
    if not named and spread.max() > (1 + within) ** 2:
        raise NotIdentified(
            f"these runs form no isoFLOP groups: one would span a factor {spread.max():.3g} of FLOPs; name "
            "the budgets (budgets=[...], or a column budget), or fit a law (approach 3)"
        )
    mean = np.exp(np.log(table["flops"]).groupby([table["arch"], table["budget"]]).transform("mean"))
    table["compute"] = table["budget"] if budgets is not None else mean
    said = f"left out, within {100 * within:g}% of no budget: {lost} of the runs"
    return replace(whole, frame=table, notes=(*whole.notes, *[said] * (lost > 0)))


@dataclass(frozen=True, kw_only=True)
class Optima:
    """The optima of one architecture.

    runs    its grouped runs
    table   one row per budget, with intervals; `flag` says why one is not `used`
    draws   by budget, shape (bootstrap, 3): ln N*, ln D*, L*; NaN where no residual is left, or not convex
    points  by budget, ln N and loss of the runs
    """

    arch: str
    runs: pd.DataFrame
    table: pd.DataFrame
    draws: dict[float, Array]
    points: dict[float, tuple[Array, Array]]

    @property
    def used(self) -> pd.DataFrame:
        return self.table[self.table["used"]]

    @property
    def used_points(self) -> tuple[list[Array], list[Array]]:
        """ln N and losses of the runs of each budget that is used."""
        found = [self.points[budget] for budget in self.used["budget"]]
        return [x for x, _ in found], [y for _, y in found]

    def used_draws(self) -> Array:
        """Shape (bootstrap, budget, 3) over the budgets that are used."""
        found = [self.draws[budget] for budget in self.used["budget"]]
        return np.stack(found, axis=1) if found else np.empty((0, 0, 3))

    @property
    def lost(self) -> list[str]:
        """Which budgets are not used and why, and which are used despite a flag."""
        found = []
        for row in self.table[self.table["flag"] != ""].itertuples():
            if row.used:
                found.append(f"the budget {row.flops:.3g} is used though flagged: {row.flag}")
            else:
                sizes = {THREE: "", FEW: f" ({row.sizes})"}.get(row.flag, f" ({row.sizes} sizes)")
                found.append(f"the budget {row.flops:.3g} is left out: {row.flag}{sizes}; {MENDED[row.flag]}")
        return found


def by_architecture(
    table: runs.Runs,
    *,
    window: float | None = None,
    keep: Sequence[str] = (),
    bootstrap: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Optima]:
    """The optima of each architecture of grouped runs; the arguments are those of `isoflop`."""
    found = {}
    for name, mine in table.frame.groupby("arch"):
        arch = str(name)
        each = {float(budget): _optimum(group, window) for budget, group in mine.groupby("budget")}
        groups = {budget: points for budget, (_, points) in each.items() if points is not None}
        draws = _draws(groups, bootstrap, np.random.default_rng([seed, zlib.crc32(arch.encode())]))
        rows = []
        for budget, (row, _) in each.items():
            if budget in draws and row["flag"] != CONCAVE:
                for quantity, values in zip(NAMES, draws[budget].T, strict=True):
                    end = interval(values, confidence, logs=quantity != "loss")
                    row |= {f"{quantity}_low": end.low, f"{quantity}_high": end.high}
            rows.append(row | {"arch": arch, "budget": budget, "used": row["flag"] in ("", *keep)})
        found[arch] = Optima(
            arch=arch,
            runs=mine,
            table=pd.DataFrame(rows).reindex(columns=COLUMNS),
            draws=draws,
            points={budget: (x, y) for budget, (x, _, y) in groups.items()},
        )
    return found


def _optimum(
    group: pd.DataFrame, window: float | None
) -> tuple[dict[str, Any], tuple[Array, Array, Array] | None]:
    """The row of one budget; and ln N, ln D and loss of its runs, unless they are too few."""
    if window is not None:
        centre = group["params"][group["loss"].idxmin()]
        group = group[np.abs(np.log(group["params"] / centre)) <= np.log(window) + 1e-9]
    n, d, y = (group[name].to_numpy() for name in NAMES)
    x, z = np.log(n), np.log(d)
    sizes = group["params"].nunique()
    row = {"flops": float(group["compute"].iloc[0]), "n": len(y), "sizes": sizes, "flag": FEW}
    if min(sizes, group["tokens"].nunique()) < 3:
        return row, None
    (best, loss, h), (most, _, hd) = vertex(x, y), vertex(z, y)
    inside = x.min() <= best <= x.max() and z.min() <= most <= z.max()
    flags = {CONCAVE: min(h, hd) <= 0, OUTSIDE: not inside, THREE: sizes < 4}
    row |= {"params": np.exp(best), "tokens": np.exp(most), "loss": float(loss), "curvature": float(h)}
    return row | {"flag": next((flag for flag, true in flags.items() if true), "")}, (x, z, y)


def _draws(
    groups: dict[float, tuple[Array, Array, Array]], count: int, rng: np.random.Generator
) -> dict[float, Array]:
    """Draws of ln N*, ln D* and L* by budget; the same runs are drawn for both parabolas."""
    if not groups:
        return {}
    state, found = rng.bit_generator.state, []
    for axis in (0, 1):
        rng.bit_generator.state = state
        bases = [basis(group[axis]) for group in groups.values()]
        extra = noise(bases, [y for *_, y in groups.values()], count, rng)
        found.append(
            [
                vertex(group[axis], q @ (q.T @ group[2]) + some)
                for group, q, some in zip(groups.values(), bases, extra, strict=True)
            ]
        )
    return {
        budget: np.stack([by_n[0], by_d[0], by_n[1]], axis=1)
        for budget, by_n, by_d in zip(groups, *found, strict=True)
    }


def interval(draws: Array, confidence: float, *, logs: bool = False) -> Interval:
    """Percentiles of the draws that are numbers, NaN where none is; with `logs` of what they are logs of."""
    there = draws[np.isfinite(draws)]
    if not len(there):
        return Interval(float("nan"), float("nan"), confidence)
    ends = np.quantile(there, [(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = np.exp(np.minimum(ends, LARGEST_LOG)) if logs else ends
    return Interval(float(low), float(high), confidence)


def intervals(lines: Array, confidence: float) -> dict[str, Interval]:
    """Those that are finite, of draws (draw, 2 or 4) of both exponents and the logs of both coefficients."""
    found = {}
    for name, draws in zip(
        ("exponent", "tokens_exponent", "coefficient", "tokens_coefficient"), lines.T, strict=False
    ):
        end = interval(draws, confidence, logs="coefficient" in name)
        if np.isfinite([end.low, end.high]).all():
            found[name] = end
    return found


def vertex(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """x*, L* and the curvature h of the parabola by least squares, for y of shape (..., n).

    x* and L* are NaN where h <= 0.
    """
    a, b, c = np.moveaxis(y @ np.linalg.pinv(_terms(x)).T, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(c > 0, -b / (2 * c), np.nan)
    return x.mean() + shift, a + b * shift / 2, 2 * c


def basis(x: Array) -> Array:
    """An orthonormal basis (n, 3) of the parabolas on the points x."""
    return np.linalg.qr(_terms(x))[0]


def noise(bases: Sequence[Array], ys: Sequence[Array], count: int, rng: np.random.Generator) -> list[Array]:
    """`count` draws of the noise of each group of runs, shape (count, n_group) each.

    The residuals of all groups, each divided by the root of its freedom (1 - leverage) and by the scale of
    its group, are one pool from which all are drawn: one run per size is enough. The scales are those of
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
    """The groups' variances, drawn towards a common one, their degrees of freedom, and whether all are one.

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
    """1, u and u^2 of u = x less its mean (n, 3)."""
    return np.vander(x - x.mean(), 3, increasing=True)
