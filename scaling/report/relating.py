"""`mad scaling relate`: a relation of scores and perplexity as text or JSON, the verdict first."""

from __future__ import annotations

import json
from typing import Any

from scaling.laws.runs.doubts import SERIOUS
from scaling.report import show
from scaling.scores.relation import Relation

SHOWN = (
    *("group", "predictor", "n", "spearman", "spearman_low", "spearman_high", "p", "p_holm", "pearson"),
    *("pearson_low", "pearson_high", "loo_rmse"),
)


def render(found: Relation, format: str = "text") -> str:
    """As "text" or "json"."""
    if format == "json":
        content: dict[str, Any] = {
            "verdict": list(found.verdict),
            "target": found.target,
            "budget": found.budget,
            "confidence": found.confidence,
            "table": show.records(found.table),
            "pairs": show.records(found.pairs),
            "notes": list(found.notes),
        }
        return json.dumps(content, indent=1, allow_nan=False)
    if format != "text":
        raise ValueError(f"format {format!r} is not one of text, json")
    where = "" if found.budget is None else f" at {found.budget:.3g} FLOPs"
    table = found.table[[name for name in SHOWN if name in found.table]]
    serious = [note for note in found.notes if note.startswith(SERIOUS)]
    parts = [
        *show.about_table(serious),
        show.notes("verdict:", found.verdict),
        f"Scores against {found.target} perplexity{where}; p is one-sided and exact where n allows, loo_rmse "
        "is in perplexity",
        show.table(table),
        show.table(found.pairs),
        show.notes("notes:", [note for note in found.notes if note not in serious]),
    ]
    return "\n\n".join(part for part in parts if part)
