"""Synthetic scores against perplexity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scaling.report.figures.labels import name_points
from scaling.report.figures.style import FONT, GREY, PPL, caption, finish, looks, panels, plain
from scaling.report.numbers import number
from scaling.scores.relation import Relation
from scaling.scores.table import MEAN
from scaling.scores.verdicts import lead, p_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS_LABELLED = 16


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
            width = there.loc[arch, ["mean_low", "mean_high"]]
            axis.plot(width, [y_i, y_i], color=shown.colour, linewidth=1.0)
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
        said = f"{p_text(row['p'])}, {int(row['n'])}"
        axis.text(1.06, place, said, fontsize=FONT - 2, va="center", color=colour)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(xlim=(-1.05, 1.05), xlabel="Spearman correlation with perplexity")
    axis.set_yticks(places, [plain(name, 26) for name in rows.index])
    axis.set_ylim(-0.6, len(rows) - 0.4)
    caption(
        axis,
        f"{100 * relation.confidence:g} % bootstrap intervals; grey: baselines\nat the right: one-sided p, n",
    )
