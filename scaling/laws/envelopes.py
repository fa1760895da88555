"""Approach 1: the lower envelope of training curves.

At each compute C, of all runs that have spent it, the one with the lowest loss gives N* and D*; power laws
of both in C follow (arXiv:2203.15556, section 3.1). Losses on the way count as if training had ended there,
which holds as far as the schedule of the learning rate does not depend on the length of the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from scaling.laws.law import Interval
from scaling.laws.optima import interval
from scaling.laws.powerlaw import check_confidence, power, power_law, slopes
from scaling.laws.runs import cleaning as runs
from scaling.laws.runs.cleaning import NotIdentified

Array = npt.NDArray[np.float64]

# Fewer runs at a compute than this have no best one between others.
RIVALS = 3


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """N* = coefficient C^exponent and D* alike, from the best run at each compute.

    points     flops, params, tokens, loss, run: the envelope where neither the smallest nor the largest of
               the runs at hand is the best
    intervals  exponent, tokens_exponent; percentiles of a bootstrap of whole runs
    """

    exponent: float
    coefficient: float
    tokens_exponent: float
    tokens_coefficient: float
    intervals: dict[str, Interval]
    points: pd.DataFrame = field(repr=False)
    n: int
    warnings: tuple[str, ...]

    def n_opt(self, c: npt.ArrayLike) -> npt.ArrayLike:
        """N*(C), parameters."""
        return power(self.coefficient, self.exponent, c)

    def d_opt(self, c: npt.ArrayLike) -> npt.ArrayLike:
        """D*(C), tokens."""
        return power(self.tokens_coefficient, self.tokens_exponent, c)


def envelope(
    frame: runs.Table,
    *,
    points: int = 200,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Envelope:
    """Approach 1 on training curves: several rows per run, told apart by a column `run`.

    Between its rows, a run's loss and tokens are interpolated against ln C, at `points` values of C spaced
    evenly in logs. Smooth the losses first: the least of noisy ones is too low.
    The bootstrap draws runs, so it says what other sizes might have shown, not the noise of a loss. Raises
    NotIdentified for runs of one row each, and where the envelope passes over fewer than two sizes.
    """
    check_confidence(confidence, bootstrap)
    whole = runs.clean(frame)
    table = whole.frame
    if table["arch"].nunique() > 1:
        raise ValueError(
            f"there are {table['arch'].nunique()} architectures; give the curves of one at a time"
        )
    curves = _curves(table)
    ends = np.array([[c[0], c[-1]] for c, *_ in curves.values()])
    grid = np.linspace(ends[:, 0].min(), ends[:, 1].max(), points)
    losses, tokens = np.full((2, len(curves), points), np.nan)
    for row, (c, loss, d, _) in enumerate(curves.values()):
        inside = (grid >= c[0]) & (grid <= c[-1])
        losses[row, inside], tokens[row, inside] = (
            np.interp(grid[inside], c, loss),
            np.interp(grid[inside], c, d),
        )
    sizes = np.array([n for *_, n in curves.values()])
    everyone = np.arange(len(curves))
    best = _best(losses, sizes, everyone)
    at = np.flatnonzero(best >= 0)
    if len(set(sizes[best[at]])) < 2:
        raise NotIdentified(
            f"the envelope of {len(curves)} runs passes over {len(set(sizes[best[at]]))} sizes between "
            "smaller and larger ones, and an exponent needs two; train sizes whose curves cross"
        )
    names = list(curves)
    found = pd.DataFrame(
        {
            "flops": np.exp(grid[at]),
            "params": np.exp(sizes[best[at]]),
            "tokens": np.exp(tokens[best[at], at]),
            "loss": losses[best[at], at],
            "run": [names[row] for row in best[at]],
        }
    )
    by_n, by_d = power_law(found["flops"], found["params"]), power_law(found["flops"], found["tokens"])
    rng, drawn = np.random.default_rng(seed), np.full((bootstrap, 2), np.nan)
    for row in range(bootstrap):
        chosen = np.unique(rng.integers(len(curves), size=len(curves)))
        some = _best(losses, sizes, chosen)
        there = np.flatnonzero(some >= 0)
        if len(set(sizes[some[there]])) > 1:
            one = np.zeros(len(there), int)
            logs = np.stack([sizes[some[there]], tokens[some[there], there]])
            drawn[row] = slopes(grid[there], logs, one)
    notes = list(whole.notes)
    failed = float(np.isnan(drawn[:, 0]).mean()) if bootstrap else 0.0
    if failed > 0.05:
        notes.append(f"{100 * failed:.0f}% of the draws of runs have no envelope; the interval is too short")
    ends_by_name = {
        "exponent": interval(drawn[:, 0], confidence),
        "tokens_exponent": interval(drawn[:, 1], confidence),
    }
    return Envelope(
        exponent=by_n.exponent,
        coefficient=by_n.coefficient,
        tokens_exponent=by_d.exponent,
        tokens_coefficient=by_d.coefficient,
        intervals={name: end for name, end in ends_by_name.items() if np.isfinite(end.low)},
        points=found,
        n=len(curves),
        warnings=tuple(notes),
    )


def _curves(table: pd.DataFrame) -> dict[str, tuple[Array, Array, Array, float]]:
    """By run: ln C, loss and ln D in the order of C, and ln N."""
    rows = table.groupby("run").size() if "run" in table else None
    if rows is None or rows.max() < 2:
        what = "no column run tells the curves apart" if rows is None else "each run is one row"
        raise NotIdentified(
            f"the envelope needs training curves, several rows per run, and {what}; log the loss on the way, "
            "or use isoflop"
        )
    found = {}
    for name, mine in table.groupby("run"):
        if mine["params"].nunique() > 1:
            raise ValueError(f"run {name!r} has {mine['params'].nunique()} sizes; a curve is of one model")
        mine = mine.sort_values("flops")
        logs = np.log(mine[["flops", "tokens"]].to_numpy())
        if len(mine) > 1:
            found[str(name)] = (
                logs[:, 0],
                mine["loss"].to_numpy(),
                logs[:, 1],
                float(np.log(mine["params"].iloc[0])),
            )
    return found


def _best(losses: Array, sizes: Array, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The row of the best run at each compute; -1 where there are few, or it is the smallest or largest."""
    there = np.isfinite(losses[rows])
    least = rows[np.where(there, losses[rows], np.inf).argmin(0)]
    size = np.broadcast_to(sizes[rows][:, None], there.shape)
    low, high = np.where(there, size, np.inf).min(0), np.where(there, size, -np.inf).max(0)
    inner = (there.sum(0) >= RIVALS) & (sizes[least] > low) & (sizes[least] < high)
    return np.where(inner, least, -1)
