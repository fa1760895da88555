"""What the parts of a report share: the runs, their fits, and why a fit could not be made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from mad.messages import counted
from scaling.laws.audit import Audit, audit
from scaling.laws.envelope import Envelope, envelope
from scaling.laws.fitting import FittedLaw, fit
from scaling.laws.isoflops import IsoFlop, isoflop
from scaling.laws.runs.cleaning import NotIdentified, clean
from scaling.laws.runs.cleaning import budgets as snapped
from scaling.laws.runs.rows import ends as last
from scaling.laws.runs.rows import without_notes
from scaling.report.style import number


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Runs and what several parts need of them. `reasons` says what could not be fitted and why, by name.

    ends    one row a run: of training curves (column `run`) the last
    groups  those of them that belong to an isoFLOP budget
    notes   on the table: what was set aside, merged or assumed
    target  FLOPs at which allocations are given; `budget` is that as asked
    """

    runs: pd.DataFrame
    ends: pd.DataFrame
    groups: pd.DataFrame
    budget: float | None
    budgets: Sequence[float] | None
    target: float
    iso: IsoFlop | None
    audits: dict[str, Audit]
    envelopes: dict[str, Envelope]
    reasons: dict[str, str]
    notes: tuple[str, ...]
    repeats: Literal["refuse", "effective"]
    bootstrap: int
    confidence: float
    seed: int

    @property
    def archs(self) -> list[str]:
        return sorted(self.runs["arch"].unique())

    @property
    def laws(self) -> dict[str, FittedLaw]:
        return {arch: found.law for arch, found in self.audits.items()}

    @property
    def summary(self) -> str:
        flops = self.ends["flops"]
        return (
            f"{counted(len(self.ends), 'run')} of {counted(len(self.archs), 'architecture')}, "
            f"{number(flops.min())} to "
            f"{number(flops.max())} training FLOPs ({self.runs.attrs['convention']}). Loss in nats per "
            f"token, intervals of {100 * self.confidence:g} %, allocations at {number(self.target)} FLOPs."
        )


def analyse(
    frame: pd.DataFrame,
    *,
    curves: pd.DataFrame | None = None,
    repeats: Literal["refuse", "effective"] = "refuse",
    budget: float | None,
    budgets: Sequence[float] | None,
    bootstrap: int,
    confidence: float,
    seed: int,
) -> Analysis:
    """Fit all that the parts share. ValueError for a table that `clean` refuses.

    curves: the training curves of the runs, where the frame has no column `run` of its own
    """
    frame, notes = without_notes(frame)
    # A column model may name a run or an architecture: only `run` is read as a run's name.
    runs = clean(frame.drop(columns="model", errors="ignore"), duplicates="run" in frame)
    ends, merged = without_notes(last(runs))
    groups, notes = ends, notes + merged
    if curves is not None and len(curves):
        runs = clean(without_notes(curves)[0], duplicates=True)
    if budgets is not None:
        nominal = snapped(ends, given=budgets)
        groups = ends.assign(budget=nominal)[nominal.notna()]
    target = float(ends["flops"].max()) if budget is None else float(budget)
    reasons: dict[str, str] = {}
    iso = None
    try:
        iso = isoflop(groups, bootstrap=bootstrap, confidence=confidence, seed=seed)
    except NotIdentified as error:
        reasons["isoflop"] = str(error)
    audits, envelopes = {}, {}
    for arch, mine in ends.groupby("arch"):
        try:
            law = fit(mine, bootstrap=bootstrap, confidence=confidence, seed=seed, repeats=repeats)
            audits[str(arch)] = audit(mine, at=target, law=law, repeats=repeats)
        except NotIdentified as error:
            reasons[f"law of {arch}"] = str(error)
        if len(ends) < len(runs):
            try:
                envelopes[str(arch)] = envelope(
                    runs[runs["arch"] == arch], bootstrap=bootstrap, confidence=confidence, seed=seed
                )
            except NotIdentified as error:
                reasons[f"envelope of {arch}"] = str(error)
    return Analysis(
        runs=runs,
        ends=ends,
        groups=groups,
        budget=budget,
        budgets=budgets,
        target=target,
        iso=iso,
        audits=audits,
        envelopes=envelopes,
        reasons=reasons,
        notes=notes,
        repeats=repeats,
        bootstrap=bootstrap,
        confidence=confidence,
        seed=seed,
    )
