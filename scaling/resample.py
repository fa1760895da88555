"""The bootstrap: many weightings of the same runs, drawn and fitted at once.

A resample is a row of multiplicities, so that all resamples share one table of runs and one batched Newton
iteration. What is drawn is a run or a whole cluster of runs: runs of one isoFLOP group or of one training
curve are not independent, and drawn singly they would make the intervals too short.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from scaling.law import Array, Interval
from scaling.runs import budgets
from scaling.solver import Objective, descend, scaled_condition

LABELS = ("run", "model")
# Resamples fitted at a time: as many as a processor's second cache holds.
CHUNK = 64
# With fewer clusters, intervals are too short whatever is drawn.
FEW_CLUSTERS = 8


def clusters(runs: pd.DataFrame, resample: str) -> npt.NDArray[np.intp]:
    """The cluster of each run of a clean frame, numbered from 0: "pairs", "budget" or "run"."""
    if resample == "pairs":
        return np.arange(len(runs))
    if resample == "budget":
        keys = budgets(runs)
    else:
        label = next((name for name in LABELS if name in runs), None)
        if label is None:
            raise ValueError(
                "resample = 'run' needs a column run (or model) that rows of one training run share; "
                "add it, or draw 'pairs' or 'budget'"
            )
        keys = runs[label]
    found = pd.factorize(keys)[0]
    if found.max() == 0:
        raise ValueError(f"resample = {resample!r}: all {len(runs)} runs are one cluster; draw 'pairs'")
    return found


def multiplicities(groups: npt.NDArray[np.intp], draws: int, seed: int) -> Array:
    """How often each run occurs in each resample, (draws, n): clusters drawn with replacement."""
    count = int(groups.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    return drawn[:, groups].astype(float)


def refit(
    theta: Array, points: Objective, weights: Array, stages: Sequence[float], worst: float
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """The unknowns of each resample (k, p), from theta (p,), and whether it was fitted (k,).

    Not fitted: did not converge, or has a condition number above `worst` in its own runs.
    """
    found, fitted = np.empty((len(weights), len(theta))), np.zeros(len(weights), bool)
    for first in range(0, len(weights), CHUNK):
        part = slice(first, first + CHUNK)
        now = np.repeat(theta[None], len(weights[part]), 0)
        for delta in stages:
            now, _, converged = descend(now, points, weights[part], delta)
        found[part] = now
        fitted[part] = converged & (scaled_condition(now, points, weights[part]) <= worst)
    return found, fitted


def percentile(values: Array, level: float) -> Interval:
    """The percentile interval of bootstrap draws."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)
