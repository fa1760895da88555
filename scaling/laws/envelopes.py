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

from scaling.laws.law import Array, Interval
from scaling.laws.optima import intervals
from scaling.laws.powerlaw import check_confidence, power, power_law, slopes
from scaling.laws.runs.cleaning import NotIdentified, Table, clean

# Fewer runs at a compute than this have no best one between others.
RIVALS = 3


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """N* = coefficient C^exponent, and likewise D*, from the best run at each compute.

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
    frame: Table,
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
    table = clean(frame)
    archs = table.frame["arch"].nunique()
    if archs > 1:
        raise ValueError(f"there are {archs} architectures; give the curves of one at a time")
    curves = _curves(table.frame)
    grid = np.linspace(
        min(c[0] for c, *_ in curves.values()), max(c[-1] for c, *_ in curves.values()), points
    )
    losses = np.array([np.interp(grid, c, loss, np.nan, np.nan) for c, loss, *_ in curves.values()])
    tokens = np.array([np.interp(grid, c, d, np.nan, np.nan) for c, _, d, _ in curves.values()])
    sizes = np.array([n for *_, n in curves.values()])
    best, at, several = _best(losses, sizes, np.arange(len(curves)))
    if several < 2:
        raise NotIdentified(
            f"the envelope of {len(curves)} runs passes over {several} sizes between "
            "smaller and larger ones, and an exponent needs two; train sizes whose curves cross"
        )
    found = pd.DataFrame(
        {
            "flops": np.exp(grid[at]),
            "params": np.exp(sizes[best]),
            "tokens": np.exp(tokens[best, at]),
            "loss": losses[best, at],
            "run": np.array(list(curves))[best].tolist(),
        }
    )
    by_n, by_d = (power_law(found["flops"], found[name]) for name in ("params", "tokens"))
    rng, drawn = np.random.default_rng(seed), np.full((bootstrap, 2), np.nan)
    for row in range(bootstrap):
        chosen = np.unique(rng.integers(len(curves), size=len(curves)))
        best, at, several = _best(losses, sizes, chosen)
        if several > 1:
            drawn[row] = slopes(grid[at], np.stack([sizes[best], tokens[best, at]]), np.zeros(len(at), int))
    notes = list(table.notes)
    failed = float(np.isnan(drawn[:, 0]).mean()) if bootstrap else 0.0
    if failed > 0.05:
        notes.append(f"{100 * failed:.0f}% of the draws of runs have no envelope; the interval is too short")
    return Envelope(
        exponent=by_n.exponent,
        coefficient=by_n.coefficient,
        tokens_exponent=by_d.exponent,
        tokens_coefficient=by_d.coefficient,
        intervals=intervals(drawn, confidence),
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
        if len(mine) > 1:
            c, loss, d, n = mine.sort_values("flops")[["flops", "loss", "tokens", "params"]].to_numpy().T
            found[str(name)] = np.log(c), loss, np.log(d), float(np.log(n[0]))
    return found


def _best(
    losses: Array, sizes: Array, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """The row of the best of these runs, at which computes there is one, and over how many sizes they pass.

    There is none where there are few runs, or the best is the smallest or the largest.
    """
    there = np.isfinite(losses[rows])
    least = rows[np.where(there, losses[rows], np.inf).argmin(0)]
    size = np.broadcast_to(sizes[rows][:, None], there.shape)
    low, high = np.where(there, size, np.inf).min(0), np.where(there, size, -np.inf).max(0)
    at = np.flatnonzero((there.sum(0) >= RIVALS) & (sizes[least] > low) & (sizes[least] < high))
    return least[at], at, len(set(sizes[least[at]]))
