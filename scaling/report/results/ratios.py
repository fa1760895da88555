"""Comparisons: at equal compute, at equal state, and by what training off the optimum costs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mad.board.look import figures
from mad.board.look.figures import FLOPS, GREY, PPL, Label, Look
from scaling.laws.comparison import Comparison, compare
from scaling.laws.isoflops import IsoFlop
from scaling.laws.penalty import RATIOS, OverTraining, overtraining
from scaling.laws.runs.cleaning import NotIdentified, tidy
from scaling.laws.runs.cleaning import Table as RunTable
from scaling.laws.state import StateLaw
from scaling.report.numbers import number, records, span, within
from scaling.report.section import Drawing, Listing, Section, Table, about_table


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
    ratios = ratios_section(compare(table.quiet, baseline=baseline, at=at, budgets=budgets, **drawn))
    try:
        penalties = penalty_section(overtraining(table.quiet, budgets=budgets, **drawn), at)
    except NotIdentified as error:
        said = (f"the penalty off the optimum is not identified: {error}",)
        penalties = Section(notes=said, data={"penalties": [], "penalties_at": at})
    warnings = [*ratios.notes, *penalties.notes]
    return Section(
        text=(about_table(table.notes), *ratios.text, *penalties.text, Listing("warnings:", warnings)),
        data=ratios.data | penalties.data | {"warnings": warnings, "notes": list(table.notes)},
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
            text += [heading, Table("", table.rename(columns={"low": "ratio_low", "high": "ratio_high"}))]
    return Section(
        verdicts=[
            f"{row.arch}: {span(row.ratio, row.low, row.high)} times the perplexity of {row.baseline} at "
            f"equal compute ({row.verdict.replace('not resolved', 'not told apart')})."
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
            if ratio == 4:
                cost_of = f"{arch}: four times the optimal tokens cost {said} nats per token"
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


def figure_frontiers(found: IsoFlop, state: StateLaw | None = None) -> figures.Figure:
    """Compute-optimal perplexity against compute, and against the state of those models, by architecture.

    The lines of the left panel join the optima; those of the right are the state-optimal law P* = k M^c.
    """
    used = found.optima[found.optima["used"]]
    look = figures.looks(found.optima["arch"].unique())
    figure, axes = figures.panels(1, 1 if state is None else 2, width=3.7, share_x="none", log="x")
    left = axes[0]
    left.set_yscale("log")
    names: list[Label] = []
    for arch, mine in used.groupby("arch"):
        y, low, high = (np.exp(mine[name].to_numpy(float)) for name in ("loss", "loss_low", "loss_high"))
        colour, marker, dash = look[str(arch)]
        how: dict[str, Any] = {"fmt": marker + dash, "color": colour, "markersize": 4, "linewidth": 1.1}
        left.errorbar(mine["flops"], y, figures.bars(y, low, high), **how)
        names.append((str(arch), mine["flops"].iloc[-1], y[-1], colour))
    left.set(xlabel=FLOPS, ylabel=f"compute-optimal {PPL}")
    figures.caption(left, f"At equal compute: {len(used)} optima\n{100 * found.confidence:g} % intervals")
    if state is not None:
        _states(axes[1], state, look)
    figures.name_lines(left, names)
    which = "Compute-optimal" if state is None else "Compute- and state-optimal"
    return figures.finish(figure, f"{which} perplexity, from {found.n} runs")


def _states(axis: figures.Axes, state: StateLaw, look: Mapping[str, Look]) -> None:
    """Classes that are architectures keep their colours, and their names are those of the other panel."""
    points = state.points
    classes = sorted(map(str, points["class"].unique()))
    named = set(classes) <= set(look)
    look = look if named else figures.looks(classes)
    names: list[Label] = []
    for group in classes:
        mine, (colour, marker, dash) = points[points["class"] == group], look[group]
        axis.plot(mine["state"], mine["ppl"], marker, color=colour, markersize=4)
        if group in state.exponents:
            x = np.geomspace(mine["state"].min(), mine["state"].max(), 20)
            axis.plot(x, np.asarray(state.ppl(x, group=group)), dash, color=colour, linewidth=1.1)
        names.append((group, mine["state"].max(), mine["ppl"].min(), colour))
    axis.set_xlabel("total state M of the optimal model (elements)")
    said = "each class its own c"
    if state.shared or len(state.exponents) == 1:
        ends = state.interval
        said = f"c = {state.exponent:.2f}" + (f" ({ends.low:.2f} to {ends.high:.2f})" if ends else "")
    figures.caption(axis, f"At equal state: {state.n} optima\nP* = k M^c, {said}")
    if not named:
        figures.name_points(axis, names)


def figure_overtraining(found: OverTraining) -> figures.Figure:
    """The loss above the optimum of the same compute against D / D*, with the fitted penalty and its band."""
    look = figures.looks(found.basins)
    figure, (axis,) = figures.panels(1, 1, width=5.4, height=3.2, log="x")
    axis.axhline(0, color="black", linewidth=0.8)
    axis.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
    names: list[Label] = []
    for arch, basin in sorted(found.basins.items()):
        mine, (colour, marker, _) = found.points[found.points["arch"] == arch], look[arch]
        axis.plot(mine["ratio"], mine["penalty"], marker, color=colour, markersize=3, alpha=0.6)
        grid = np.geomspace(basin.lowest, basin.highest, 60)
        curve = [found.penalty(arch, float(ratio)) for ratio in grid]
        y, low, high = np.array([(p.loss, p.interval.low, p.interval.high) for p in curve]).T
        figures.band(axis, look[arch], grid, y, low, high)
        names.append((arch, grid[-1], y[-1], colour))
    axis.set_xlabel("tokens over the optimal tokens of the same compute, D / D*")
    axis.set_ylabel("loss above the optimum (nats per token)")
    runs = f"Points: {len(found.points)} runs at all budgets"
    figures.caption(axis, f"{runs}; lines: {number(found.at)} FLOPs, with bands")
    figures.name_lines(axis, names)
    return figures.finish(figure, "Penalty of training off the optimum at equal compute")
