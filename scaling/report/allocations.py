"""Compute-optimal size and data by the three approaches of arXiv:2203.15556, side by side on equal runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scaling.laws.envelopes import Envelope, envelope
from scaling.laws.fitting import FittedLaw, fit
from scaling.laws.isoflops import IsoFlop, isoflop
from scaling.laws.law import Interval
from scaling.laws.runs.cleaning import NotIdentified, Table, clean, ends, tidy


def allocation(found: IsoFlop | Envelope | FittedLaw, c: float) -> dict[str, Any]:
    """N* and D* at C (params, tokens), and their intervals where there are any."""
    if isinstance(found, FittedLaw):
        return vars(found.at(c))
    row: dict[str, Any] = {"flops": c, "params": float(found.n_opt(c)), "tokens": float(found.d_opt(c))}  # type: ignore[arg-type]
    if isinstance(found, IsoFlop):
        row["intervals"] = {"params": found.n_interval(c), "tokens": found.d_interval(c)}
    return row


def exponents(found: IsoFlop | Envelope | FittedLaw) -> dict[str, tuple[float, Interval | None]]:
    """The exponents of N* and D*, each with its interval where there is one."""
    if isinstance(found, FittedLaw):
        names, values = ("n_exponent", "d_exponent"), (found.n_exponent, found.d_exponent)
    else:
        names, values = ("exponent", "tokens_exponent"), (found.exponent, found.tokens_exponent)
    return {
        of: (value, found.intervals.get(name)) for of, name, value in zip("ND", names, values, strict=True)
    }


def side_by_side(
    frame: Table,
    *,
    at: float | None = None,
    law: FittedLaw | None = None,
    budgets: Sequence[float] | None = None,
    **drawn: Any,
) -> pd.DataFrame:
    """One row an approach: exponents of N* and D* with intervals, and N*, D*, D/N at `at` FLOPs.

    at     FLOPs; without it those of the largest run
    law    the law of approach 3 where it is fitted already
    drawn  bootstrap, confidence and seed of the intervals

    Training curves (several rows a `run`) serve approach 1; their last rows are the runs of approaches 2 and
    3. An approach that these runs cannot serve has NaN, and the reason in `note`; `note` also holds the
    warnings. Raises what `clean` refuses, and NotIdentified where no approach is left.
    """
    runs = tidy(frame)
    table = clean(runs, duplicates="run" in runs.frame)
    if (count := table.frame["arch"].nunique()) > 1:
        raise ValueError(f"there are {count} architectures; give the runs of one at a time")
    c, last = float(table.frame["flops"].max()) if at is None else at, ends(table)
    approaches: dict[str, Callable[[], IsoFlop | Envelope | FittedLaw]] = {
        "envelope": lambda: envelope(table, **drawn),
        "isoflop": lambda: isoflop(last, budgets=budgets, **drawn),
        "law": lambda: law or fit(last, **drawn),
    }
    rows = []
    for name, make in approaches.items():
        row: dict[str, Any] = {"approach": name}
        try:
            found = make()
        except NotIdentified as error:
            rows.append(row | {"note": str(error)})
            continue
        for of, (value, end) in exponents(found).items():
            of = of.lower()
            ends_of = (end.low, end.high) if end else (np.nan, np.nan)
            row |= dict(zip((f"{of}_exponent", f"{of}_low", f"{of}_high"), (value, *ends_of), strict=True))
        n, d = float(found.n_opt(c)), float(found.d_opt(c))  # type: ignore[arg-type]
        rows.append(row | {"n_opt": n, "d_opt": d, "d_over_n": d / n, "note": "; ".join(found.warnings)})
    out = pd.DataFrame(rows)
    if "n_exponent" not in out:
        raise NotIdentified("; ".join(f"{row['approach']}: {row['note']}" for row in rows))
    return out.assign(flops=c)[[*[name for name in out if name != "note"], "flops", "note"]]
