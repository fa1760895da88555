"""Figures that compare architectures: frontiers, over-training, scores against perplexity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scaling.report.style import (
    FONT,
    GREY,
    Look,
    caption,
    finish,
    looks,
    name_lines,
    name_points,
    number,
    panels,
    plain,
)
from scaling.scores.relation import Relation
from scaling.scores.table import MEAN
from scaling.scores.verdict import lead, p_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scaling.laws.isoflops import IsoFlop
    from scaling.laws.penalty import OverTraining
    from scaling.laws.state import StateLaw

PPL = "perplexity exp(L)"
ROWS_LABELLED = 16


def figure_frontiers(found: IsoFlop, state: StateLaw | None = None) -> Figure:
    """Compute-optimal perplexity against compute, and against the state of those models, by architecture.

    The lines of the left panel join the optima; those of the right are the state-optimal law P* = k M^c.
    """
    used = found.optima[found.optima["used"]]
    look = looks(found.optima["arch"].unique())
    figure, axes = panels(1, 2 if state is not None else 1, width=3.7, share_x="none")
    left = axes[0]
    left.set_xscale("log")
    left.set_yscale("log")
    names = []
    for arch, mine in used.groupby("arch"):
        y = np.exp(mine["loss"].to_numpy(float))
        low, high = (np.exp(mine[f"loss_{end}"].to_numpy(float)) for end in ("low", "high"))
        bars = np.nan_to_num(np.abs(np.stack([y - low, high - y])))
        shown = look[str(arch)]
        fmt = shown.marker + shown.dash
        left.errorbar(mine["flops"], y, bars, fmt=fmt, color=shown.colour, markersize=4, linewidth=1.1)
        names.append((str(arch), float(mine["flops"].iloc[-1]), float(y[-1]), shown.colour))
    left.set_xlabel("training FLOPs C")
    left.set_ylabel(f"compute-optimal {PPL}")
    caption(left, f"At equal compute: {len(used)} optima\n{100 * found.confidence:g} % intervals")
    if state is not None:
        _states(axes[1], state, look)
    name_lines(left, names)
    which = "Compute- and state-optimal" if state is not None else "Compute-optimal"
    return finish(figure, f"{which} perplexity, from {found.n} runs")


def figure_overtraining(found: OverTraining) -> Figure:
    """The loss above the optimum of the same compute against D / D*, with the fitted penalty and its band."""
    archs = sorted(found.basins)
    look = looks(archs)
    figure, (axis,) = panels(1, 1, width=5.4, height=3.2)
    axis.set_xscale("log")
    axis.axhline(0, color="black", linewidth=0.8)
    axis.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
    ends = []
    for arch in archs:
        mine, basin, shown = found.points[found.points["arch"] == arch], found.basins[arch], look[arch]
        axis.plot(mine["ratio"], mine["penalty"], shown.marker, color=shown.colour, markersize=3, alpha=0.6)
        grid = np.geomspace(basin.lowest, basin.highest, 60)
        curve = [found.penalty(arch, float(ratio)) for ratio in grid]
        y = np.array([point.loss for point in curve])
        axis.plot(grid, y, shown.dash, color=shown.colour, linewidth=1.3)
        low, high = (np.array([getattr(point.interval, end) for point in curve]) for end in ("low", "high"))
        axis.fill_between(grid, low, high, color=shown.colour, alpha=0.16, linewidth=0)
        ends.append((arch, float(grid[-1]), float(y[-1]), shown.colour))
    axis.set_xlabel("tokens over the optimal tokens of the same compute, D / D*")
    axis.set_ylabel("loss above the optimum (nats per token)")
    caption(
        axis, f"Points: {len(found.points)} runs at all budgets; lines: {number(found.at)} FLOPs, with bands"
    )
    name_lines(axis, ends)
    return finish(figure, "Penalty of training off the optimum at equal compute")


def figure_relate(relation: Relation) -> Figure:
    """The leading score against perplexity, with intervals; and the rank correlations of all predictors."""
    pairs, table = relation.pairs, relation.table
    whole = table[table["group"] == "all"].set_index("predictor")
    row = lead(whole[whole["kind"] == "score"])
    figure, axes = panels(1, 2, width=4.1, height=3.4, share_x="none", share_y="none")
    _scatter(axes[0], pairs, row, relation)
    _forest(axes[1], whole, relation)
    at = f" at {number(relation.budget)} FLOPs" if relation.budget else ""
    return finish(
        figure, f"Synthetic scores against {relation.target} perplexity{at}, {len(pairs)} architectures"
    )


def _states(axis: Axes, state: StateLaw, look: Mapping[str, Look]) -> None:
    """Classes that are architectures keep their colours, and their names are those of the other panel."""
    points = state.points
    classes = sorted(map(str, points["class"].unique()))
    named = set(classes) <= set(look)
    look = look if named else looks(classes)
    axis.set_xscale("log")
    names = []
    for group in classes:
        mine, shown = points[points["class"] == group], look[group]
        axis.plot(mine["state"], mine["ppl"], shown.marker, color=shown.colour, markersize=4)
        if group in state.exponents:
            x = np.geomspace(mine["state"].min(), mine["state"].max(), 20)
            axis.plot(x, np.asarray(state.ppl(x, group=group)), shown.dash, color=shown.colour, linewidth=1.1)
        names.append((group, float(mine["state"].max()), float(mine["ppl"].min()), shown.colour))
    axis.set_xlabel("total state M of the optimal model (elements)")
    one = state.shared or len(state.exponents) == 1
    interval = state.interval if one else None
    band = f" ({interval.low:.2f} to {interval.high:.2f})" if interval else ""
    said = f"c = {state.exponent:.2f}{band}" if one else "each class its own c"
    caption(axis, f"At equal state: {state.n} optima\nP* = k M^c, {said}")
    if not named:
        name_points(axis, names)


def _scatter(axis: Axes, pairs: pd.DataFrame, row: pd.Series, relation: Relation) -> None:
    score = str(row.name)
    there = pairs[pairs[score].notna()]
    look = looks(pairs.index)
    x, y = there[score].to_numpy(float), there["ppl"].to_numpy(float)
    for arch, x_i, y_i in zip(there.index, x, y, strict=True):
        shown, ends = look[arch], there.loc[arch, ["low", "high"]].to_numpy(float)
        if np.isfinite(ends).all():
            axis.plot([x_i, x_i], ends, color=shown.colour, linewidth=1.0)
        if score == MEAN and {"mean_low", "mean_high"} <= set(there):
            axis.plot(
                there.loc[arch, ["mean_low", "mean_high"]], [y_i, y_i], color=shown.colour, linewidth=1.0
            )
        axis.plot(x_i, y_i, shown.marker, color=shown.colour, markersize=5)
    if np.ptp(x) > 0:
        slope, start = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        axis.plot(ends, start + slope * ends, color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    axis.margins(x=0.1, y=0.1)
    if len(there) <= ROWS_LABELLED:
        names = [(str(arch), a, b, look[arch].colour) for arch, a, b in zip(there.index, x, y, strict=True)]
        name_points(axis, names)
    axis.set_xlabel("mean score (%)" if score == MEAN else f"{plain(score)} (%)")
    axis.set_ylabel(f"{relation.target} {PPL}" if relation.target != "given" else PPL)
    said = f"n = {len(there)}"
    if np.isfinite(row["p"]):
        said += f", Spearman {row['spearman']:+.2f}, one-sided p {p_text(row['p'])}"
        said += f"\nPearson {row['pearson']:+.2f} ({row['pearson_low']:+.2f} to {row['pearson_high']:+.2f})"
    caption(axis, said)


def _forest(axis: Axes, whole: pd.DataFrame, relation: Relation) -> None:
    """Spearman's rho of every predictor with its bootstrap interval, p and n at the right."""
    rows = whole[whole["p"].notna()]
    places = np.arange(len(rows))[::-1]
    for place, (name, row) in zip(places, rows.iterrows(), strict=True):
        colour = "black" if row["kind"] == "score" else GREY
        axis.plot([row["spearman_low"], row["spearman_high"]], [place, place], color=colour, linewidth=1.0)
        face = colour if name == MEAN else "white"
        axis.plot(row["spearman"], place, "o", color=colour, markerfacecolor=face, markersize=5)
        axis.text(
            1.06, place, f"{p_text(row['p'])}, {int(row['n'])}", fontsize=FONT - 2, va="center", color=colour
        )
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xlim(-1.05, 1.05)
    axis.set_yticks(places, [plain(name, 26) for name in rows.index])
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_xlabel("Spearman correlation with perplexity")
    caption(
        axis,
        f"{100 * relation.confidence:g} % bootstrap intervals; grey: baselines\nat the right: one-sided p, n",
    )
