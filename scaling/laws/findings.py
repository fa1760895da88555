"""Verdicts on a fit: a sentence, the number behind it, how grave it is, and what would cure it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from scaling.laws.diagnose import WARN
from scaling.laws.fitted import Allocation, FittedLaw
from scaling.laws.runs.cleaning import Status, rows_text

Severity = Literal["serious", "warning", "ok"]
SEVERITIES = ("serious", "warning", "ok")
# Factors that earn a warning and a serious verdict: of D/N moved by one run, of D/N by the runs below the
# largest budget or by a few runs together, of the width of its interval, of the target over the largest run.
MOVED = (1.1, 1.5)
DRIFTED = (1.25, 2.0)
WIDE = (2.0, 5.0)
# A bias of held-out losses beyond this, in percent, is serious whatever the intervals say.
FAR_OFF = 5.0
FAR = (10.0, 100.0)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A verdict: how bad, what was looked at, the number that says so, and what would cure it."""

    severity: Severity
    what: str
    number: float
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.severity}: {self.what}" + (f"; {self.remedy}" if self.remedy else "")


def of_design(law: FittedLaw) -> list[Finding]:
    """Conditioning, how the fit ended, and its own warnings, which name designs and parameters at limits."""
    found = [Finding(severity="warning", what=words, number=float(law.n)) for words in law.warnings]
    if law.condition <= WARN:
        what = f"the condition number is {law.condition:.3g}; above {WARN:.0f} it is too large"
        found.append(Finding(severity="ok", what=what, number=law.condition))
    if law.status is not Status.CONVERGED:
        found.append(Finding(severity="serious", what=f"the fit ended: {law.status}", number=law.value))
    return found


def of_entropy(runs: pd.DataFrame, law: FittedLaw) -> list[Finding]:
    """Whether the interval of E holds the entropy of the text, where that is known, as of a grammar."""
    known = pd.to_numeric(runs["floor"], errors="coerce").unique() if "floor" in runs else [np.nan]
    interval = law.intervals.get("E")
    if len(known) != 1 or not np.isfinite(known[0]) or interval is None:
        return []
    entropy = float(known[0])
    inside = interval.low <= entropy <= interval.high
    where = "inside" if inside else "outside"
    return [
        Finding(
            severity="ok" if inside else "serious",
            what=(
                f"the entropy of the text, {entropy:.4g} nats per token, lies {where} the "
                f"{100 * interval.level:.0f} % interval of E = {law.E:.4g}, "
                f"{interval.low:.4g} to {interval.high:.4g}"
            ),
            number=law.E - entropy,
            remedy=""
            if inside
            else "the law does not hold on these runs; add budgets, and do not extrapolate",
        )
    ]


def of_outliers(screened: pd.DataFrame) -> list[Finding]:
    odd = screened[screened["flag"] != "ok"]
    if odd.empty:
        largest = float(screened["z"].abs().max())
        return [Finding(severity="ok", what=f"no outlying run: |z| is at most {largest:.1f}", number=largest)]
    rows, furthest = rows_text(list(odd.index)), float(odd["z"].abs().max())
    return [
        Finding(
            severity="warning",
            what=f"{rows} lie{'s' if len(odd) == 1 else ''} off the law, |z| up to {furthest:.1f}",
            number=float(len(odd)),
            remedy="look whether they diverged; mark them in a column status, then fit again",
        )
    ]


def of_influence(moved: pd.DataFrame) -> Finding:
    factor = float(np.exp(np.abs(np.log(moved["ratio"].iloc[0]))))
    row = rows_text([moved.index[0]])
    return Finding(
        severity=_grade(factor, MOVED),
        what=f"the most influential run, {row}, moves D/N by a factor of {factor:.3g}",
        number=factor,
        remedy="" if factor <= MOVED[0] else f"check {row}, and add runs near it",
    )


def of_influential_set(together: pd.DataFrame) -> Finding:
    factor = float(np.exp(np.abs(np.log(together["ratio"].iloc[-1]))))
    rows = rows_text(list(together.index))
    return Finding(
        severity=_grade(factor, DRIFTED),
        what=f"leaving out {rows}, chosen for it, moves D/N by a factor of {factor:.3g}",
        number=factor,
        remedy="" if factor <= DRIFTED[0] else "a handful of runs decides: check them, and say so",
    )


def of_cuts(cuts: pd.DataFrame, allocation: Allocation) -> list[Finding]:
    ratios = cuts["tokens_per_param"].dropna()
    interval = allocation.intervals.get("tokens_per_param")
    if interval is None or len(ratios) < 2:
        return []
    outside = ratios[(ratios < interval.low) | (ratios > interval.high)]
    text = f"without the runs of least D/N, D/N at the target is {ratios.min():.3g} to {ratios.max():.3g}"
    if outside.empty:
        return [Finding(severity="ok", what=f"{text}, inside the interval", number=float(ratios.max()))]
    return [
        Finding(
            severity="warning",
            what=f"{text}, outside the interval",
            number=float(outside.iloc[0]),
            remedy="leave out the runs of least D/N, where the law may not hold, or say that they decide",
        )
    ]


def of_hold_out(held_out: pd.DataFrame, allocation: Allocation) -> list[Finding]:
    """The prediction of the largest budgets by the others: of the allocation and of the loss.

    A bias of the loss counts where it is beyond what chance makes of it and half the interval of the loss at
    the target: then that interval is too short to be believed there.
    """
    usable = held_out.dropna(subset=["mape"]).sort_values("n_train")
    if usable.empty:
        what = "no smaller set of budgets identifies the law, so extrapolation is untested"
        return [Finding(severity="warning", what=what, number=0.0, remedy="add budgets below the largest")]
    best, others = usable.iloc[-1], usable.iloc[-2::-1]
    drift = float(np.exp(np.abs(np.log(best["tokens_per_param"] / allocation.tokens_per_param))))
    said = [
        Finding(
            severity=_grade(drift, DRIFTED),
            what=(
                f"the {best['n_train']} runs below {best['below']:.3g} FLOPs give a D/N of "
                f"{best['tokens_per_param']:.3g} at the target, where all runs say "
                f"{allocation.tokens_per_param:.3g}"
            ),
            number=drift,
            remedy="" if drift <= DRIFTED[0] else "do not extrapolate the allocation; add larger budgets",
        )
    ]
    bias = abs(float(best["bias"]))
    interval = allocation.intervals.get("loss")
    half = 50 * (interval.high - interval.low) / allocation.loss if interval else np.inf
    off = bias > best["chance"] and bias > half
    severity: Severity = "serious" if bias > FAR_OFF else "warning" if off else "ok"
    more = "".join(
        f"; those below {row.below:.3g} the other {row.n_test} within {row.mape:.2f} % "
        f"(bias {row.bias:+.2f} %)"
        for row in others.itertuples()
    )
    beyond = f", more than half the interval of the loss at the target, {half:.2f} %" if off else ""
    what = (
        f"the {best['n_train']} runs below {best['below']:.3g} FLOPs predict the loss of the other "
        f"{best['n_test']} within {best['mape']:.2f} % (bias {best['bias']:+.2f} %{beyond}){more}"
    )
    remedy = (
        "" if severity == "ok" else "do not extrapolate the loss; look for runs that are off, add budgets"
    )
    return [Finding(severity=severity, what=what, number=float(best["bias"]), remedy=remedy), *said]


def of_allocation(allocation: Allocation) -> list[Finding]:
    beyond = f"{allocation.beyond:.3g} times" if allocation.beyond > 1.001 else "as large as"
    found = [
        Finding(
            severity=_grade(allocation.beyond, FAR),
            what=f"the target is {allocation.flops:.3g} FLOPs, {beyond} the largest run",
            number=allocation.beyond,
            remedy="" if allocation.beyond <= FAR[0] else "add runs at larger compute",
        )
    ]
    interval = allocation.intervals.get("tokens_per_param")
    if interval is not None:
        width = interval.high / interval.low
        text = f"D/N there is {allocation.tokens_per_param:.3g}, {100 * interval.level:.0f} % interval "
        found.append(
            Finding(
                severity=_grade(width, WIDE),
                what=f"{text}{interval.low:.3g} to {interval.high:.3g}",
                number=width,
                remedy="" if width <= WIDE[0] else "state the interval, not the number; add runs",
            )
        )
    return found


def _grade(value: float, limits: tuple[float, float]) -> Severity:
    # A number that is not one is the worst, not the best.
    return "ok" if value <= limits[0] else "warning" if value <= limits[1] else "serious"
