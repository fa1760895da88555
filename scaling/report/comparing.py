"""`mad scaling compare`: architectures at equal compute, and what training off the optimum costs them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from scaling.laws.comparison import compare
from scaling.laws.penalty import RATIOS, overtraining
from scaling.laws.runs.cleaning import NotIdentified
from scaling.laws.runs.rows import without_notes
from scaling.report import show


def run(
    frame: pd.DataFrame,
    *,
    baseline: str | None = None,
    at: float | None = None,
    budgets: Sequence[float] | None = None,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    format: str = "text",
) -> str:
    """Ratios of perplexity and penalties, as "text" or "json"."""
    if format not in ("text", "json"):
        raise ValueError(f"format {format!r} is not one of text, json")
    frame, notes = without_notes(frame)
    common: dict[str, Any] = {
        "budgets": budgets,
        "bootstrap": bootstrap,
        "confidence": confidence,
        "seed": seed,
    }
    found = compare(frame, baseline=baseline, at=at, **common)
    warnings = list(found.warnings)
    penalties, where = pd.DataFrame(), at
    try:
        off = overtraining(frame, **common)
    except NotIdentified as error:
        warnings.append(f"the penalty off the optimum is not identified: {error}")
    else:
        warnings += off.warnings
        where, rows = off.at if at is None else at, []
        for arch in off.basins:
            for ratio in RATIOS:
                penalty = off.penalty(arch, ratio, at=where)
                ends = {"penalty_low": penalty.interval.low, "penalty_high": penalty.interval.high}
                row = {"arch": arch, "tokens_over_optimum": ratio, "penalty": penalty.loss} | ends
                rows.append(row | {"beyond_the_runs": penalty.beyond})
        penalties = pd.DataFrame(rows)
    tables = {"table": found.table, "overall": found.overall, "penalties": penalties}
    if format == "json":
        kept = {name: [] if frame is None else show.records(frame) for name, frame in tables.items()}
        said = {"penalties_at": where, "warnings": warnings, "notes": list(notes)}
        return json.dumps(kept | said, indent=1, allow_nan=False)
    head = f"Ratios of compute-optimal perplexity, {100 * confidence:g} % intervals"
    parts = [*show.about_table(notes), head, _ratios(found.table)]
    if found.overall is not None:
        parts += ["Over all common budgets", _ratios(found.overall)]
    if len(penalties):
        parts += [f"Loss above the optimum at {where:.3g} FLOPs, nats per token", show.table(penalties)]
    return "\n\n".join([*parts, *filter(None, [show.notes("warnings:", warnings)])])


def _ratios(table: pd.DataFrame) -> str:
    return show.table(table.rename(columns={"low": "ratio_low", "high": "ratio_high"}))
