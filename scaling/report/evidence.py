"""What the sections of a page share: the runs, what is fitted to them, and why a fit could not be made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from mad.messages import counted
from scaling.laws.auditing import Audit, audit
from scaling.laws.envelopes import Envelope, envelope
from scaling.laws.fitting import FittedLaw, fit
from scaling.laws.isoflops import IsoFlop, isoflop
from scaling.laws.runs.cleaning import NotIdentified, Runs, Table, clean, ends, tidy
from scaling.laws.runs.cleaning import budgets as snapped
from scaling.report.numbers import number

# How far beyond the largest run the page looks, to show how little is known there.
BEYOND = 100.0


class Evidence:
    """Runs and their fits. `reasons` says what could not be fitted and why, by name.

    runs     all rows; `ends` one row per run: of training curves (column `run`) the last
    groups   those of `ends` that belong to an isoFLOP budget
    notes    on the table: what was set aside, merged or assumed
    target   FLOPs at which allocations are given: `budget`, without it those of the largest run
    drawn    bootstrap, confidence and seed
    """

    def __init__(
        self,
        frame: Table,
        *,
        curves: Table | None = None,
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
        budgets  nominal FLOPs of the isoFLOP groups, as in `isoflop`; without them they are found
        """
        drawn: dict[str, Any] = {"bootstrap": bootstrap, "confidence": confidence, "seed": seed}
        table = tidy(frame)
        # A column model may name a run or an architecture: only `run` is read as a run's name.
        known = table.quiet.only(table.frame.drop(columns="model", errors="ignore"))
        self.runs = clean(known, duplicates="run" in table.frame)
        last = ends(self.runs)
        self.notes = (*table.notes, *last.notes)
        self.groups = self.ends = last.quiet
        if curves is not None and len(curves):
            self.runs = clean(tidy(curves).quiet, duplicates=True)
        if budgets is not None:
            nominal = snapped(self.ends.frame, given=budgets)
            self.groups = self.ends.only(self.ends.frame.assign(budget=nominal)[nominal.notna()])
        self.target = float(self.ends.frame["flops"].max()) if budget is None else float(budget)
        self.budget, self.budgets, self.repeats, self.drawn = budget, budgets, repeats, drawn
        self.archs = sorted(self.runs.frame["arch"].unique())
        self.convention = self.runs.convention
        self.reasons: dict[str, str] = {}
        self.iso: IsoFlop | None = self._tried("isoflop", isoflop, self.groups, **drawn)
        self.audits: dict[str, Audit] = {}
        self.envelopes: dict[str, Envelope] = {}
        for arch in sorted(self.ends.frame["arch"].unique()):
            if checked := self._tried(f"law of {arch}", self._audit, self.ends.of(arch)):
                self.audits[arch] = checked
            if len(self.ends) == len(self.runs):
                continue
            if found := self._tried(f"envelope of {arch}", envelope, self.runs.of(arch), **drawn):
                self.envelopes[arch] = found

    def _audit(self, mine: Runs) -> Audit:
        law = fit(mine, repeats=self.repeats, **self.drawn)
        return audit(mine, at=self.target, law=law, repeats=self.repeats)

    def _tried(self, name: str, make: Callable[..., Any], rows: Runs, **drawn: Any) -> Any:
        try:
            return make(rows, **drawn)
        except NotIdentified as error:
            self.reasons[name] = str(error)

    @property
    def laws(self) -> dict[str, FittedLaw]:
        """The laws that were audited."""
        return {arch: found.law for arch, found in self.audits.items()}

    @property
    def best(self) -> str:
        """The architecture with the lowest loss at the largest budget of all: others are compared with it."""
        rows = self.ends.frame
        if self.iso is not None:
            used = self.iso.optima[self.iso.optima["used"]]
            shared = used.groupby("budget")["arch"].transform("nunique")
            rows = used[shared == shared.max()]
            rows = rows[rows["budget"] == rows["budget"].max()]
        return str(rows.loc[rows["loss"].idxmin(), "arch"])

    @property
    def summary(self) -> str:
        """One sentence on the runs and one on the units."""
        flops = self.ends.frame["flops"]
        return (
            f"{counted(len(self.ends), 'run')} of {counted(len(self.archs), 'architecture')}, "
            f"{number(flops.min())} to {number(flops.max())} training FLOPs ({self.convention}). "
            f"Loss in nats per token, intervals of {100 * self.drawn['confidence']:g} %, "
            f"allocations at {number(self.target)} FLOPs."
        )
