"""The rows of a table that count: whose run ended well, whose architecture and run are known.

`tidy` looks at a table as a whole, once, whoever brought it; what it sets aside, merges or assumes is a
sentence in `attrs["notes"]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from scaling.laws.runs import doubts
from scaling.laws.runs.columns import chosen, folded, is_blank, lacking, named, rows_text
from scaling.laws.runs.files import read_table

# What tools write of a run that ended well. Any other word is taken for a bad end.
GOOD = frozenset(
    ("ok", "okay", "finished", "complete", "completed", "success", "successful", "succeeded", "done")
)
# A selection of rows keeps labels below this; parameters and tokens lie above.
LARGEST_LABEL = 10**6
YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
# Columns that say how a run ended, and the cells of those that ended well; SLURM writes 0:0.
FLAGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("diverged", "failed", "crashed", "killed", "interrupted", "preempted", "oom", "error"), NO
    ),
    **dict.fromkeys(("converged", "finished", "completed", "complete", "success", "succeeded", "ok"), YES),
    **dict.fromkeys(
        ("exit_code", "exitcode", "exit_status", "return_code", "returncode"), ("0", "0.0", "0:0")
    ),
}


def tidy(
    frame: pd.DataFrame,
    *,
    columns: Mapping[str, str] | None = None,
    by: str | None = None,
    where: str | None = None,
) -> pd.DataFrame:
    """The rows that count, under our names, once for all: what is tidy already comes back as it is.

    columns  our names to the table's, where they are not recognised
    by       the column that tells architectures apart, in the place of `arch`
    where    only rows for which this holds, as pandas.DataFrame.query takes it

    The index counts the rows of the table from 1, or holds the ids of stored runs, as the messages do; parts
    of a tidy table keep it. In `attrs`: "notes" on all that was set aside or assumed, "columns" as the table
    has them, "labelled" whether it names architectures. Refused, with rows and column: two columns for one
    thing, architectures or runs without a name, and what `doubts` says of the table as a whole.
    """
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"runs are a {type(frame).__name__}; give a pandas.DataFrame, or read a CSV")
    parted = "tidy" in frame.attrs and frame.index.is_unique
    if parted and columns is by is where is None:
        return frame
    if not parted:
        _not_shifted(frame)
    out, notes = named(frame, columns, by)
    before = frame.attrs.get("notes")
    notes = [*(before if isinstance(before, tuple) else ()), *notes]
    if not parted:
        # A stored run is called by its id.
        ids = out["id"].tolist() if "ids" in frame.attrs and "id" in out else []
        out.index = pd.Index(ids) if 0 < len(ids) == len(set(ids)) else pd.RangeIndex(1, len(out) + 1)
    out.attrs = {
        "name": frame.attrs.get("name", "the table"),
        "columns": tuple(frame.attrs.get("columns", map(str, frame.columns))),
        "tidy": True,
    }
    if where is not None:
        out = chosen(out, where)
    out = _good(out, notes)
    out.attrs["labelled"] = "arch" in out
    if out.attrs["labelled"]:
        names = labels(out, "arch")
        if names.nunique() < out["arch"].astype(str).nunique():
            notes.append("names in column 'arch' that differ only by spaces around them are one")
    out["arch"] = names if out.attrs["labelled"] else "all"
    if "run" in out:
        out["run"] = _run_labels(out)
    notes += doubts.of_shape(out)
    notes += doubts.of_units(out)
    notes += doubts.of_losses(out, chosen=bool(set(columns or ()) & {"loss", "ppl"}))
    notes += doubts.of_budgets(out)
    out.attrs["notes"] = tuple(dict.fromkeys(notes))
    return out


def ends(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per run of a tidy table: of the rows that share a `run`, the one with most tokens.

    A note says how many rows that merges. Refused where the rows of a run are not the curve of one model.
    """
    keys = ["arch", "run"]
    if "run" not in frame or not frame.duplicated(keys).any():
        return frame
    if "tokens" not in frame:
        raise ValueError(lacking(["tokens"], frame))
    table = frame.copy()
    positive(table, "tokens")
    runs = table.groupby(keys, sort=False)
    sizes = runs["params"].nunique() if "params" in table else pd.Series([1])
    if (sizes > 1).any():
        raise ValueError(
            f"run {sizes.idxmax()[1]!r} has {sizes.max()} sizes, but rows that share a run are the training "
            "curve of one model; give each run its own label, or take the column out"
        )
    last = table[table["tokens"] == runs["tokens"].transform("max")]
    apart = last.drop_duplicates([*keys, "loss"] if "loss" in last else keys)
    if len(apart) > runs.ngroups:
        rows = list(last.index[last.duplicated(keys, keep=False)])
        raise ValueError(
            f"{rows_text(rows)}: a run ends twice, with the same tokens and different losses; keep one"
        )
    last = last.drop_duplicates(keys)
    runs = f"{len(last)} run{'s' * (len(last) != 1)}"
    merged = f"{len(table)} rows are the training curves of {runs} (column run), each its last row"
    last.attrs["notes"] = (*frame.attrs["notes"], merged)
    return last


def without_notes(frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A table, tidy, and its notes, for those who state them once: no result of it repeats them."""
    out = tidy(frame).copy()
    notes, out.attrs = out.attrs["notes"], out.attrs | {"notes": ()}
    return out, notes


def read(
    source: str | Path | pd.DataFrame,
    *,
    columns: Mapping[str, str] | None = None,
    by: str | None = None,
    where: str | None = None,
) -> pd.DataFrame:
    """A table of runs for the functions of this package: of a file (CSV, JSON, JSON lines), or your frame.

    columns, by, where  as in `tidy`, whose checks are those of `mad scaling fit`
    """
    frame = read_table(source) if isinstance(source, str | Path) else source
    return tidy(frame, columns=columns, by=by, where=where)


def _not_shifted(frame: pd.DataFrame) -> None:
    """Of a file whose rows have a field more than the header, pandas.read_csv makes the first the index."""
    index = frame.index
    if isinstance(index, pd.RangeIndex) or index.name is not None or not len(frame) or frame.shape[1] < 2:
        return
    counted = pd.api.types.is_integer_dtype(index) and index.is_unique and index.max() < LARGEST_LABEL
    if not counted and frame.iloc[:, -1].isna().all():
        raise ValueError(
            f"the last column, {str(frame.columns[-1])!r}, is empty and the index has no name: the rows of "
            "the file had a field more than its header, so all columns are shifted; take away the commas at "
            "their ends, or read it with scaling.read"
        )


def _good(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The rows of runs that ended well, by the columns `status` and `FLAGS`; the others are named."""
    aside = pd.Series(False, frame.index)
    if "status" in frame:
        words = frame["status"].astype(str).str.strip().str.lower().where(~is_blank(frame["status"]), "")
        for word, mine in words.groupby(words, sort=False):
            rows = rows_text(list(mine.index))
            if word in GOOD:
                notes += [f"status {word!r} counts as ok ({rows})"] * (word != "ok")
            elif word == "":
                notes.append(f"no status counts as ok ({rows})")
            else:
                aside |= words == word
                notes.append(f"{rows} set aside: status {word!r} is not ok")
    for name in frame:
        good = FLAGS.get(folded(name).removeprefix("is_"), ())
        if not good:
            continue
        words = frame[name].astype(str).str.strip().str.lower().where(~is_blank(frame[name]), "")
        if good in (YES, NO) and not words.isin((*YES, *NO, "")).all():
            notes.append(f"column {name!r} was not read: it holds more than yes and no")
        elif (marked := ~words.isin((*good, ""))).any():
            notes.append(f"{rows_text(list(frame.index[marked]))} set aside: column {name!r} says so")
            aside |= marked
    if "run" in frame and aside.any():
        label = frame["run"].astype(str).str.strip()
        key = label if "arch" not in frame else frame["arch"].astype(str).str.strip() + "\n" + label
        with_it = key.isin(key[aside & ~is_blank(frame["run"])]) & ~aside
        if with_it.any():
            notes.append(f"{rows_text(list(frame.index[with_it]))} set aside with the rest of their run")
            aside |= with_it
    if len(frame) and aside.all():
        raise ValueError(
            f"there are no runs whose status is ok ({'; '.join(notes)}); write ok, or take the column out"
        )
    return frame[~aside]


def labels(frame: pd.DataFrame, name: str) -> pd.Series:
    """The names in a column, none of them blank, without spaces around."""
    blank = frame.index[is_blank(frame[name])]
    if len(blank):
        raise ValueError(
            f"{rows_text(list(blank))}, column {name!r}: no value; name it in every row, or leave the column "
            "out"
        )
    return frame[name].astype(str).str.strip()


def _run_labels(frame: pd.DataFrame) -> pd.Series:
    """A label for each run; a blank one is no label where others have training curves."""
    blank = is_blank(frame["run"])
    words = frame["run"].astype(str).str.strip()
    if blank.any() and frame.assign(run=words)[~blank].duplicated(["arch", "run"]).any():
        raise ValueError(
            f"{rows_text(list(frame.index[blank]))}, column 'run': no value, and rows that share a run are "
            "its training curve; label every row, a run of one row too"
        )
    return words.where(~blank, [f"row {row}" for row in frame.index])


def positive(frame: pd.DataFrame, name: str) -> None:
    """Make a column float64; name the rows that are not finite and positive."""
    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(float)
    words = [row for row in frame.index[np.isnan(values)] if _word(frame[name][row])]
    if words:
        raw = frame[name][words[0]]
        raise ValueError(f"{rows_text(words)}, column {name!r}: {raw!r} is not a number; write it as 1.5e9")
    missing = list(frame.index[np.isnan(values)])
    if missing:
        raise ValueError(
            f"{rows_text(missing)}, column {name!r}: no value; fill it in, or leave the run out (a diverged "
            "run: column status = diverged)"
        )
    wrong = list(frame.index[~(np.isfinite(values) & (values > 0))])
    if wrong:
        raise ValueError(
            f"{rows_text(wrong)}, column {name!r}: {frame[name][wrong[0]]} is not a finite number above 0; "
            "correct it, or leave the run out"
        )
    frame[name] = values


def _word(raw: object) -> bool:
    return isinstance(raw, str) and raw.strip().lower() not in ("", "nan")
