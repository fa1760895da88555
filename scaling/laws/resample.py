"""The bootstrap: many weightings of the same runs, drawn and fitted at once.

A resample is a row of multiplicities, so that all resamples share one table of runs and one batched Newton
iteration. What is drawn is a run or a whole cluster of runs: runs of one isoFLOP group or of one training
curve are not independent, and drawn singly they would make the intervals too short.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from scaling.laws.law import Array, Interval
from scaling.laws.objective import Mask, Problem
from scaling.laws.runs.cleaning import budgets
from scaling.laws.solver import descend, scaled_condition

LABELS = ("run", "model")
# Weights fitted at a time, a resample having one for each run: as many as a processor's second cache holds.
CELLS = 2**14
# With fewer clusters, intervals are too short whatever is drawn.
FEW_CLUSTERS = 8


def chosen(runs: pd.DataFrame, resample: str | None) -> str:
    """What is drawn: as asked, else whole runs where rows of a clean frame share one, else single rows."""
    return resample or ("run" if _label(runs) else "pairs")


def in_order(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of one architecture in an order of their own: draws do not depend on the table's."""
    return runs.sort_values(["params", "tokens", "loss"], kind="stable")


def clusters(runs: pd.DataFrame, resample: str) -> npt.NDArray[np.intp]:
    """The cluster of each run of a clean frame, numbered from 0: "pairs", "budget" or "run"."""
    if resample == "pairs":
        return np.arange(len(runs))
    if resample == "budget":
        keys = budgets(runs)
    else:
        label = _label(runs) or next((name for name in LABELS if name in runs), None)
        if label is None:
            raise ValueError(
                "resample = 'run' needs a column run (or model) that rows of one training run share; "
                "add it, or draw 'pairs' or 'budget'"
            )
        keys = runs[label]
    found = pd.factorize(keys)[0]
    if found.max() == 0:
        raise ValueError(f"resample = {resample!r}: all {len(runs)} runs are one cluster; draw 'pairs'")
    if found.max() == len(runs) - 1 and resample == "run":
        raise ValueError(
            f"resample = 'run' cannot act: each of the {len(runs)} labels in column {label!r} has one row; "
            "draw 'pairs', or give all rows of the training runs"
        )
    return found


def _label(runs: pd.DataFrame) -> str | None:
    """The column whose labels are of training runs with several rows each: all rows of one have one size."""
    for name in LABELS:
        if name in runs and runs[name].notna().all() and 1 < runs[name].nunique() < len(runs):
            if (runs.groupby(name)["params"].nunique() == 1).all():
                return name
    return None


def multiplicities(groups: npt.NDArray[np.intp], draws: int, seed: int) -> npt.NDArray[np.uint16]:
    """How often each run occurs in each resample, (draws, n): clusters drawn with replacement."""
    count = int(groups.max()) + 1
    rng, share = np.random.default_rng(seed), np.full(count, 1 / count)
    drawn = np.empty((draws, len(groups)), np.uint16)
    for row in drawn:
        row[:] = rng.multinomial(count, share)[groups]
    return drawn


def refit(
    theta: Array, problem: Problem, weights: npt.NDArray[np.uint16], stages: Sequence[float], worst: float
) -> tuple[Array, Mask]:
    """The unknowns of each resample (k, p), from theta (p,), and whether it was fitted (k,).

    Not fitted: did not converge, or has a condition number above `worst` in its own runs.
    """
    found, fitted = refitted(theta, problem, weights, stages)
    for part in _parts(len(weights), problem.n):
        fitted[part] &= scaled_condition(found[part], problem, weights[part].astype(float)) <= worst
    return found, fitted


def refitted(
    theta: Array, problem: Problem, weights: npt.NDArray[np.generic], stages: Sequence[float]
) -> tuple[Array, Mask]:
    """The unknowns (k, p) for each row of weights (k, n), from theta (p,), and whether they converged."""
    found, fitted = np.empty((len(weights), len(theta))), np.zeros(len(weights), bool)
    for part in _parts(len(weights), problem.n):
        rows = weights[part].astype(float)
        now = np.repeat(theta[None], len(rows), 0)
        for delta in stages:
            now, _, fitted[part] = descend(now, problem, rows, delta)
        found[part] = now
    return found, fitted


def percentile(values: Array, level: float) -> Interval:
    """The percentile interval of bootstrap draws."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)


def _parts(rows: int, n: int) -> Iterator[slice]:
    step = max(1, CELLS // n)
    for first in range(0, rows, step):
        yield slice(first, first + step)
