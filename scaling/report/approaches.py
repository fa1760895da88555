"""`mad scaling fit`: every approach that was asked for, each architecture by itself.

What a design cannot identify is answered with the reason in its place; where nothing is identified, the
command fails with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from scaling.laws.auditing import audit
from scaling.laws.envelopes import envelope
from scaling.laws.families import fit_families
from scaling.laws.fitting import fit
from scaling.laws.forms import STANDARD, form_of, known
from scaling.laws.isoflops import isoflop
from scaling.laws.penalty import fit_overtraining_law
from scaling.laws.powerlaw import power_law
from scaling.laws.runs.cleaning import NotIdentified, Runs, Table, clean, tidy
from scaling.laws.runs.columns import chosen
from scaling.report.results.law import families_section, law_section, overtraining_law_section
from scaling.report.results.optima import envelope_section, isoflop_section, optima_section
from scaling.report.section import Section, about_table, unidentified

DRAWN: dict[str, Any] = {"bootstrap": 1000, "confidence": 0.95, "seed": 0}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked of `mad scaling fit`.

    train   a condition over the columns: these runs are fitted, and the others predicted
    at      training FLOPs at which optima are given
    how     form, objective, delta, resample and repeats of `scaling.fit`
    drawn   bootstrap, confidence and seed
    """

    approach: str = "all"
    train: str | None = None
    shared: tuple[str, ...] = ()
    at: tuple[float, ...] = ()
    budgets: tuple[float, ...] | None = None
    window: float | None = None
    how: Mapping[str, Any] = field(default_factory=dict)
    drawn: Mapping[str, Any] = field(default_factory=lambda: DRAWN)

    def __post_init__(self) -> None:
        known("approach", self.approach, ("all", *APPROACHES))
        form_of(self.how.get("form", STANDARD))


class Parts(NamedTuple):
    """Runs of one architecture: those to fit, their training curves, and those that are predicted instead.

    rows  what the law is fitted to: the runs, or all rows of their curves where whole runs are drawn
    """

    fitted: Runs
    rows: Runs
    curves: Runs | None
    held_out: Runs


def fitted(frame: Table, asked: Request, *, curves: Table | None = None) -> Section:
    """All answers; NotIdentified where no approach determines anything.

    curves  the training curves of the runs, with a column `run`, for the envelope
    """
    table = tidy(frame)
    notes, quiet = table.notes, None if curves is None else tidy(curves).quiet
    answers = list(_answers(table.quiet, quiet, asked))
    if all(answer.why for _, _, answer in answers):
        raise NotIdentified("; ".join(f"{arch}, {name}: {answer.why}" for arch, name, answer in answers))
    return Section(
        text=(about_table(notes), *(block for *_, answer in answers for block in answer.text)),
        data=[
            {"arch": arch, "approach": name, "notes": list(notes)} | answer.data
            for arch, name, answer in answers
        ],
    )


def _answers(table: Runs, curves: Runs | None, asked: Request) -> Iterator[tuple[str, str, Section]]:
    """Each with its architecture and approach."""
    names = ("law", "isoflop", "envelope") if asked.approach == "all" else (asked.approach,)
    if not table:
        raise ValueError("there are no runs; name a table, or train some with `mad scaling train`")
    train = rows = _trained(table, asked)
    held_out = table.only(table.frame.drop(index=train.frame.index))
    if asked.how.get("resample") == "run" and curves is not None:
        rows = _trained(curves, asked)
    for arch in train.frame["arch"].unique():
        runs = Parts(train.of(arch), rows.of(arch), curves and curves.of(arch), held_out.of(arch))
        for name in names:
            try:
                answer = APPROACHES[name](str(arch), runs, asked)
            except NotIdentified as error:
                answer = unidentified(f"{arch}, {name}", error)
            yield str(arch), name, answer
    if asked.shared:
        yield "all", "shared", _families(rows, asked)


def _trained(runs: Runs, asked: Request) -> Runs:
    return runs if asked.train is None else runs.only(chosen(runs.frame, asked.train))


def _law(arch: str, runs: Parts, asked: Request) -> Section:
    targets = asked.at or (float(clean(runs.fitted).frame["flops"].max()),)
    law = fit(runs.rows, **asked.how, **asked.drawn)
    checked = audit(runs.rows, at=targets[-1], law=law, repeats=asked.how.get("repeats", "refuse"))
    return law_section(arch, checked, targets, runs.held_out)


def _isoflop(arch: str, runs: Parts, asked: Request) -> Section:
    found = isoflop(runs.fitted, budgets=asked.budgets, window=asked.window, **asked.drawn)
    return isoflop_section(arch, found, asked.at or (float(found.optima["flops"].max()),))


def _envelope(arch: str, runs: Parts, asked: Request) -> Section:
    if not runs.curves:
        raise NotIdentified("the envelope needs training curves: several rows per run, with a column run")
    return envelope_section(arch, envelope(runs.curves, **asked.drawn), asked.at)


def _optima(arch: str, runs: Parts, asked: Request) -> Section:
    """The rows are compute-optimal models already; those without one are said to be left out."""
    there = runs.fitted.frame[runs.fitted.frame["params"].notna()]
    points = clean(runs.fitted.only(there), need=("params", "flops")).frame
    sizes = power_law(points["flops"], points["params"], confidence=asked.drawn["confidence"])
    return optima_section(arch, sizes, len(runs.fitted) - len(there), asked.at)


def _overtraining(arch: str, runs: Parts, asked: Request) -> Section:
    return overtraining_law_section(arch, fit_overtraining_law(runs.fitted), runs.held_out)


def _families(rows: Runs, asked: Request) -> Section:
    """The laws of all architectures with parameters in common."""
    try:
        found = fit_families(rows, shared=asked.shared, **asked.how, **asked.drawn)
    except NotIdentified as error:
        return unidentified(f"all, shared {' and '.join(asked.shared)}", error)
    targets = asked.at or (max(found.largest.values()),)
    return families_section(found, targets, reference=next(iter(found.laws)), shared=asked.shared)


APPROACHES: dict[str, Callable[[str, Parts, Request], Section]] = {
    "law": _law,
    "isoflop": _isoflop,
    "envelope": _envelope,
    "optima": _optima,
    "over-training": _overtraining,
}
