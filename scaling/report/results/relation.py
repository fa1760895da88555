"""Synthetic scores against perplexity, the verdict first."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mad.board.look import figures
from mad.board.look.figures import FONT, GREY, PPL, plain
from scaling.laws.runs.doubts import SERIOUS
from scaling.report.numbers import number, records
from scaling.report.section import Drawing, Listing, Section, Table, about_table
from scaling.scores.relation import Relation
from scaling.scores.table import MEAN
from scaling.scores.verdicts import lead, p_text

# Of the table of correlations, what a terminal and what a page can show.
START = ["group", "predictor", "n", "spearman", "spearman_low", "spearman_high"]
PEARSON = ["pearson", "pearson_low", "pearson_high"]
NARROW = [*START, "p", "p_holm", *PEARSON, "loo_rmse"]
WIDE = [
    *(*START, "kendall", *PEARSON, "p", "p_two_sided", "p_holm", "smallest_p", "needed"),
    *("loo_rmse", "lofo_rmse", "note"),
]
ROWS_LABELLED = 16


def relation_section(found: Relation) -> Section:
    """What the scores say about perplexity."""
    caption = (
        "Left: score against perplexity, with the least-squares line. Right: Spearman correlation of each "
        "predictor. p is one-sided: a higher score with a lower perplexity."
    )
    correlations = "Correlations; errors in perplexity (leave-one-out, leave-one-family-out)"
    where = "" if found.budget is None else f" at {found.budget:.3g} FLOPs"
    serious = [note for note in found.notes if note.startswith(SERIOUS)]
    return Section(
        verdicts=found.verdict[:3],
        notes=(*found.verdict[3:], *found.notes),
        tables=(
            Table(correlations, found.table[WIDE]),
            Table("Architectures in both tables", found.pairs.drop(columns="run_arch").reset_index()),
        ),
        figures=(Drawing("relate", caption, lambda: figure_relate(found)),),
        text=(
            about_table(serious),
            Listing("verdict:", found.verdict),
            f"Scores against {found.target} perplexity{where}; p is one-sided and exact where n allows, "
            "loo_rmse is in perplexity",
            Table("", found.table[NARROW]),
            Table("", found.pairs),
            Listing("notes:", [note for note in found.notes if note not in serious]),
        ),
        data={
            "verdict": list(found.verdict),
            "target": found.target,
            "budget": found.budget,
            "confidence": found.confidence,
            "table": records(found.table),
            "pairs": records(found.pairs),
            "notes": list(found.notes),
        },
    )


def figure_relate(relation: Relation) -> figures.Figure:
    """The leading score against perplexity, with intervals; and the rank correlations of all predictors."""
    whole = relation.table[relation.table["group"] == "all"].set_index("predictor")
    figure, axes = figures.panels(1, 2, width=4.1, height=3.4, share_x="none", share_y="none")
    _scatter(axes[0], lead(whole[whole["kind"] == "score"]), relation)
    _forest(axes[1], whole[whole["p"].notna()], relation.confidence)
    at = f" at {number(relation.budget)} FLOPs" if relation.budget else ""
    said = f"Synthetic scores against {relation.target} perplexity{at}, {len(relation.pairs)} architectures"
    return figures.finish(figure, said)


def _scatter(axis: figures.Axes, row: pd.Series, relation: Relation) -> None:
    score, target = str(row.name), relation.target
    there = relation.pairs[relation.pairs[score].notna()]
    look = figures.looks(relation.pairs.index)
    x, y = there[score].to_numpy(float), there["ppl"].to_numpy(float)
    for arch, x_i, y_i in zip(there.index, x, y, strict=True):
        (colour, marker, _), ends = look[arch], there.loc[arch, ["low", "high"]].to_numpy(float)
        if np.isfinite(ends).all():
            axis.plot([x_i, x_i], ends, color=colour, linewidth=1.0)
        axis.plot(x_i, y_i, marker, color=colour, markersize=5)
    if np.ptp(x) > 0:
        slope, start = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        axis.plot(ends, start + slope * ends, color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    axis.margins(x=0.1, y=0.1)
    if len(there) <= ROWS_LABELLED:
        names = zip(map(str, there.index), x, y, (look[arch].colour for arch in there.index), strict=True)
        figures.name_points(axis, list(names))
    axis.set_xlabel("mean score (%)" if score == MEAN else f"{plain(score)} (%)")
    axis.set_ylabel(PPL if target == "given" else f"{target} {PPL}")
    said = f"n = {len(there)}"
    if np.isfinite(row["p"]):
        said += f", Spearman {row['spearman']:+.2f}, one-sided p {p_text(row['p'])}"
        said += f"\nPearson {row['pearson']:+.2f} ({row['pearson_low']:+.2f} to {row['pearson_high']:+.2f})"
    figures.caption(axis, said)


def _forest(axis: figures.Axes, rows: pd.DataFrame, confidence: float) -> None:
    """Spearman's rho of every predictor with its bootstrap interval, p and n at the right."""
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
    said = f"{100 * confidence:g} % bootstrap intervals; grey: baselines\nat the right: one-sided p, n"
    figures.caption(axis, said)
