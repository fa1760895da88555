"""Comparisons: at equal compute, at equal state, and by what training off the optimum costs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from scaling.laws.comparison import Comparison, compare
from scaling.laws.isoflops import IsoFlop
from scaling.laws.penalty import RATIOS, OverTraining, overtraining
from scaling.laws.runs.cleaning import NotIdentified
from scaling.laws.runs.rows import Table as RunTable
from scaling.laws.runs.rows import tidy
from scaling.laws.state import StateLaw
from scaling.report.figures.frontiers import figure_frontiers
from scaling.report.figures.penalty import figure_overtraining
from scaling.report.numbers import number, span, within
from scaling.report.printing import records
from scaling.report.section import Drawing, Listing, Section, Table, about_table

WORDS = {"not resolved": "not told apart"}
# Of tokens over the optimal tokens, the one that a verdict is on.
FOUR = 4.0


def compared(
    frame: RunTable,
    *,
    baseline: str | None = None,
    at: float | None = None,
    budgets: Sequence[float] | None = None,
    **drawn: Any,
) -> Section:
    """All that runs say of architectures at equal compute; drawn: bootstrap, confidence and seed."""
    table = tidy(frame)
    runs, notes = table.quiet, table.notes
    ratios = ratios_section(compare(runs, baseline=baseline, at=at, budgets=budgets, **drawn))
    try:
        penalties = penalty_section(overtraining(runs, budgets=budgets, **drawn), at)
    except NotIdentified as error:
        said = (f"the penalty off the optimum is not identified: {error}",)
        penalties = Section(notes=said, data={"penalties": [], "penalties_at": at})
    warnings = [*ratios.notes, *penalties.notes]
    return Section(
        text=(about_table(notes), *ratios.text, *penalties.text, Listing("warnings:", warnings)),
        data=ratios.data | penalties.data | {"warnings": warnings, "notes": list(notes)},
    )


def ratios_section(found: Comparison, isoflop: IsoFlop | None = None) -> Section:
    """Ratios of perplexity by budget and over all of them; isoflop: for the figure."""
    overall = found.table if found.overall is None else found.overall
    caption = "Perplexity at the vertex of each isoFLOP parabola, against compute."
    text: list[str | Table] = [
        f"Ratios of compute-optimal perplexity, {100 * found.confidence:g} % intervals"
    ]
    for heading, table in (("", found.table), ("Over all common budgets", found.overall)):
        if table is not None:
            named = table.rename(columns={"low": "ratio_low", "high": "ratio_high"})
            text += [heading, Table("", named)]
    return Section(
        verdicts=[
            f"{row.arch}: {span(row.ratio, row.low, row.high)} times the perplexity of {row.baseline} at "
            f"equal compute ({WORDS.get(row.verdict, row.verdict)})."
            for row in overall.itertuples()
        ],
        notes=found.warnings,
        tables=(
            Table("Perplexity ratio, mean of the common budgets", overall),
            Table("Perplexity ratio by budget", found.table),
        ),
        figures=(Drawing("frontiers", caption, lambda: figure_frontiers(isoflop)),) if isoflop else (),
        text=text,
        data={"table": records(found.table), "overall": records(found.overall)},
    )


def penalty_section(found: OverTraining, at: float | None = None) -> Section:
    """What it costs to train off the optimum; at: FLOPs, without it those that the runs have in common."""
    at = found.at if at is None else at
    rows, cells, verdicts = [], [], []
    for arch in found.basins:
        cell = {"architecture": arch}
        for ratio in RATIOS:
            cost = found.penalty(arch, ratio, at=at)
            ends = {"penalty_low": cost.interval.low, "penalty_high": cost.interval.high}
            row = {"arch": arch, "tokens_over_optimum": ratio, "penalty": cost.loss}
            rows.append(row | ends | {"beyond_the_runs": cost.beyond})
            said, beyond = within(cost.loss, cost.interval), " (beyond the runs)" * cost.beyond
            cell[f"D/D* = {ratio:g}"] = said + beyond
            if ratio == FOUR:
                cost_of = f"{arch}: four times the optimal tokens cost {said} nats a token"
                verdicts.append(f"{cost_of} at equal compute{beyond}.")
        cells.append(cell)
    penalties = pd.DataFrame(rows)
    caption = "Loss above the optimum of the same compute, against tokens over the optimal tokens."
    return Section(
        verdicts=verdicts,
        notes=found.warnings,
        tables=(Table(f"Penalty in nats per token, at {number(at)} FLOPs", pd.DataFrame(cells)),),
        figures=(Drawing("overtraining", caption, lambda: figure_overtraining(found)),),
        text=(f"Loss above the optimum at {at:.3g} FLOPs, nats per token", Table("", penalties)),
        data={"penalties": records(penalties), "penalties_at": at},
    )


def state_section(law: StateLaw, isoflop: IsoFlop | None) -> Section:
    """P* = k M^c, with one c and each architecture's own; isoflop: for the figure."""
    rows = [
        {"class": name, "exponent c": within(value, law.intervals.get(name)), "k": law.coefficients[name]}
        for name, value in law.exponents.items()
    ]
    caption = "The same optima against compute and against their total state; lines at the right: P* = k M^c."
    return Section(
        verdicts=(
            f"Compute-optimal perplexity goes as the state to the {within(law.exponent, law.interval)} "
            f"(one exponent for all, {law.n} optima; arXiv:2403.17844 has about -0.28).",
        ),
        notes=law.warnings,
        tables=(Table("State-optimal law", pd.DataFrame(rows)),),
        figures=(Drawing("states", caption, lambda: figure_frontiers(isoflop, law)),) if isoflop else (),
    )
