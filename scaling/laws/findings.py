"""Verdicts on a fit: a sentence, the number behind it, how grave it is, and what would cure it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from scaling.laws.diagnose import WARN
from scaling.laws.fitting import Allocation, FittedLaw
from scaling.laws.runs.cleaning import Status
from scaling.laws.runs.columns import rows_text

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


@dataclass(frozen=True)
class Finding:
    """A verdict: how bad, what was looked at, the number that says so, and what would cure it."""

    severity: Severity
    what: str
    number: float
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.severity}: {self.what}" + (f"; {self.remedy}" if self.remedy else "")

    @classmethod
    def graded(cls, number: float, limits: tuple[float, float], what: str, remedy: str) -> Finding:
        """As grave as the number is large; a number that is not one is the worst, not the best."""
        if number <= limits[0]:
            return cls("ok", what, number)
        return cls("warning" if number <= limits[1] else "serious", what, number, remedy)


def verdicts(
    runs: pd.DataFrame,
    law: FittedLaw,
    allocation: Allocation,
    screened: pd.DataFrame,
    influence: pd.DataFrame,
    together: pd.DataFrame,
    cuts: pd.DataFrame,
    held_out: pd.DataFrame,
) -> tuple[Finding, ...]:
    """What the parts of an `Audit` say, the gravest first."""
    found = [*of_design(law), *of_entropy(runs, law), of_outliers(screened), of_influence(influence)]
    found += [of_influential_set(together), *of_cuts(cuts, allocation)]
    found += [*of_hold_out(held_out, allocation), *of_allocation(allocation)]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def of_design(law: FittedLaw) -> list[Finding]:
    """Conditioning, how the fit ended, and its own warnings, which name designs and parameters at limits."""
    found = [Finding("warning", words, float(law.n)) for words in law.warnings]
    if law.condition <= WARN:
        what = f"the condition number is {law.condition:.3g}; above {WARN:.0f} it is too large"
        found.append(Finding("ok", what, law.condition))
    if law.status is not Status.CONVERGED:
        found.append(Finding("serious", f"the fit ended: {law.status}", law.value))
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
    what = (
        f"the entropy of the text, {entropy:.4g} nats per token, lies {where} the "
        f"{100 * interval.level:.0f} % interval of E = {law.E:.4g}, {interval.low:.4g} to {interval.high:.4g}"
    )
    if inside:
        return [Finding("ok", what, law.E - entropy)]
    remedy = "the law does not hold on these runs; add budgets, and do not extrapolate"
    return [Finding("serious", what, law.E - entropy, remedy)]


def of_outliers(screened: pd.DataFrame) -> Finding:
    odd, furthest = screened[screened["flag"] != "ok"], float(screened["z"].abs().max())
    if odd.empty:
        return Finding("ok", f"no outlying run: |z| is at most {furthest:.1f}", furthest)
    runs = rows_text(list(odd.index)) + (" lies" if len(odd) == 1 else " lie")
    what = f"{runs} off the law, |z| up to {furthest:.1f}"
    remedy = "look whether they diverged; mark them in a column status, then fit again"
    return Finding("warning", what, float(len(odd)), remedy)


def of_influence(moved: pd.DataFrame) -> Finding:
    factor, run = _factor(moved["ratio"].iloc[0]), rows_text([moved.index[0]])
    what = f"the most influential run, {run}, moves D/N by a factor of {factor:.3g}"
    return Finding.graded(factor, MOVED, what, f"check {run}, and add runs near it")


def of_influential_set(together: pd.DataFrame) -> Finding:
    factor, runs = _factor(together["ratio"].iloc[-1]), rows_text(list(together.index))
    what = f"leaving out {runs}, chosen for it, moves D/N by a factor of {factor:.3g}"
    return Finding.graded(factor, DRIFTED, what, "a handful of runs decides: check them, and say so")


def of_cuts(cuts: pd.DataFrame, allocation: Allocation) -> list[Finding]:
    ratios = cuts["tokens_per_param"].dropna()
    interval = allocation.intervals.get("tokens_per_param")
    if interval is None or len(ratios) < 2:
        return []
    outside = ratios[(ratios < interval.low) | (ratios > interval.high)]
    text = f"without the runs of least D/N, D/N at the target is {ratios.min():.3g} to {ratios.max():.3g}"
    if outside.empty:
        return [Finding("ok", f"{text}, inside the interval", float(ratios.max()))]
    remedy = "leave out the runs of least D/N, where the law may not hold, or say that they decide"
    return [Finding("warning", f"{text}, outside the interval", float(outside.iloc[0]), remedy)]


def of_hold_out(held_out: pd.DataFrame, allocation: Allocation) -> list[Finding]:
    """The prediction of the largest budgets by the others: of the loss and of the allocation.

    A bias of the loss counts where it is beyond what chance makes of it and half the interval of the loss at
    the target: then that interval is too short to be believed there.
    """
    usable = held_out.dropna(subset=["mape"]).sort_values("n_train")
    if usable.empty:
        what = "no smaller set of budgets identifies the law, so extrapolation is untested"
        return [Finding("warning", what, 0.0, "add budgets below the largest")]
    best, *others = usable.iloc[::-1].itertuples()
    smaller = f"the {best.n_train} runs below {best.below:.3g} FLOPs"
    interval = allocation.intervals.get("loss")
    half = 50 * (interval.high - interval.low) / allocation.loss if interval else np.inf
    off = abs(best.bias) > best.chance and abs(best.bias) > half
    severity: Severity = "serious" if abs(best.bias) > FAR_OFF else "warning" if off else "ok"
    beyond = f", more than half the interval of the loss at the target, {half:.2f} %" if off else ""
    what = (
        f"{smaller} predict the loss of the other {best.n_test} within {best.mape:.2f} % "
        f"(bias {best.bias:+.2f} %{beyond})"
    )
    for one in others:
        what += f"; those below {one.below:.3g} the other {one.n_test} within {one.mape:.2f} % "
        what += f"(bias {one.bias:+.2f} %)"
    remedy = "do not extrapolate the loss; look for runs that are off, add budgets"
    of_loss = Finding(severity, what, float(best.bias), "" if severity == "ok" else remedy)
    what = (
        f"{smaller} give a D/N of {best.tokens_per_param:.3g} at the target, where all runs say "
        f"{allocation.tokens_per_param:.3g}"
    )
    drift = _factor(best.tokens_per_param / allocation.tokens_per_param)
    remedy = "do not extrapolate the allocation; add larger budgets"
    return [of_loss, Finding.graded(drift, DRIFTED, what, remedy)]


def of_allocation(allocation: Allocation) -> list[Finding]:
    beyond = f"{allocation.beyond:.3g} times" if allocation.beyond > 1.001 else "as large as"
    what = f"the target is {allocation.flops:.3g} FLOPs, {beyond} the largest run"
    found = [Finding.graded(allocation.beyond, FAR, what, "add runs at larger compute")]
    interval = allocation.intervals.get("tokens_per_param")
    if interval is not None:
        what = (
            f"D/N there is {allocation.tokens_per_param:.3g}, {100 * interval.level:.0f} % interval "
            f"{interval.low:.3g} to {interval.high:.3g}"
        )
        width = interval.high / interval.low
        found.append(Finding.graded(width, WIDE, what, "state the interval, not the number; add runs"))
    return found


@np.errstate(divide="ignore")
def _factor(ratio: float) -> float:
    """A ratio as a factor of 1 or more."""
    return float(np.exp(np.abs(np.log(ratio))))
