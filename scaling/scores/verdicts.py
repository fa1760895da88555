"""What a table of correlations says, in sentences: the conclusion, its limits, and what is cheaper."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from mad.messages import counted
from scaling.report.numbers import number
from scaling.scores.table import MEAN
from scaling.scores.target import Target

# Below this many architectures a correlation speaks of rank at best.
SMALL = 10
# Points of the mean within which laboratories disagree on one architecture (arXiv:2411.10741 and 2406.06484).
LABORATORIES = 3.0
# A task with this share of its rows at the ceiling cannot order them.
MANY = 0.5
# Shares of a level are compared with this much grace: 6 * (1 / 120) is .05.
ROUNDING = 1e-9
ALL = "all"
NOTHING = "predict the mean"


def verdict(
    table: pd.DataFrame, pairs: pd.DataFrame, goal: Target, confidence: float, unmatched: tuple[str, ...]
) -> tuple[str, ...]:
    """Sentences on `Relation.table`; the first is the conclusion on the mean, or on the only score."""
    level = round(1 - confidence, 12)
    whole = table[table["group"] == ALL].set_index("predictor")
    scores = whole[whole["kind"] == "score"]
    at = f" at {number(goal.budget)} FLOPs" if goal.budget is not None else ""
    if len(scores) and np.isfinite((row := lead(scores))["p"]):
        first, numbers = _conclusion(row, f"{goal.kind} perplexity{at}", level)
        said = [first + _opposed(table, row), numbers, *_prediction(whole, row)]
    else:
        said = ["No score varies over these architectures: nothing can be concluded."]
    said += _tasks(scores[scores.index != MEAN], level)
    said += [*_classes(table, pairs, level), *_resolution(pairs), *_flags(pairs, at)]
    return (*said, *unmatched)


def lead(scores: pd.DataFrame) -> pd.Series:
    """The row of the mean, or where there is none that can be judged, of the first score that can."""
    usable = scores[scores["p"].notna()]
    if MEAN in usable.index or usable.empty:
        return scores.loc[MEAN] if MEAN in scores.index else scores.iloc[0]
    return usable.iloc[0]


def _conclusion(row: pd.Series, target: str, level: float) -> tuple[str, str]:
    """The conclusion, and the numbers that it rests on."""
    n = int(row["n"])
    how = "exact" if row["method"] == "exact" else "from random pairings"
    numbers = (
        f"{_called(row.name)} against {target}, n = {n}: Spearman {row['spearman']:+.2f}, one-sided p "
        f"{p_text(row['p'])} ({how}; the smallest possible is {p_text(row['smallest_p'])}); Pearson "
        f"{row['pearson']:+.2f}, {100 * (1 - level):.3g} % interval {row['pearson_low']:+.2f} to "
        f"{row['pearson_high']:+.2f}; Kendall {row['kendall']:+.2f}."
    )
    enough = level + ROUNDING
    said = "No agreement is shown between score and perplexity"
    more = f"About {int(row['needed'])} architectures would tell a correlation of this size from none."
    if row["smallest_p"] > enough:
        said = f"n is too small to conclude: no order of {n} architectures could reach p = {level:.2g}."
    elif row["spearman"] > 0 and row["p_two_sided"] <= enough:
        said = (
            f"Higher scores go with HIGHER perplexity (two-sided p {p_text(row['p_two_sided'])}): the scores "
            "point the wrong way here."
        )
    elif row["spearman"] > 0:
        said += f", and the sign is the wrong one. {more}"
    elif row["p"] > enough:
        said += f". {more}"
    elif n < SMALL or row["pearson_high"] > -0.5:
        said = (
            f"Higher scores go with lower perplexity in rank, but n = {n} is too small for a calibrated map "
            "from score to perplexity: use the scores as a screen."
        )
    else:
        said = "Higher scores go with lower perplexity."
    return said, numbers


def _opposed(table: pd.DataFrame, row: pd.Series) -> str:
    """Said where every class has the opposite sign of all together: then the classes differ, and no more."""
    same = table[(table["group"] != ALL) & (table["predictor"] == row.name) & table["spearman"].notna()]
    if len(same) < 2 or not (np.sign(same["spearman"]) == -np.sign(row["spearman"])).all():
        return ""
    way = "HIGHER" if row["spearman"] < 0 else "LOWER"
    each = ", ".join(f"{one.group} {one.spearman:+.2f}" for one in same.itertuples())
    return (
        f" BUT WITHIN EVERY CLASS THE SIGN IS THE OPPOSITE: there higher scores go with {way} perplexity "
        f"(Spearman {each}), so what holds over all is a difference between classes, and says nothing within."
    )


def _prediction(whole: pd.DataFrame, row: pd.Series) -> tuple[str, str]:
    others = whole["loo_rmse"][whole["kind"] == "baseline"].dropna()
    predictor = _called(row.name).replace("The", "the", 1)
    error = (
        f"A line in {predictor} predicts the perplexity of an architecture that was left out with an error "
        f"of {row['loo_rmse']:.3g} (root mean square, in perplexity)"
    )
    first = "; ".join([error, *(f"{name}: {value:.3g}" for name, value in others.items())]) + "."
    if better := _list(others.index[others <= row["loo_rmse"]]):
        first += f" The suite predicts no better than what is cheaper or known anyway: {better}."
    if not np.isfinite(row["lofo_rmse"]):
        second = (
            "All architectures are of one family, or none was named: nothing here speaks of other families."
        )
        return first, second
    nothing = whole["lofo_rmse"].get(NOTHING, np.nan)
    mean = f" (the mean of the other families: {nothing:.3g})" if np.isfinite(nothing) else ""
    return first, f"With its whole family left out the error is {row['lofo_rmse']:.3g}{mean}."


def _tasks(tasks: pd.DataFrame, level: float) -> list[str]:
    said = []
    known = tasks[tasks["p"].notna()]
    if len(known) > 1:
        holds = known.index[known["p_holm"] <= level + ROUNDING]
        said.append(
            f"Of {len(known)} tasks, {_list(holds) or 'none'} "
            f"{'goes' if len(holds) == 1 else 'go'} with perplexity beyond chance after Holm's correction."
        )
    wrong = known[(known["pearson"] > 0) | (known["spearman"] > 0)]
    if len(wrong):
        both = zip(wrong.index, wrong["spearman"], wrong["pearson"], strict=True)
        values = [f"{name} (Spearman {rho:+.2f}, Pearson {r:+.2f})" for name, rho, r in both]
        said.append(f"Of the wrong sign (a higher score with a higher perplexity): {_list(values)}.")
    if top := _list(tasks.index[tasks["ceiling"] >= MANY]):
        said.append(
            f"At the ceiling in half of the rows or more, so unable to order them: {top}; their "
            "coefficients hang on the rows below it."
        )
    if silent := _list(f"{name} ({note})" for name, note in tasks["note"].items() if note):
        said.append(f"Without a coefficient: {silent}.")
    part = tasks["n"][(tasks["n"] < tasks["n"].max()) & (tasks["note"] == "")]
    if len(part):
        said.append(
            f"Over fewer rows than the others: {_list(f'{name} (n = {n})' for name, n in part.items())}."
        )
    return said


def _classes(table: pd.DataFrame, pairs: pd.DataFrame, level: float) -> list[str]:
    sizes = pairs.loc[pairs["class"] != "", "class"].value_counts()
    if not len(sizes):
        return ["No class was named, so agreement within classes is not told from agreement across them."]
    if len(sizes) == 1:
        return [f"All named architectures are of class {sizes.index[0]}: nothing is shown across classes."]
    said = []
    for name, size in sorted(sizes.items()):
        rows = table[(table["group"] == name) & (table["kind"] == "score")].set_index("predictor")
        if rows.empty:
            said.append(f"Class {name}: {counted(size, 'architecture')}, too few to relate.")
        elif np.isfinite((row := lead(rows))["p"]):
            n, short = int(row["n"]), row["smallest_p"] > level + ROUNDING
            said.append(
                f"Within class {name}, n = {n}: Spearman {row['spearman']:+.2f}, p {p_text(row['p'])}"
                + (f" (no order of {n} could reach {level:.2g})." if short else ".")
            )
    return said


def _resolution(pairs: pd.DataFrame) -> list[str]:
    """How many pairs of architectures differ by less than laboratories do."""
    if MEAN not in pairs or pairs[MEAN].notna().sum() < 2:
        return []
    mean = pairs[MEAN].dropna().to_numpy(float)
    gaps = np.abs(mean[:, None] - mean)[np.triu_indices(len(mean), 1)]
    near = int((gaps < LABORATORIES).sum())
    return [
        "Two to three points of the mean are not resolvable between laboratories; "
        f"{near} of the {len(gaps)} pairs here differ by less than {LABORATORIES:.0f}."
    ]


def _flags(pairs: pd.DataFrame, at: str) -> list[str]:
    """Perplexities that rest on anything but a bracketed optimum at the budget."""
    said = []
    for flag, rows in pairs[pairs["flags"] != ""].groupby("flags"):
        who = "all architectures" if len(rows) == len(pairs) else _list(rows.index)
        said.append(f"Perplexity{at} of {who}: {flag}.")
    return said


def p_text(p: float) -> str:
    """.008, .04, < .001."""
    return "< .001" if p < 0.0005 else f"{p:.{3 if p < 0.0995 else 2}f}".lstrip("0")


def _called(name: object) -> str:
    return "The mean score" if name == MEAN else f"The score on {name}"


def _list(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))
