"""Do synthetic scores predict scaling? Scores of architectures against their perplexity at equal compute.

Evidence in print is small: five, four and nine architectures (arXiv:2403.17844, 2406.06484, 2506.05233).
Hence no coefficient stands alone here: each comes with n, an interval, an exact p-value, the error of
predicting an architecture that was left out, and the error of what is cheaper than the suite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scaling.laws.powerlaw import check_confidence
from scaling.laws.runs.cleaning import Table
from scaling.scores.correlation import Array, Correlation, correlate, holm, leave_out_error
from scaling.scores.matching import match
from scaling.scores.table import MEAN, ScoreTable, read_scores
from scaling.scores.target import Target, find_target, runs_of
from scaling.scores.verdicts import ALL, NOTHING, verdict

# Scores within this of 100 % are at the ceiling, where they cannot be told apart.
CEILING = 0.5
PARAMETERS, SHORT = "parameters only", "loss of a short run"
COEFFICIENTS = ("pearson", "spearman", "kendall")
COLUMNS = [
    *("group", "kind", "predictor", "n"),
    *(f"{name}{end}" for name in COEFFICIENTS for end in ("", "_low", "_high")),
    *("pearson_boot_low", "pearson_boot_high", "p", "p_two_sided", "p_holm", "p_pearson", "p_kendall"),
    *("smallest_p", "method", "needed", "loo_rmse", "lofo_rmse", "ceiling", "ties", "note"),
]


@dataclass(frozen=True, kw_only=True)
class Relation:
    """What the scores say about perplexity.

    verdict  plain sentences, the conclusion first
    table    one row per group ("all" architectures, or a class) and predictor; `kind` is score or baseline.
             pearson, spearman, kendall with _low and _high (bootstrap; Pearson's are Fisher's, and its
             bootstrap is pearson_boot_*); p and p_two_sided are Spearman's, p_pearson and p_kendall are
             one-sided; p_holm is p adjusted over the tasks of the group (the mean is one planned test);
             loo_rmse and lofo_rmse are leave-one-out and leave-one-family-out errors in perplexity of a line
             in the predictor; ceiling is the share of rows within 0.5 of 100 %
    pairs    one row per architecture in both tables: ppl (with low, high), the scores in %, class, family
    target   which perplexity: "compute-optimal", "state-optimal" or "given"; `budget` in training FLOPs
    notes    what was assumed, left out or extrapolated
    """

    verdict: tuple[str, ...]
    table: pd.DataFrame
    pairs: pd.DataFrame
    target: str
    budget: float | None
    confidence: float
    notes: tuple[str, ...]


def relate(
    scores: pd.DataFrame,
    frame: Table,
    *,
    budget: float | None = None,
    target: str = "compute-optimal",
    classes: Mapping[str, str] | None = None,
    families: Mapping[str, str] | None = None,
    baselines: bool = True,
    confidence: float = 0.95,
    bootstrap: int = 2000,
    seed: int = 0,
) -> Relation:
    """Synthetic scores against the perplexity of the same architectures as language models.

    scores    a row per architecture, as `scaling.scores.table` says: a leaderboard or a published table
    frame     language-model runs (`scaling.laws.runs`), from which the perplexity is found; or a row per
              architecture with ppl or loss, which is then the target as "given"
    budget    training FLOPs at which architectures are compared; None takes the largest that all of them have
    target    "compute-optimal": the vertex of the isoFLOP parabola; "state-optimal": the same at equal state,
              by P* = k M^c (arXiv:2403.17844)
    classes   class of each architecture (transformer, hybrid, recurrent); else the scores' column `class`
    families  family of each architecture; else the column `family`, else the classes

    A one-sided p-value is that of a higher score going with a lower perplexity. The intervals hold for the
    architectures as a sample; the error of the scores and of the perplexities themselves is not in them.
    Raises ValueError for tables that cannot be read, names that are unknown, and fewer than three
    architectures in both tables; NotIdentified where the runs have no optimum at the budget.
    """
    read, runs = read_scores(scores), runs_of(frame)
    classes, families = _labels(read, "class", classes), _labels(read, "family", families)
    check_confidence(confidence, bootstrap)
    drawn: dict[str, Any] = {"bootstrap": bootstrap, "confidence": confidence, "seed": seed}
    goal = find_target(runs, target=target, budget=budget, **drawn)
    matched, unmatched = match(read.names, _called(goal, runs.frame))
    pairs = _pairs(read, goal, matched, classes, families)
    columns = [name for name in read.columns if pairs[name].notna().any()]
    rows = []
    for group, part in _groups(pairs).items():
        found = [_row(group, "score", name, part[name], part, **drawn) for name in columns]
        tasks = [row for row in found if row["predictor"] != MEAN and "p" in row]
        for row, adjusted in zip(tasks, holm([row["p"] for row in tasks]), strict=True):
            row["p_holm"] = adjusted
        rows += found
        # What costs less than the suite.
        cheap = {PARAMETERS: np.log(part["params"]), SHORT: part["short"], NOTHING: None}
        for name, values in cheap.items() if baselines else ():
            if values is None or values.notna().sum() >= 3:
                rows.append(_row(group, "baseline", name, values, part, **drawn))
    table = pd.DataFrame(rows, columns=COLUMNS)
    return Relation(
        verdict=verdict(table, pairs, goal, confidence, unmatched),
        table=table,
        pairs=pairs,
        target=goal.kind,
        budget=goal.budget,
        confidence=confidence,
        notes=(*read.notes, *goal.notes, *unmatched),
    )


def _called(goal: Target, frame: pd.DataFrame) -> dict[str, list[str]]:
    """Each architecture of the runs by its label and, where they are known, the specs that it labels."""
    labels = [str(arch) for arch in goal.frame.index]
    if not {"arch", "spec"} <= set(frame):
        return {label: [label] for label in labels}
    specs = frame.dropna(subset=["spec"]).groupby(frame["arch"].astype(str))["spec"].unique()
    return {label: [label, *map(str, specs.get(label, []))] for label in labels}


def _labels(read: ScoreTable, column: str, given: Mapping[str, str] | None) -> dict[str, str]:
    """Class or family by architecture of the score table; empty where it is not known of any."""
    if given is None:
        known = dict(read.frame[column].dropna()) if column in read.frame else {}
    else:
        matched, unmatched = match(read.names, list(given))
        stray = [name for name in given if name not in matched.values()]
        if stray:
            raise ValueError(
                f"{column} of {stray[0]!r}: no such row in the scores; {' '.join(unmatched[:1])}"
            )
        known = {arch: given[name] for arch, name in matched.items()}
    labels = {str(arch): str(label).strip() for arch, label in known.items()}
    if column == "class" and ALL in labels.values():
        raise ValueError(f"{column} {ALL!r} is what the table calls all architectures; name it otherwise")
    return labels


def _pairs(
    read: ScoreTable, goal: Target, matched: dict[str, str], classes: dict[str, str], families: dict[str, str]
) -> pd.DataFrame:
    if len(matched) < 3:
        both, runs = ", ".join(matched) or "none", ", ".join(map(str, goal.frame.index))
        raise ValueError(
            f"{len(matched)} architectures are in both tables ({both}); three are the least that can be "
            f"related. Scores have: {', '.join(read.names)}. Runs have: {runs}; "
            "call them alike, by label or by spec"
        )
    scores = read.frame.loc[list(matched)]
    language = goal.frame.loc[list(matched.values())].set_axis(scores.index)
    params = scores.get("params", language["params"])
    pairs = language[["ppl", "low", "high"]].join(scores[list(read.columns)])
    pairs.insert(0, "run_arch", list(matched.values()))
    pairs["params"] = language["params"] if params.isna().any() else params
    pairs[["short", "flags"]] = language[["short", "flags"]]
    pairs["class"] = [classes.get(arch, "") for arch in pairs.index]
    pairs["family"] = [families.get(arch, classes.get(arch, "")) for arch in pairs.index]
    return pairs


def _groups(pairs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """All architectures, and each class of three or more where there is more than one class."""
    groups = {ALL: pairs}
    if pairs["class"].nunique() > 1:
        groups |= {str(name): part for name, part in pairs.groupby("class") if name and len(part) >= 3}
    return groups


def _row(
    group: str, kind: str, predictor: str, values: pd.Series | None, part: pd.DataFrame, **drawn: Any
) -> dict[str, Any]:
    """A predictor over the rows that have it; numbers that are not filled in are NaN.

    One that does not vary, or has two rows, has no coefficient. Without values: the mean of the others.
    """
    row = {"group": group, "kind": kind, "predictor": predictor, "n": len(part)}
    row |= {"method": "", "ties": 0, "note": ""}
    if values is None:
        return row | _errors(None, part)
    part = part[values.notna()]
    x, y = values.dropna().to_numpy(float), part["ppl"].to_numpy(float)
    row |= {"n": len(x), "note": _why_not(x, y)}
    if kind == "score" and len(x):
        row |= {"ceiling": float((x >= 100 - CEILING).mean()), "ties": len(x) - len(np.unique(x))}
    if row["note"]:
        return row
    # Parameters go with less perplexity, as scores do; the perplexity of a short run with that of a long one.
    expect = "positive" if predictor == SHORT else "negative"
    row |= _cells(correlate(x, y, expect=expect, **drawn)) | _errors(x, part)
    return row | ({"p_holm": row["p"]} if predictor == MEAN else {})


def _errors(x: Array | None, part: pd.DataFrame) -> dict[str, float]:
    """Errors in perplexity of a line in x, with each architecture, and with each family, left out."""
    ppl = part["ppl"].to_numpy(float)
    families = part["family"].tolist()
    return {"loo_rmse": leave_out_error(x, ppl), "lofo_rmse": leave_out_error(x, ppl, families)}


def _why_not(x: Array, y: Array) -> str:
    if len(x) < 3:
        return f"{len(x)} rows have it"
    if np.ptp(x) == 0:
        return "it is the same in every row"
    return "" if np.ptp(y) else "the perplexity is the same in every row"


def _cells(found: Correlation) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for name in COEFFICIENTS:
        coefficient = getattr(found, name)
        interval = found.fisher if name == "pearson" else coefficient.interval
        cells |= {name: coefficient.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return cells | {
        "pearson_boot_low": found.pearson.interval.low,
        "pearson_boot_high": found.pearson.interval.high,
        "p": found.spearman.p,
        "p_two_sided": found.spearman.p_two_sided,
        "p_pearson": found.pearson.p,
        "p_kendall": found.kendall.p,
        "smallest_p": found.smallest_p,
        "method": found.method,
        "needed": found.needed,
    }
