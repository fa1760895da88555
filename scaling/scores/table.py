"""The table of synthetic scores that `relate` reads: one row per architecture, in % whatever it came in.

    arch    name or spec of the architecture (or architecture, model); spec and given are further names
    scores  the six tasks by name (in-context-recall or in_context_recall, fuzzy-in-context-recall or
            fuzzy_recall, ...), and their mean (mad, average or mean); every column x with x_low and x_high
    class   transformer, hybrid, recurrent, ...
    family  which architectures descend from one another
    params  parameters of the synthetic models, for the baseline

A leaderboard (`mad.board.table.frame`, or its CSV) is such a table. Further columns are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import pandas as pd

from scaling.laws.runs.columns import flat, folded, is_blank, rows_text

NAMES = ("arch", "architecture", "model")
NAMED = (*NAMES, "class", "family", "params", "spec", "given", "missing")
MEAN = "mean"
TASKS = (
    "in-context-recall",
    "fuzzy-in-context-recall",
    "noisy-in-context-recall",
    "selective-copying",
    "compression",
    "memorization",
)
# Published tables shorten some names, and one spells the British way.
ALIASES = {
    "context-recall": TASKS[0],
    "icr": TASKS[0],
    "fuzzy-recall": TASKS[1],
    "noisy-recall": TASKS[2],
    "copying": TASKS[3],
    "memorisation": TASKS[5],
    **dict.fromkeys(("mad", "average", "mean"), MEAN),
}
# Points by which a printed mean may differ from the mean of its tasks: rounding, and digitised figures.
ROUNDING = 1.0


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Scores in %, indexed by architecture, NaN where there is none.

    columns  the scores that are there, the mean first
    names    the ways in which each row can be called
    notes    what was assumed in reading
    """

    frame: pd.DataFrame
    columns: tuple[str, ...]
    names: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]


def read_scores(scores: pd.DataFrame) -> ScoreTable:
    """The table as documented above, checked.

    Raises ValueError, with row and column, for a table without names or scores, an architecture that is there
    twice, values that are not numbers or outside 0..100, or fractions and % in one table.
    """
    if not isinstance(scores, pd.DataFrame):
        raise ValueError(f"scores are a {type(scores).__name__}; give a pandas.DataFrame, or read a CSV")
    table = flat(scores)
    forms = {column: folded(column) for column in table}
    counts = list(forms.values())
    table = table.rename(columns={c: f for c, f in forms.items() if f in NAMED and counts.count(f) == 1})
    table.index = pd.RangeIndex(1, len(table) + 1)
    name = next((column for column in NAMES if column in table), None)
    if name is None:
        raise ValueError(f"no column 'arch' (or architecture, model); columns are: {_listed(table.columns)}")
    if table.empty:
        raise ValueError("there are no scores; add one row per architecture")
    if len(blank := table.index[is_blank(table[name])]):
        raise ValueError(f"{rows_text(list(blank))} of the scores, column {name!r}: no value; name each row")
    table[name] = table[name].astype(str).str.strip()
    found, notes = _score_columns(table)
    twice = table[name][table[name].duplicated(keep=False)]
    if len(twice):
        first = twice.iloc[0]
        raise ValueError(
            f"{rows_text(list(twice.index[twice == first]))} of the scores all are {first!r}; keep one "
            "(scores of different laboratories or protocols do not belong in one table)"
        )
    values = pd.DataFrame({to: _numbers(table, column) for to, column in found.items()})
    values = _percent(values, found, notes)
    _mean(values, table[name], table.get("missing"), notes)
    columns = sorted(values, key=lambda column: column != MEAN)
    out = values[columns].set_axis(pd.Index(table[name], name="arch"))
    for extra in ("class", "family"):
        if extra in table:
            out[extra] = table[extra].to_numpy(object)
    if "params" in table:
        out["params"] = pd.to_numeric(table["params"], errors="coerce").to_numpy(float)
    called = [column for column in (*NAMES, "given", "spec") if column in table]
    names = {
        row[name]: tuple(dict.fromkeys(str(row[column]) for column in called if pd.notna(row[column])))
        for _, row in table.iterrows()
    }
    return ScoreTable(frame=out, columns=tuple(columns), names=names, notes=tuple(notes))


def _score_columns(table: pd.DataFrame) -> tuple[dict[str, str], list[str]]:
    """Which column holds which score."""
    found: dict[str, str] = {}
    notes = []
    known = (*TASKS, *ALIASES)
    for column in map(str, table.columns):
        word = column.strip().lower().replace("_", "-").replace(" ", "-")
        task = ALIASES.get(word, word)
        if task in (*TASKS, MEAN) or {f"{column}_low", f"{column}_high"} <= set(table.columns):
            if task in found:
                raise ValueError(f"columns {found[task]!r} and {column!r} both are {task}; keep one")
            found[task] = column
        elif not column.endswith(("_low", "_high")):
            close = get_close_matches(word, known, n=1, cutoff=0.8)
            if close:
                notes.append(f"Column {column!r} was not read; if it is a score, call it {close[0]}.")
    if not found:
        raise ValueError(
            f"no column holds scores; columns are: {_listed(table.columns)}. Scores are called "
            f"{_listed(TASKS)}, or mean{'. ' + ' '.join(notes) if notes else ''}"
        )
    return found, notes


def _numbers(table: pd.DataFrame, column: str) -> pd.Series:
    values = pd.to_numeric(table[column], errors="coerce").astype(float)
    words = [row for row in table.index if np.isnan(values[row]) and _is_word(table[column][row])]
    if words:
        raise ValueError(
            f"{rows_text(words)}, column {column!r}: {table[column][words[0]]!r} is not a number; write a "
            "score in %, or leave the cell empty"
        )
    wrong = list(values.index[(values < 0) | (values > 100)])
    if wrong:
        raise ValueError(
            f"{rows_text(wrong)}, column {column!r}: {values[wrong[0]]:g} is not an accuracy; give scores "
            "from 0 to 100 %, or fractions from 0 to 1"
        )
    return values


def _percent(values: pd.DataFrame, called: dict[str, str], notes: list[str]) -> pd.DataFrame:
    """In %. Fractions are those of a table in which nothing exceeds 1; a table of both is refused."""
    if values.max(axis=None) <= 1:
        notes.append("Scores were read as fractions (none exceeds 1).")
        return values * 100
    columns, rows = ([*most.index[(most > 0) & (most <= 1)]] for most in (values.max(), values.max(axis=1)))
    if columns or rows:
        where = f"column {called[columns[0]]!r}" if columns else rows_text(rows)
        raise ValueError(
            f"{where} of the scores holds fractions, the others %; give all in one unit (multiply by 100)"
        )
    notes.append("Scores were read as % (some exceed 1).")
    return values


def _mean(values: pd.DataFrame, names: pd.Series, missing: pd.Series | None, notes: list[str]) -> None:
    """The mean as given, or of all task columns; NaN in rows that lack a part of it."""
    tasks = [column for column in values if column in TASKS]
    own = values[tasks].mean(axis=1, skipna=False)
    if MEAN not in values:
        if len(tasks) > 1:
            values[MEAN] = own
            notes.append(f"The mean is that of the {len(tasks)} task columns.")
        return
    if missing is not None:
        partial = missing.notna() & (missing.astype(str).str.strip() != "")
        if partial.any():
            values.loc[partial, MEAN] = np.nan
            notes.append(f"{_listed(names[partial])}: runs are missing, so the mean was left out.")
    odd = (values[MEAN] - own).abs() > ROUNDING
    if odd.any():
        notes.append(
            f"{_listed(names[odd])}: the mean that was given is not that of the {len(tasks)} task columns."
        )


def _is_word(raw: object) -> bool:
    return isinstance(raw, str) and raw.strip().lower() not in ("", "nan", "-")


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))
