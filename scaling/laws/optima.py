"""The optimum of each compute budget: its runs, a parabola in ln N and one in ln D, and what flaws it has."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from scaling.laws.law import Interval
from scaling.laws.parabola import basis, noise, vertex
from scaling.laws.runs import cleaning as runs
from scaling.laws.runs.cleaning import NotIdentified

Array = npt.NDArray[np.float64]

# exp of more overflows.
LARGEST_LOG = 700.0

FEW, THREE, CONCAVE, OUTSIDE = "too few sizes", "three sizes", "not convex", "vertex outside"
MENDED = {
    FEW: "train at least four sizes",
    THREE: "train a fourth size, or accept it (in Python, keep=['three sizes'])",
    CONCAVE: "train smaller and larger sizes, or further seeds",
    OUTSIDE: "train sizes on the other side of the vertex",
}


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
    table   one row a budget, with intervals; `flag` says why one is not `used`
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
        """Which budgets are not used and why, and which are used all the same."""
        found = []
        for row in self.table[self.table["flag"] != ""].itertuples():
            if row.used:
                found.append(f"the budget {row.flops:.3g} is used though flagged: {row.flag}")
            else:
                sizes = {THREE: "", FEW: f" ({row.sizes})"}.get(row.flag, f" ({row.sizes} sizes)")
                reason = f"{row.flag}{sizes}; {MENDED[row.flag]}"
                found.append(f"the budget {row.flops:.3g} is left out: {reason}")
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
    return {
        str(arch): _optima(str(arch), mine, window, keep, bootstrap, confidence, seed)
        for arch, mine in table.frame.groupby("arch")
    }


def _optima(
    arch: str,
    mine: pd.DataFrame,
    window: float | None,
    keep: Sequence[str],
    bootstrap: int,
    confidence: float,
    seed: int,
) -> Optima:
    rows: list[dict[str, Any]] = []
    groups: dict[float, tuple[Array, Array, Array]] = {}
    for budget, group in mine.groupby("budget"):
        if window is not None:
            best = group["params"][group["loss"].idxmin()]
            group = group[np.abs(np.log(group["params"] / best)) <= np.log(window) + 1e-9]
        x, z = np.log(group["params"].to_numpy()), np.log(group["tokens"].to_numpy())
        y, sizes = group["loss"].to_numpy(), group["params"].nunique()
        few = min(sizes, group["tokens"].nunique()) < 3
        row = {"arch": arch, "budget": float(budget), "flops": float(group["compute"].iloc[0])}
        row |= {"n": len(y), "sizes": sizes, "flag": FEW if few else ""}
        if not few:
            (n, loss, h), (d, _, hd) = vertex(x, y), vertex(z, y)
            row |= {"params": np.exp(n), "tokens": np.exp(d), "loss": float(loss), "curvature": float(h)}
            inside = x.min() <= n <= x.max() and z.min() <= d <= z.max()
            flags = {CONCAVE: min(h, hd) <= 0, OUTSIDE: not inside, THREE: sizes < 4}
            row["flag"] = next((flag for flag, true in flags.items() if true), "")
            groups[float(budget)] = (x, z, y)
        rows.append(row | {"used": row["flag"] in ("", *keep)})
    draws = _draws(groups, bootstrap, np.random.default_rng([seed, zlib.crc32(arch.encode())]))
    names = ["params", "tokens", "loss"]
    for row in rows:
        if row["budget"] in draws and row["flag"] != CONCAVE:
            for name, values in zip(names, draws[row["budget"]].T, strict=True):
                end = interval(values, confidence, logs=name != "loss")
                row |= {f"{name}_low": end.low, f"{name}_high": end.high}
    ends = [f"{name}_{end}" for name in names for end in ("low", "high")]
    columns = ["arch", "budget", "flops", *names, *ends, "curvature", "n", "sizes", "used", "flag"]
    return Optima(
        arch=arch,
        runs=mine,
        table=pd.DataFrame(rows).reindex(columns=columns),
        draws=draws,
        points={budget: (x, y) for budget, (x, _, y) in groups.items()},
    )


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
        fitted = [q @ (q.T @ group[2]) for q, group in zip(bases, groups.values(), strict=True)]
        both = zip(groups.values(), fitted, extra, strict=True)
        found.append([vertex(group[axis], line + some) for group, line, some in both])
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
