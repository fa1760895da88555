"""What a table of correlations says, in sentences: the conclusion, its limits, and what is cheaper."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scaling.report.numbers import number
from scaling.scores.table import MEAN

# Below this many architectures a correlation speaks of rank at best.
SMALL = 10
# Points of the mean within which laboratories disagree on one architecture (arXiv:2411.10741 and 2406.06484).
LABORATORIES = 3.0
# A task with this share of its rows at the ceiling cannot order them.
MANY = 0.5
# Shares of a level are compared with this much grace: 6 * (1 / 120) is .05.
ROUNDING = 1e-9
ALL = "all"


def verdict(
    table: pd.DataFrame,
    pairs: pd.DataFrame,
    target: str,
    budget: float | None,
    confidence: float,
    unmatched: tuple[str, ...],
) -> tuple[str, ...]:
    """Sentences on `Relation.table`; the first is the conclusion on the mean, or on the only score."""
    level = round(1 - confidence, 12)
    whole = table[table["group"] == ALL].set_index("predictor")
    scores = whole[whole["kind"] == "score"]
    at = f" at {number(budget)} FLOPs" if budget is not None else ""
    said = []
    if len(scores) and np.isfinite(lead(scores)["p"]):
        conclusion = _conclusion(lead(scores), f"{target} perplexity{at}", level)
        conclusion[0] += _opposed(table, lead(scores))
        said += conclusion
        said += _prediction(whole, lead(scores))
    else:
        said.append("No score varies over these architectures: nothing can be concluded.")
    said += _tasks(scores, level)
    said += _classes(table, pairs, level)
    said += _resolution(pairs)
    said += _flags(pairs, at)
    said += [sentence for sentence in unmatched]
    return tuple(said)


def lead(scores: pd.DataFrame) -> pd.Series:
    """The row of the mean, or where there is none that can be judged, of the first score that can."""
    usable = scores[scores["p"].notna()]
    if MEAN in usable.index or usable.empty:
        return scores.loc[MEAN] if MEAN in scores.index else scores.iloc[0]
    return usable.iloc[0]


def _conclusion(row: pd.Series, target: str, level: float) -> list[str]:
    n = int(row["n"])
    how = "exact" if row["method"] == "exact" else "from random pairings"
    numbers = (
        f"{_called(row.name)} against {target}, n = {n}: Spearman {row['spearman']:+.2f}, one-sided p "
        f"{p_text(row['p'])} ({how}; the smallest possible is {p_text(row['smallest_p'])}); Pearson "
        f"{row['pearson']:+.2f}, {100 * (1 - level):.3g} % interval {row['pearson_low']:+.2f} to "
        f"{row['pearson_high']:+.2f}; Kendall {row['kendall']:+.2f}."
    )
    more = f"About {int(row['needed'])} architectures would tell a correlation of this size from none."
    if row["smallest_p"] > level + ROUNDING:
        first = f"n is too small to conclude: no order of {n} architectures could reach p = {level:.2g}."
        return [first, numbers]
    if row["spearman"] > 0 and row["p_two_sided"] <= level + ROUNDING:
        return [
            f"Higher scores go with HIGHER perplexity (two-sided p {p_text(row['p_two_sided'])}): the scores "
            "point the wrong way here.",
            numbers,
        ]
    if row["spearman"] > 0:
        wrong = f"No agreement is shown between score and perplexity, and the sign is the wrong one. {more}"
        return [wrong, numbers]
    if row["p"] > level + ROUNDING:
        return [f"No agreement is shown between score and perplexity. {more}", numbers]
    if n < SMALL or row["pearson_high"] > -0.5:
        return [
            f"Higher scores go with lower perplexity in rank, but n = {n} is too small for a calibrated map "
            "from score to perplexity: use the scores as a screen.",
            numbers,
        ]
    return ["Higher scores go with lower perplexity.", numbers]


def _opposed(table: pd.DataFrame, row: pd.Series) -> str:
    """That every class has the sign opposite to that of all: then what holds is a difference of classes."""
    same = table[(table["group"] != ALL) & (table["predictor"] == row.name) & table["spearman"].notna()]
    if len(same) < 2 or not (np.sign(same["spearman"]) == -np.sign(row["spearman"])).all():
        return ""
    way = "HIGHER" if row["spearman"] < 0 else "LOWER"
    each = ", ".join(f"{one.group} {one.spearman:+.2f}" for one in same.itertuples())
    return (
        f" BUT WITHIN EVERY CLASS THE SIGN IS THE OPPOSITE: there higher scores go with {way} perplexity "
        f"(Spearman {each}), so what holds over all is a difference between classes, and says nothing within."
    )


def _prediction(whole: pd.DataFrame, row: pd.Series) -> list[str]:
    predictor = _called(row.name).replace("The", "the", 1)
    said = [
        f"A line in {predictor} predicts the perplexity of an architecture that was left out with an error "
        f"of {row['loo_rmse']:.3g} (root mean square, in perplexity)"
    ]
    others = whole[(whole["kind"] == "baseline") & whole["loo_rmse"].notna()]
    said += [f"{name}: {error:.3g}" for name, error in others["loo_rmse"].items()]
    sentence = "; ".join(said) + "."
    better = [str(name) for name, error in others["loo_rmse"].items() if error <= row["loo_rmse"]]
    out = [sentence]
    if better:
        out[0] += f" The suite predicts no better than what is cheaper or known anyway: {', '.join(better)}."
    if np.isfinite(row["lofo_rmse"]):
        nothing = whole.loc["predict the mean", "lofo_rmse"] if "predict the mean" in whole.index else np.nan
        mean = f" (the mean of the other families: {nothing:.3g})" if np.isfinite(nothing) else ""
        out.append(f"With its whole family left out the error is {row['lofo_rmse']:.3g}{mean}.")
    else:
        out.append(
            "All architectures are of one family, or none was named: nothing here speaks of other families."
        )
    return out


def _tasks(scores: pd.DataFrame, level: float) -> list[str]:
    tasks = scores[scores.index != MEAN]
    if tasks.empty:
        return []
    said = []
    known = tasks[tasks["p"].notna()]
    if len(known) > 1:
        holds = known.index[known["p_holm"] <= level + ROUNDING]
        said.append(
            f"Of {len(known)} tasks, {_list(holds) or 'none'} "
            f"{'goes' if len(holds) == 1 else 'go'} with perplexity beyond chance after Holm's correction."
        )
    wrong = known.index[(known["pearson"] > 0) | (known["spearman"] > 0)]
    if len(wrong):
        both = known.loc[wrong, ["spearman", "pearson"]].itertuples()
        values = [f"{name} (Spearman {rho:+.2f}, Pearson {r:+.2f})" for name, rho, r in both]
        said.append(f"Of the wrong sign (a higher score with a higher perplexity): {', '.join(values)}.")
    top = tasks.index[tasks["ceiling"] >= MANY]
    if len(top):
        said.append(
            f"At the ceiling in half of the rows or more, so unable to order them: {_list(top)}; their "
            "coefficients hang on the rows below it."
        )
    silent = [f"{name} ({scores.loc[name, 'note']})" for name in tasks.index if tasks.loc[name, "note"]]
    if silent:
        said.append(f"Without a coefficient: {', '.join(silent)}.")
    part = tasks.index[(tasks["n"] < tasks["n"].max()) & (tasks["note"] == "")]
    if len(part):
        sizes = [f"{name} (n = {int(tasks.n[name])})" for name in part]
        said.append(f"Over fewer rows than the others: {', '.join(sizes)}.")
    return said


def _classes(table: pd.DataFrame, pairs: pd.DataFrame, level: float) -> list[str]:
    sizes = pairs.loc[pairs["class"] != "", "class"].value_counts()
    if not len(sizes):
        return ["No class was named, so agreement within classes is not told from agreement across them."]
    said = []
    for name, size in sorted(sizes.items()):
        rows = table[(table["group"] == name) & (table["kind"] == "score")].set_index("predictor")
        if len(sizes) == 1:
            said.append(f"All named architectures are of class {name}: nothing is shown across classes.")
        elif rows.empty:
            said.append(f"Class {name}: {size} architecture{'s' if size > 1 else ''}, too few to relate.")
        elif np.isfinite(lead(rows)["p"]):
            row = lead(rows)
            short = (
                f" (no order of {int(row['n'])} could reach {level:.2g})"
                if row["smallest_p"] > level + ROUNDING
                else ""
            )
            said.append(
                f"Within class {name}, n = {int(row['n'])}: Spearman {row['spearman']:+.2f}, "
                f"p {p_text(row['p'])}{short}."
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
    """Perplexities that stand on something else than a bracketed optimum at the budget."""
    said = []
    for flag, rows in pairs[pairs["flags"] != ""].groupby("flags"):
        who = "all architectures" if len(rows) == len(pairs) else _list(rows.index)
        said.append(f"Perplexity{at} of {who}: {flag}.")
    return said


def p_text(p: float) -> str:
    """.008, .04, < .001."""
    if not np.isfinite(p):
        return "-"
    if p < 0.0005:
        return "< .001"
    return f"{p:.3f}".lstrip("0") if p < 0.0995 else f"{p:.2f}".lstrip("0")


def _called(name: object) -> str:
    return "The mean score" if name == MEAN else f"The score on {name}"


def _list(names: pd.Index) -> str:
    return ", ".join(str(name) for name in names)
