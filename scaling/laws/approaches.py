"""The three approaches of arXiv:2203.15556 side by side on the same runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from scaling.laws.envelope import envelope
from scaling.laws.fitting import FittedLaw, fit
from scaling.laws.isoflops import isoflop
from scaling.laws.runs.cleaning import NotIdentified, clean, ends

NAMES = ("envelope", "isoflop", "law")


def approaches(
    frame: pd.DataFrame,
    *,
    at: float | None = None,
    law: FittedLaw | None = None,
    budgets: Sequence[float] | None = None,
    within: float = 0.1,
    window: float | None = None,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """One row an approach: exponents of N* and D* with intervals, and N*, D*, D/N at `at` FLOPs.

    at    FLOPs; without it those of the largest run
    law   the law of approach 3 where it is fitted already

    Training curves (several rows a `run`) serve approach 1; their last rows are the runs of approaches 2 and
    3. An approach that these runs cannot serve has NaN, and the reason in `note`; `note` also holds the
    warnings. Raises what `clean` refuses, and NotIdentified where no approach is left.
    """
    table = clean(frame, duplicates="run" in frame)
    if table["arch"].nunique() > 1:
        raise ValueError(f"there are {table['arch'].nunique()} architectures; give the runs of one at a time")
    c = float(table["flops"].max()) if at is None else at
    last = ends(table)

    def first() -> dict[str, Any]:
        found = envelope(table, bootstrap=bootstrap, confidence=confidence, seed=seed)
        return _row(found, found.n_opt(c), found.d_opt(c))

    def second() -> dict[str, Any]:
        found = isoflop(
            last,
            budgets=budgets,
            within=within,
            window=window,
            bootstrap=bootstrap,
            confidence=confidence,
            seed=seed,
        )
        return _row(found, found.n_opt(c), found.d_opt(c))

    def third() -> dict[str, Any]:
        found = law or fit(last, bootstrap=bootstrap, confidence=confidence, seed=seed)
        ends = {"exponent": "n_exponent", "tokens_exponent": "d_exponent"}
        intervals = {ours: found.intervals[name] for ours, name in ends.items() if name in found.intervals}
        values = {"exponent": found.n_exponent, "tokens_exponent": found.d_exponent}
        return _columns(values, intervals, found.n_opt(c), found.d_opt(c), found.warnings)

    rows = []
    for name, make in zip(NAMES, (first, second, third), strict=True):
        try:
            rows.append({"approach": name} | make())
        except NotIdentified as error:
            rows.append({"approach": name, "note": str(error)})
    out = pd.DataFrame(rows)
    if "n_exponent" not in out:
        raise NotIdentified("; ".join(f"{row['approach']}: {row['note']}" for row in rows))
    return out.assign(flops=c)[[*[name for name in out if name != "note"], "flops", "note"]]


def _row(found: Any, n: Any, d: Any) -> dict[str, Any]:
    values = {"exponent": found.exponent, "tokens_exponent": found.tokens_exponent}
    return _columns(values, found.intervals, n, d, found.warnings)


def _columns(
    values: dict[str, float], intervals: dict[str, Any], n: Any, d: Any, warnings: Sequence[str]
) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, ours in (("n", "exponent"), ("d", "tokens_exponent")):
        end = intervals.get(ours)
        row[f"{name}_exponent"] = values[ours]
        row |= {f"{name}_low": end.low if end else np.nan, f"{name}_high": end.high if end else np.nan}
    return row | {"n_opt": float(n), "d_opt": float(d), "d_over_n": float(d / n), "note": "; ".join(warnings)}
