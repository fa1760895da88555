"""Perplexity of architectures at equal compute.

    ratio = P*_arch(C) / P*_baseline(C) = exp(L*_arch - L*_baseline)

L* is the loss at the vertex of each one's isoFLOP parabola at a budget that both have. Differences are taken
budget by budget, and their mean over the common budgets is the overall ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from scaling.laws.bias import EXACT
from scaling.laws.optima import grouped, interval, lost, optima
from scaling.laws.parabola import variances
from scaling.laws.powerlaw import check_confidence
from scaling.laws.runs.cleaning import NotIdentified

Array = npt.NDArray[np.float64]

# The chance that a ratio which is the same at all budgets is said to differ.
DIFFERS = 0.05
# The slope that carries a frontier beyond its data is that of so many of its nearest budgets.
NEAREST = 3


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Perplexity ratios; below 1 `arch` is better than `baseline`.

    table    one row a pair and budget: arch, baseline, flops, ratio, low, high, p, verdict, beyond, n
    overall  one row a pair: the geometric mean of the ratio over `budgets` common budgets; None with `at`
    optima   what was compared, one row an architecture and budget, as in `isoflop`

    `verdict` is "lower", "higher", or "not resolved" where the interval holds 1; p is two-sided, from the
    bootstrap, and not corrected for the number of pairs. `beyond` is how many times `at` lies outside the
    budgets of either, 1 within them. `n` counts runs.
    """

    table: pd.DataFrame
    overall: pd.DataFrame | None
    optima: pd.DataFrame = field(repr=False)
    warnings: tuple[str, ...]
    confidence: float


def compare(
    frame: pd.DataFrame,
    *,
    baseline: str | None = None,
    at: float | None = None,
    budgets: Sequence[float] | None = None,
    within: float = 0.1,
    window: float | None = None,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare the architectures of a table of isoFLOP runs.

    baseline  compare each other architecture with this one; without it, every pair in alphabetic order
    at        FLOPs at which to compare by each one's frontier: L* is interpolated between its budgets in
              logs, and outside them carried on from the last with the slope of the three nearest
    budgets, within, window   as in `isoflop`

    Where budgets are shared only within `within`, losses are moved to one C along the frontier's slope. The
    draws behind the intervals are those of `isoflop`. Raises NotIdentified where a pair has no budget in
    common (naming why) and `at` is not given.
    """
    check_confidence(confidence, bootstrap)
    table, notes = grouped(frame, budgets=budgets, within=within)
    names = [str(name) for name in sorted(table["arch"].unique())]
    pairs = _pairs(names, baseline)
    rows, draws, points = [], {}, {}
    for arch, mine in table.groupby("arch"):
        found, made, points[str(arch)] = optima(
            mine, window=window, keep=(), bootstrap=bootstrap, confidence=confidence, seed=seed
        )
        rows.append(found)
        draws.update(made)
        notes += [f"{found['arch'].iloc[0]}: {text}" for text in lost(found)]
    every = pd.concat(rows, ignore_index=True)
    fronts = {
        name: Frontier.of(every[(every["arch"] == name) & every["used"]], draws, points[name])
        for name in names
    }
    if at is not None:
        found = [
            _row(arch, other, at, fronts[arch].at(at, arch), fronts[other].at(at, other), confidence)
            for arch, other in pairs
        ]
        for row in found:
            row["n"] = int(fronts[row["arch"]].n.sum() + fronts[row["baseline"]].n.sum())
            row["beyond"] = max(fronts[row["arch"]].beyond(at), fronts[row["baseline"]].beyond(at))
        far = max(row["beyond"] for row in found)
        if far > 1:
            notes.append(f"C = {at:.3g} lies {far:.3g} times outside the budgets: the ratio is extrapolated")
        return Comparison(
            table=pd.DataFrame(found),
            overall=None,
            optima=every,
            warnings=tuple(notes),
            confidence=confidence,
        )
    parts, overall = [], []
    for arch, other in pairs:
        one, two = fronts[arch], fronts[other]
        common = sorted(set(one.budgets) & set(two.budgets))
        if not common:
            raise NotIdentified(_no_budget(arch, other, every))
        estimates, spread = [], []
        for budget in common:
            i, j = one.budgets.index(budget), two.budgets.index(budget)
            c = float(np.exp((one.logs[i] + two.logs[j]) / 2))
            row = _row(arch, other, c, one.moved(i, c), two.moved(j, c), confidence)
            parts.append(row | {"beyond": 1.0, "n": int(one.n[i] + two.n[j])})
            estimates.append(float(np.log(row["ratio"])))
            spread.append(one.moved(i, c)[1] - two.moved(j, c)[1])
        mean, drawn = float(np.mean(estimates)), np.mean(spread, axis=0)
        runs = sum(row["n"] for row in parts[-len(common) :])
        overall.append(
            {"arch": arch, "baseline": other}
            | _verdict(mean, drawn, confidence)
            | {"budgets": len(common), "n": runs}
        )
        scatter = [
            (front.variances[[front.budgets.index(budget) for budget in common]], front.df)
            for front in (one, two)
        ]
        notes += _changing(arch, other, np.array(estimates), scatter)
    return Comparison(
        table=pd.DataFrame(parts),
        overall=pd.DataFrame(overall),
        optima=every,
        warnings=tuple(notes),
        confidence=confidence,
    )


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """L*(C) of one architecture, for comparisons and relations alike, from its usable optima by rising C.

    logs, losses, draws, n   ln C, L*, draws of L* (draw, budget) and runs of each
    variances, df            of L* by the scatter of the runs, and its degrees of freedom
    """

    budgets: list[float]
    logs: Array
    losses: Array
    draws: Array
    n: npt.NDArray[np.int64]
    variances: Array
    df: int

    @classmethod
    def of(
        cls,
        rows: pd.DataFrame,
        draws: dict[tuple[str, float], Array],
        points: dict[float, tuple[Array, Array]],
    ) -> Frontier:
        """Of the rows of one architecture, and (ln N, loss) of its runs by budget; there may be none."""
        found = [draws[row.arch, row.budget][:, 2] for row in rows.itertuples()]
        used = [points[budget] for budget in rows["budget"]]
        scatter, df = variances([x for x, _ in used], [y for _, y in used])
        return cls(
            budgets=rows["budget"].tolist(),
            logs=np.log(rows["flops"].to_numpy(float)),
            losses=rows["loss"].to_numpy(float),
            draws=np.stack(found, axis=1) if found else np.empty((0, 0)),
            n=rows["n"].to_numpy(),
            variances=scatter,
            df=df,
        )

    def moved(self, i: int, c: float) -> tuple[float, Array]:
        """L* of the i-th budget and its draws, moved to C along the slope of the frontier."""
        if len(self.logs) < 2:
            return float(self.losses[i]), self.draws[:, i]
        slope = np.gradient(self.losses, self.logs, edge_order=2 if len(self.logs) > 2 else 1)[i]
        shift = float(slope * (np.log(c) - self.logs[i]))
        return float(self.losses[i] + shift), self.draws[:, i] + shift

    def at(self, c: float, name: str) -> tuple[float, Array]:
        """L*(C) and its draws."""
        if len(self.logs) < 2 and self.beyond(c) > 1.01:
            raise NotIdentified(
                f"{name} has {len(self.logs)} usable budgets, so its loss at C = {c:.3g} is open; train it "
                "at budgets on both sides"
            )
        weights = self.weights(np.log(c))
        return float(np.exp(weights @ np.log(self.losses))), np.exp(
            np.log(np.where(self.draws > 0, self.draws, np.nan)) @ weights
        )

    def beyond(self, c: float) -> float:
        """How many times C lies outside the budgets; 1 within, or within rounding."""
        if not len(self.logs):
            return float("inf")
        out = max(np.log(c) - self.logs.max(), self.logs.min() - np.log(c), 0.0)
        return float(np.exp(out)) if out > 1e-9 else 1.0

    def weights(self, log_c: float) -> Array:
        """What each budget counts in ln L*(C): interpolation within them, a line from the last beyond."""
        weights = np.zeros(len(self.logs))
        if len(weights) == 1:
            return np.ones(1)
        if self.logs.min() <= log_c <= self.logs.max():
            upper = min(max(int(np.searchsorted(self.logs, log_c)), 1), len(weights) - 1)
            share = (log_c - self.logs[upper - 1]) / (self.logs[upper] - self.logs[upper - 1])
            weights[upper - 1], weights[upper] = 1 - share, share
            return weights
        near = np.argsort(np.abs(self.logs - log_c))[:NEAREST]
        u = self.logs[near] - self.logs[near].mean()
        weights[near] = (log_c - self.logs[near[0]]) * u / (u @ u)
        weights[near[0]] += 1
        return weights


def _pairs(names: list[str], baseline: str | None) -> list[tuple[str, str]]:
    if len(names) < 2:
        raise ValueError(
            f"there is one architecture ({names[0]}); a comparison needs two, in the column arch"
        )
    if baseline is None:
        return list(combinations(names, 2))
    if baseline not in names:
        close = get_close_matches(baseline, names, n=1) or names
        raise ValueError(
            f"baseline = {baseline!r} has no runs; did you mean {close[0]!r}? ({', '.join(names)})"
        )
    return [(name, baseline) for name in names if name != baseline]


def _row(
    arch: str, other: str, c: float, one: tuple[float, Array], two: tuple[float, Array], confidence: float
) -> dict[str, Any]:
    return {"arch": arch, "baseline": other, "flops": c} | _verdict(
        one[0] - two[0], one[1] - two[1], confidence
    )


def _verdict(log_ratio: float, draws: Array, confidence: float) -> dict[str, Any]:
    end, there = interval(draws, confidence), draws[np.isfinite(draws)]
    if not len(there):
        verdict, p = "no interval", float("nan")
    else:
        verdict = "lower" if end.high < 0 else "higher" if end.low > 0 else "not resolved"
        p = min(1.0, 2 * (1 + min((there <= 0).sum(), (there >= 0).sum())) / (1 + len(there)))
    ends = {"low": float(np.exp(end.low)), "high": float(np.exp(end.high))}
    return {"ratio": float(np.exp(log_ratio)), **ends, "p": p, "verdict": verdict}


def _changing(arch: str, other: str, estimates: Array, scatter: Sequence[tuple[Array, int]]) -> list[str]:
    """A mean ratio hides that the ratio changes with compute.

    F test of one log ratio for all budgets. Its error is the scatter of the runs around their parabolas, one
    for each architecture (`scatter`: variances by budget, degrees of freedom), in sum with the degrees of
    freedom of Welch and Satterthwaite.
    """
    sums = np.array([variances.sum() for variances, _ in scatter])
    between, each = len(estimates) - 1, sum(variances for variances, _ in scatter)
    if between < 1 or not sums.sum() > 0:
        return []
    within = sums.sum() ** 2 / sum(total**2 / df for total, (_, df) in zip(sums, scatter, strict=True) if df)
    off = estimates - np.average(estimates, weights=1 / each)
    p = float(stats.f.sf(off**2 @ (1 / each) / between, between, within))
    if p >= DIFFERS or np.abs(off).max() < EXACT:
        return []
    return [
        f"{arch} / {other}: the ratio differs between budgets beyond the noise (p = {p:.2g}); read it by "
        "budget"
    ]


def _no_budget(arch: str, other: str, every: pd.DataFrame) -> str:
    def has(name: str) -> str:
        rows = every[every["arch"] == name]
        return f"{name} has " + ", ".join(
            f"{row.flops:.3g}" + (f" ({row.flag})" if not row.used else "") for row in rows.itertuples()
        )

    return (
        f"{arch} and {other} have no usable budget in common: {has(arch)}; {has(other)}. Train both at one "
        "budget, with four sizes around the optimum, or say at= to compare their frontiers"
    )
