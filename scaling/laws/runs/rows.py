"""The rows of a table that count: whose run ended well, whose architecture and run are known.

`tidy` looks at a table as a whole, once, whoever brought it, and makes it a value, `Runs`; what it sets
aside, merges or assumes is a sentence in its notes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd

from scaling.laws.runs import doubts
from scaling.laws.runs.columns import chosen, folded, is_blank, lacking, named, refuse, rows_text
from scaling.laws.runs.files import read_noted

# What tools write of a run that ended well. Any other word is taken for a bad end.
GOOD = frozenset("ok okay finished complete completed success successful succeeded done".split())
# A selection of rows keeps labels below this; parameters and tokens lie above.
LARGEST_LABEL = 10**6
YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
# Columns that say how a run ended, and the cells of those that ended well; SLURM writes 0:0.
FLAGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys("diverged failed crashed killed interrupted preempted oom error".split(), NO),
    **dict.fromkeys("converged finished completed complete success succeeded ok".split(), YES),
    **dict.fromkeys("exit_code exitcode exit_status return_code returncode".split(), ("0", "0.0", "0:0")),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """A table of runs under our names; every function of this package takes one in place of a frame.

    frame       the rows that count; the index counts the rows of the table from 1, or holds the ids of stored
                runs, as the messages do
    notes       what was set aside, merged or assumed
    columns     as the table has them
    labelled    whether the table names architectures; else all are "all"
    convention  how FLOPs are counted, once `clean` has looked
    """

    frame: pd.DataFrame
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    labelled: bool = False
    convention: str = ""

    def __len__(self) -> int:
        return len(self.frame)

    def only(self, frame: pd.DataFrame) -> Runs:
        """The same table with other rows or columns."""
        return replace(self, frame=frame)

    def of(self, arch: str) -> Runs:
        """The rows of one architecture."""
        return self.only(self.frame[self.frame["arch"] == arch])

    @property
    def quiet(self) -> Runs:
        """Without the notes, for those who state them once: no result of it repeats them."""
        return replace(self, notes=())


Table: TypeAlias = "pd.DataFrame | Runs"


def tidy(
    source: Table,
    *,
    columns: Mapping[str, str] | None = None,
    by: str | None = None,
    where: str | None = None,
    notes: Sequence[str] = (),
    ids: bool = False,
) -> Runs:
    """The rows that count, under our names, once for all: what is tidy already comes back as it is.

    columns  our names to the table's, where they are not recognised
    by       the column that tells architectures apart, instead of `arch`
    where    only rows for which this holds, as pandas.DataFrame.query takes it
    notes    what is known of the table so far
    ids      whether the column id names the rows, if no two are alike

    Refused, with rows and column: two columns for one thing, architectures or runs without a name, and what
    `doubts` says of the table as a whole.
    """
    if isinstance(source, Runs):
        if columns is by is where is None:
            return source
        out, recognised = named(source.frame, columns, by)
        theirs, said = source.columns, [*source.notes, *notes, *recognised]
    elif isinstance(source, pd.DataFrame):
        _not_shifted(source)
        out, recognised = named(source, columns, by)
        theirs, said = tuple(map(str, source.columns)), [*notes, *recognised]
        own = out["id"].tolist() if ids and "id" in out else []
        out.index = pd.Index(own) if 0 < len(own) == len(set(own)) else pd.RangeIndex(1, len(out) + 1)
    else:
        raise ValueError(f"runs are a {type(source).__name__}; give a pandas.DataFrame, or read a CSV")
    if where is not None:
        out = chosen(out, where)
    out = _good(out, said)
    labelled = "arch" in out
    if labelled:
        names = labels(out, "arch")
        if names.nunique() < out["arch"].astype(str).nunique():
            said.append("names in column 'arch' that differ only by spaces around them are one")
    out["arch"] = names if labelled else "all"
    if "run" in out:
        out["run"] = _run_labels(out)
    said += doubts.of_shape(out)
    said += doubts.of_units(out)
    said += doubts.of_losses(out, chosen=bool(set(columns or ()) & {"loss", "ppl"}))
    said += doubts.of_budgets(out)
    return Runs(frame=out, notes=tuple(dict.fromkeys(said)), columns=theirs, labelled=labelled)


def ends(runs: Runs) -> Runs:
    """One row per run: of the rows that share a `run`, the one with most tokens.

    A note says how many rows that merges. Refused where the rows of a run are not the curve of one model.
    """
    keys = ["arch", "run"]
    if "run" not in runs.frame or not runs.frame.duplicated(keys).any():
        return runs
    if "tokens" not in runs.frame:
        raise ValueError(lacking(["tokens"], runs.columns))
    table = runs.frame.copy()
    positive(table, "tokens")
    curves = table.groupby(keys, sort=False)
    sizes = curves["params"].nunique() if "params" in table else pd.Series([1])
    if (sizes > 1).any():
        raise ValueError(
            f"run {sizes.idxmax()[1]!r} has {sizes.max()} sizes, but rows that share a run are the training "
            "curve of one model; give each run its own label, or take the column out"
        )
    last = table[table["tokens"] == curves["tokens"].transform("max")]
    apart = last.drop_duplicates([*keys, "loss"] if "loss" in last else keys)
    if len(apart) > curves.ngroups:
        rows = list(last.index[last.duplicated(keys, keep=False)])
        raise ValueError(
            f"{rows_text(rows)}: a run ends twice, with the same tokens and different losses; keep one"
        )
    last = last.drop_duplicates(keys)
    of = f"{len(last)} run{'s' * (len(last) != 1)}"
    merged = f"{len(table)} rows are the training curves of {of} (column run), each its last row"
    return replace(runs, frame=last, notes=(*runs.notes, merged))


def read(
    source: str | Path | Table,
    *,
    columns: Mapping[str, str] | None = None,
    by: str | None = None,
    where: str | None = None,
) -> Runs:
    """A table of runs for the functions of this package: of a file (CSV, JSON, JSON lines), or your frame.

    columns, by, where  as in `tidy`, whose checks are those of `mad scaling fit`

    Of the result, `frame` holds the rows that count and `notes` what was set aside or assumed.
    """
    if isinstance(source, str | Path):
        frame, notes = read_noted(source)
        return tidy(frame, columns=columns, by=by, where=where, notes=notes)
    return tidy(source, columns=columns, by=by, where=where)


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
        words = _words(frame["status"])
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
        good = FLAGS.get(folded(name).removeprefix("is_"))
        if good is None:
            continue
        words = _words(frame[name])
        if good in (YES, NO) and not words.isin((*YES, *NO, "")).all():
            notes.append(f"column {name!r} was not read: it holds more than yes and no")
        elif (marked := ~words.isin((*good, ""))).any():
            notes.append(f"{rows_text(list(frame.index[marked]))} set aside: column {name!r} says so")
            aside |= marked
    if "run" in frame and aside.any():
        key = frame["run"].astype(str).str.strip()
        if "arch" in frame:
            key = frame["arch"].astype(str).str.strip() + "\n" + key
        with_it = key.isin(key[aside & ~is_blank(frame["run"])]) & ~aside
        if with_it.any():
            notes.append(f"{rows_text(list(frame.index[with_it]))} set aside with the rest of their run")
            aside |= with_it
    if len(frame) and aside.all():
        raise ValueError(
            f"there are no runs whose status is ok ({'; '.join(notes)}); write ok, or take the column out"
        )
    return frame[~aside]


def _words(cells: pd.Series) -> pd.Series:
    """The cells in lower case, empty where they are blank."""
    return cells.astype(str).str.strip().str.lower().where(~is_blank(cells), "")


def labels(frame: pd.DataFrame, name: str) -> pd.Series:
    """The names in a column, none of them blank, without spaces around."""
    words = "no value; name it in every row, or leave the column out"
    refuse(frame, is_blank(frame[name]), name, words)
    return frame[name].astype(str).str.strip()


def _run_labels(frame: pd.DataFrame) -> pd.Series:
    """A label for each run; a blank one is not a label where others have training curves."""
    blank = is_blank(frame["run"])
    words = frame["run"].astype(str).str.strip()
    if frame.assign(run=words)[~blank].duplicated(["arch", "run"]).any():
        curve = "rows that share a run are its training curve"
        refuse(frame, blank, "run", f"no value, and {curve}; label every row, a run of one row too")
    return words.where(~blank, [f"row {row}" for row in frame.index])


def positive(frame: pd.DataFrame, name: str) -> None:
    """Make a column float64; name the rows that are not finite and positive."""
    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(float)
    missing = np.isnan(values)
    words = [isinstance(raw, str) and raw.strip().lower() not in ("", "nan") for raw in frame[name]]
    refuse(frame, missing & words, name, "{!r} is not a number; write it as 1.5e9")
    fill = "no value; fill it in, or leave the run out (a diverged run: column status = diverged)"
    refuse(frame, missing, name, fill)
    wrong = ~(np.isfinite(values) & (values > 0))
    refuse(frame, wrong, name, "{} is not a finite number above 0; correct it, or leave the run out")
    frame[name] = values
