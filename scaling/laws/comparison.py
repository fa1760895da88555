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
import pandas as pd
from scipy import stats

from scaling.laws.basins import EXACT
from scaling.laws.law import Array
from scaling.laws.optima import Optima, by_architecture, grouped, interval, variances
from scaling.laws.powerlaw import check_confidence
from scaling.laws.runs.cleaning import NotIdentified, Table

# The slope that carries a frontier beyond its data is that of so many of its nearest budgets.
NEAREST = 3
# The chance that a ratio which is the same at all budgets is said to differ.
DIFFERS = 0.05


@dataclass(frozen=True)
class Frontier:
    """L*(C) of one architecture, for comparisons and relations, from its usable optima by rising C.

    optima         one row per budget, as in `isoflop`; there may be none. Of them flops, their logs, losses
    draws          of L*, shape (draw, budget)
    variances, df  of L* by the scatter of the runs, and its degrees of freedom
    """

    arch: str
    optima: pd.DataFrame
    flops: Array
    logs: Array
    losses: Array
    draws: Array
    variances: Array
    df: int

    @classmethod
    def of(cls, found: Optima) -> Frontier:
        used, (scatter, df) = found.used.reset_index(drop=True), variances(*found.used_points)
        flops, losses = (used[name].to_numpy(float) for name in ("flops", "loss"))
        draws, logs = found.used_draws()[..., 2], np.log(flops)
        return cls(found.arch, used, flops, logs, losses, draws, scatter, df)

    def moved(self, i: int, c: float) -> tuple[float, Array]:
        """L* of the i-th budget and its draws, moved to C along the slope of the frontier."""
        if len(self.logs) < 2:
            return float(self.losses[i]), self.draws[:, i]
        slope = np.gradient(self.losses, self.logs, edge_order=2 if len(self.logs) > 2 else 1)[i]
        shift = float(slope * (np.log(c) - self.logs[i]))
        return float(self.losses[i] + shift), self.draws[:, i] + shift

    def at(self, c: float) -> tuple[float, Array]:
        """L*(C) and its draws."""
        if len(self.logs) < 2 and self.beyond(c) > 1.01:
            raise NotIdentified(
                f"{self.arch} has {len(self.logs)} usable budgets, so its loss at C = {c:.3g} is open; train "
                "it at budgets on both sides"
            )
        weights = self.weights(c)
        drawn = np.log(np.where(self.draws > 0, self.draws, np.nan)) @ weights
        return float(np.exp(weights @ np.log(self.losses))), np.exp(drawn)

    def params(self, c: float) -> float:
        """N*(C), as L*(C) is found."""
        return float(np.exp(self.weights(c) @ np.log(self.optima["params"].to_numpy(float))))

    def beyond(self, c: float) -> float:
        """How many times C lies outside the budgets; 1 within, or within rounding."""
        if not len(self.logs):
            return float("inf")
        out = max(np.log(c) - self.logs.max(), self.logs.min() - np.log(c), 0.0)
        return float(np.exp(out)) if out > 1e-9 else 1.0

    def nearest(self, c: float) -> int:
        """Which budget is the nearest."""
        return int(np.abs(np.log(self.flops / c)).argmin())

    def weights(self, c: float) -> Array:
        """What each budget counts in ln L*(C): interpolation within them, a line from the last beyond."""
        log_c, weights = np.log(c), np.zeros(len(self.logs))
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


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Perplexity ratios; below 1 `arch` is better than `baseline`.

    table    one row per pair and budget: arch, baseline, flops, ratio, low, high, p, verdict, beyond, n
    overall  one row per pair: the geometric mean of the ratio over `budgets` common budgets; None with `at`
    optima   what was compared, one row per architecture and budget, as in `isoflop`

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
    frame: Table,
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
    table = grouped(frame, budgets=budgets, within=within)
    notes = list(table.notes)
    pairs = _pairs([str(name) for name in sorted(table.frame["arch"].unique())], baseline)
    each = by_architecture(table, window=window, bootstrap=bootstrap, confidence=confidence, seed=seed)
    notes += [f"{arch}: {text}" for arch, found in each.items() for text in found.lost]
    every = pd.concat([found.table for found in each.values()], ignore_index=True)
    fronts = {arch: Frontier.of(found) for arch, found in each.items()}
    rows, overall = [], []
    for arch, other in pairs:
        named, one, two = {"arch": arch, "baseline": other}, fronts[arch], fronts[other]
        if at is not None:
            ratio = _ratio(one.at(at), two.at(at), confidence)
            n = int(one.optima["n"].sum() + two.optima["n"].sum())
            beyond = max(one.beyond(at), two.beyond(at))
            rows.append(named | {"flops": at} | ratio | {"n": n, "beyond": beyond})
            continue
        _, first, second = np.intersect1d(one.optima["budget"], two.optima["budget"], return_indices=True)
        if not len(first):
            raise NotIdentified(_no_budget(arch, other, every))
        own, spread = [], []
        for i, j in zip(first, second, strict=True):
            c = float(np.exp((one.logs[i] + two.logs[j]) / 2))
            here, there = one.moved(i, c), two.moved(j, c)
            n = int(one.optima["n"][i] + two.optima["n"][j])
            ratio = _ratio(here, there, confidence)
            own.append(named | {"flops": c} | ratio | {"beyond": 1.0, "n": n})
            spread.append(here[1] - there[1])
        rows += own
        estimates = np.array([float(np.log(row["ratio"])) for row in own])
        mean = _verdict(float(np.mean(estimates)), np.mean(spread, axis=0), confidence)
        overall.append(named | mean | {"budgets": len(own), "n": sum(row["n"] for row in own)})
        scatter = [(one.variances[first], one.df), (two.variances[second], two.df)]
        notes += _changing(arch, other, estimates, scatter)
    if at is not None and (far := max(row["beyond"] for row in rows)) > 1:
        notes.append(f"C = {at:.3g} lies {far:.3g} times outside the budgets: the ratio is extrapolated")
    return Comparison(
        table=pd.DataFrame(rows),
        overall=pd.DataFrame(overall) if at is None else None,
        optima=every,
        warnings=tuple(notes),
        confidence=confidence,
    )


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


def _ratio(one: tuple[float, Array], two: tuple[float, Array], confidence: float) -> dict[str, Any]:
    return _verdict(one[0] - two[0], one[1] - two[1], confidence)


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
