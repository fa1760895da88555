"""The report of a study: one HTML page with all that its runs show, and why they do not show the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from architectures.files import check_target, whole_file
from scaling.laws.families import fit_families
from scaling.laws.runs.cleaning import NotIdentified
from scaling.report.analysis import Analysis, analyse
from scaling.report.comparisons import figure_relate
from scaling.report.page import Part, page, span
from scaling.report.parts import (
    allocation_part,
    best,
    comparison_part,
    isoflop_part,
    law_part,
    limits_part,
    overtraining_part,
    runs_part,
    state_part,
)
from scaling.report.style import number, save
from scaling.scores.relation import relate
from scaling.scores.table import read_scores

# Of the table of correlations, what a page can show.
COLUMNS = (
    *("group", "predictor", "n", "spearman", "spearman_low", "spearman_high", "kendall", "pearson"),
    *("pearson_low", "pearson_high", "p", "p_two_sided", "p_holm", "smallest_p", "needed", "loo_rmse"),
    *("lofo_rmse", "note"),
)


def write(
    frame: pd.DataFrame,
    out: str | Path,
    *,
    curves: pd.DataFrame | None = None,
    scores: pd.DataFrame | None = None,
    repeats: Literal["refuse", "effective"] = "refuse",
    budget: float | None = None,
    budgets: Sequence[float] | None = None,
    title: str = "Scaling laws",
    classes: Mapping[str, str] | None = None,
    figures: str | Path | None = None,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    force: bool = True,
) -> Path:
    """Write the page for a table of runs (`scaling.laws.runs`) to `out`; equal input makes equal files.

    curves   training curves of the runs (column `run`), for the envelope; else the table's own
    scores   synthetic scores by architecture, as `relate` reads them; without them that part says so
    repeats  of text, as in `fit`
    budget   training FLOPs at which allocations are given; without it those of the largest run
    budgets  nominal FLOPs of the isoFLOP groups, as in `isoflop`; without them they are found
    figures  a folder for every figure as PNG and SVG
    classes  of the architectures, as in `relate`
    force    whether files that exist are replaced; False refuses them, before anything is written

    What the runs do not identify stands on the page as the reason. ValueError for tables that `clean` or
    `read_scores` refuse, before anything is written.
    """
    check_target(out, force=force)
    if figures is not None:
        Path(figures).mkdir(parents=True, exist_ok=True)
    if scores is not None:
        read_scores(scores)
    about = analyse(
        frame,
        curves=curves,
        repeats=repeats,
        budget=budget,
        budgets=budgets,
        bootstrap=bootstrap,
        confidence=confidence,
        seed=seed,
    )
    parts = [
        runs_part(about),
        _tried("isoflop", "IsoFLOP optima", isoflop_part, about),
        _tried("laws", "Laws of loss", law_part, about),
        _tried("allocation", "Compute-optimal allocation", allocation_part, about),
        _tried("compare", "Architectures at equal compute", comparison_part, about),
        _tried("multipliers", "Compute multipliers", families_part, about),
        _tried("state", "Architectures at equal state", state_part, about),
        _tried("overtraining", "Training off the optimum", overtraining_part, about),
        _tried("relate", "Synthetic scores", lambda known: relate_part(known, scores, classes), about),
        limits_part(about),
    ]
    text = page(title, about.summary, parts)
    if figures is not None:
        drawn = {
            Path(figures) / f"{name}{ending}": figure
            for part in parts
            for name, _, figure in part.figures
            for ending in (".png", ".svg")
        }
        for path in drawn:
            check_target(path, force=force)
        for path, figure in drawn.items():
            save(figure, path)
    with whole_file(out, force=force) as half:
        half.write_text(text, encoding="utf-8")
    return Path(out)


def families_part(about: Analysis) -> Part:
    """Laws with exponents in common, and what compute each architecture needs for one loss."""
    if len(about.archs) < 2:
        raise NotIdentified("There is one architecture; compute multipliers need two.")
    found = fit_families(
        about.ends,
        bootstrap=about.bootstrap,
        confidence=about.confidence,
        seed=about.seed,
        repeats=about.repeats,
    )
    reference = best(about)
    table = found.multipliers(about.target, reference=reference)
    table = table[table["arch"] != reference]
    verdicts = [
        f"{row.arch} needs {span(row.multiplier, row.low, row.high)} times the compute of {reference} for "
        f"its loss at {number(about.target)} FLOPs."
        for row in table.itertuples()
    ]
    return Part(
        name="multipliers",
        title="Compute multipliers",
        verdicts=tuple(verdicts),
        said=(*([str(found.sharing)] if found.sharing else []), *found.warnings),
        tables=((f"Compute for the loss of {reference}; alpha and beta in common", table),),
    )


def relate_part(about: Analysis, scores: pd.DataFrame | None, classes: Mapping[str, str] | None) -> Part:
    """Scores against perplexity, or that none were given."""
    if scores is None:
        raise NotIdentified(
            "no scores were given; give a leaderboard or a table of scores to relate them to these runs"
        )
    try:
        found = relate(
            scores,
            about.groups,
            budget=about.budget,
            classes=classes,
            bootstrap=about.bootstrap,
            confidence=about.confidence,
            seed=about.seed,
        )
    except ValueError as error:
        # Both tables were read before: what is left is that they do not meet, a fact that the page states.
        raise NotIdentified(str(error)) from None
    pairs = found.pairs.drop(columns=["run_arch"]).reset_index()
    caption = (
        "Left: score against perplexity, with the least-squares line. Right: Spearman correlation of each "
        "predictor. p is one-sided: a higher score with a lower perplexity."
    )
    return Part(
        name="relate",
        title="Synthetic scores",
        verdicts=found.verdict[:3],
        said=(*found.verdict[3:], *found.notes),
        tables=(
            (
                "Correlations; errors in perplexity (leave-one-out, leave-one-family-out)",
                found.table[list(COLUMNS)],
            ),
            ("Architectures in both tables", pairs),
        ),
        figures=(("relate", caption, figure_relate(found)),),
    )


def _tried(name: str, title: str, make: Callable[[Analysis], Part], about: Analysis) -> Part:
    """A part, or the reason why these runs give none."""
    try:
        return make(about)
    except NotIdentified as error:
        return Part(name=name, title=title, why=str(error))
