"""Synthetic scores against perplexity, the verdict first."""

from __future__ import annotations

from scaling.laws.runs.doubts import SERIOUS
from scaling.report.figures.relation import figure_relate
from scaling.report.printing import records
from scaling.report.section import Drawing, Listing, Section, Table, about_table
from scaling.scores.relation import Relation

# Of the table of correlations, what a terminal and what a page can show.
NARROW = (
    *("group", "predictor", "n", "spearman", "spearman_low", "spearman_high", "p", "p_holm", "pearson"),
    *("pearson_low", "pearson_high", "loo_rmse"),
)
WIDE = (
    *("group", "predictor", "n", "spearman", "spearman_low", "spearman_high", "kendall", "pearson"),
    *("pearson_low", "pearson_high", "p", "p_two_sided", "p_holm", "smallest_p", "needed", "loo_rmse"),
    *("lofo_rmse", "note"),
)


def relation_section(found: Relation) -> Section:
    """What the scores say about perplexity."""
    caption = (
        "Left: score against perplexity, with the least-squares line. Right: Spearman correlation of each "
        "predictor. p is one-sided: a higher score with a lower perplexity."
    )
    where = "" if found.budget is None else f" at {found.budget:.3g} FLOPs"
    serious = [note for note in found.notes if note.startswith(SERIOUS)]
    return Section(
        verdicts=found.verdict[:3],
        notes=(*found.verdict[3:], *found.notes),
        tables=(
            Table(
                "Correlations; errors in perplexity (leave-one-out, leave-one-family-out)",
                found.table[list(WIDE)],
            ),
            Table("Architectures in both tables", found.pairs.drop(columns="run_arch").reset_index()),
        ),
        figures=(Drawing("relate", caption, lambda: figure_relate(found)),),
        text=(
            about_table(serious),
            Listing("verdict:", found.verdict),
            f"Scores against {found.target} perplexity{where}; p is one-sided and exact where n allows, "
            "loo_rmse is in perplexity",
            Table("", found.table[[name for name in NARROW if name in found.table]]),
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
