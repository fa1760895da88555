"""What the sections of a page share: the runs, what is fitted to them, and why a fit could not be made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pandas as pd

from mad.messages import counted
from scaling.laws.audit import Audit, audit
from scaling.laws.envelope import Envelope, envelope
from scaling.laws.fitted import FittedLaw
from scaling.laws.fitting import fit
from scaling.laws.isoflops import IsoFlop, isoflop
from scaling.laws.runs.cleaning import NotIdentified, clean
from scaling.laws.runs.cleaning import budgets as snapped
from scaling.laws.runs.rows import ends as last
from scaling.laws.runs.rows import without_notes
from scaling.report.numbers import number


class Evidence:
    """Runs and their fits. `reasons` says what could not be fitted and why, by name.

    runs     all rows; `ends` one row per run: of training curves (column `run`) the last
    groups   those of them that belong to an isoFLOP budget
    notes    on the table: what was set aside, merged or assumed
    target   FLOPs at which allocations are given
    drawn    bootstrap, confidence and seed
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        *,
        curves: pd.DataFrame | None = None,
        repeats: Literal["refuse", "effective"] = "refuse",
        budget: float | None = None,
        budgets: Sequence[float] | None = None,
        bootstrap: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> None:
        """Fit all that the sections share. ValueError for a table that `clean` refuses.

        curves   the training curves of the runs, where the frame has no column `run` of its own
        repeats  of text, as in `fit`
        budget   training FLOPs at which allocations are given; without it those of the largest run
        budgets  nominal FLOPs of the isoFLOP groups, as in `isoflop`; without them they are found
        """
        drawn: dict[str, Any] = {"bootstrap": bootstrap, "confidence": confidence, "seed": seed}
        frame, notes = without_notes(frame)
        # A column model may name a run or an architecture: only `run` is read as a run's name.
        self.runs = clean(frame.drop(columns="model", errors="ignore"), duplicates="run" in frame)
        self.ends, merged = without_notes(last(self.runs))
        self.groups, self.notes = self.ends, notes + merged
        if curves is not None and len(curves):
            self.runs = clean(without_notes(curves)[0], duplicates=True)
        if budgets is not None:
            nominal = snapped(self.ends, given=budgets)
            self.groups = self.ends.assign(budget=nominal)[nominal.notna()]
        self.target = float(self.ends["flops"].max()) if budget is None else float(budget)
        self.budget, self.budgets, self.repeats, self.drawn = budget, budgets, repeats, drawn
        self.archs = sorted(self.runs["arch"].unique())
        self.convention: str = self.runs.attrs["convention"]
        self.reasons: dict[str, str] = {}
        self.iso: IsoFlop | None = self._tried("isoflop", isoflop, self.groups, **drawn)
        self.audits: dict[str, Audit] = {}
        self.envelopes: dict[str, Envelope] = {}
        for arch, mine in self.ends.groupby("arch"):
            if checked := self._tried(f"law of {arch}", self._audit, mine):
                self.audits[str(arch)] = checked
            rows = self.runs[self.runs["arch"] == arch]
            if len(self.ends) < len(self.runs) and (
                found := self._tried(f"envelope of {arch}", envelope, rows, **drawn)
            ):
                self.envelopes[str(arch)] = found

    def _audit(self, mine: pd.DataFrame) -> Audit:
        law = fit(mine, repeats=self.repeats, **self.drawn)
        return audit(mine, at=self.target, law=law, repeats=self.repeats)

    def _tried(self, name: str, make: Callable[..., Any], rows: pd.DataFrame, **drawn: Any) -> Any:
        try:
            return make(rows, **drawn)
        except NotIdentified as error:
            self.reasons[name] = str(error)
            return None

    @property
    def laws(self) -> dict[str, FittedLaw]:
        """The laws that were audited."""
        return {arch: found.law for arch, found in self.audits.items()}

    def why(self, start: str) -> list[str]:
        """The reasons of fits by the start of their names."""
        return [f"{name}: {reason}." for name, reason in self.reasons.items() if name.startswith(start)]

    @property
    def best(self) -> str:
        """The architecture with the lowest loss at the largest budget of all: others are compared with it."""
        if self.iso is None:
            return str(self.ends.loc[self.ends["loss"].idxmin(), "arch"])
        used = self.iso.optima[self.iso.optima["used"]]
        shared = used.groupby("budget")["arch"].transform("nunique")
        common = used[shared == shared.max()]
        common = common[common["budget"] == common["budget"].max()]
        return str(common.loc[common["loss"].idxmin(), "arch"])

    @property
    def summary(self) -> str:
        """One sentence on the runs and one on the units."""
        flops = self.ends["flops"]
        return (
            f"{counted(len(self.ends), 'run')} of {counted(len(self.archs), 'architecture')}, "
            f"{number(flops.min())} to {number(flops.max())} training FLOPs ({self.convention}). "
            f"Loss in nats per token, intervals of {100 * self.drawn['confidence']:g} %, "
            f"allocations at {number(self.target)} FLOPs."
        )
