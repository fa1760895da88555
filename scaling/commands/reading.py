"""Runs and scores for a command: from a file or a store, with the rows and names that were asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mad.messages import brief
from scaling.laws.runs.cleaning import clean
from scaling.laws.runs.columns import chosen, mapping
from scaling.laws.runs.files import read_noted, read_table
from scaling.laws.runs.rows import Runs, ends, tidy


def read(
    file: Path | None,
    store: Path | None,
    *,
    study: str | None = None,
    by: str | None = None,
    where: str | None = None,
    columns: Sequence[str] | None = None,
) -> tuple[Runs, Runs | None]:
    """The runs of a file or, without one, of a store, tidy, and their training curves where there are any.

    by       the column that tells architectures apart, in place of `arch`
    where    an expression over the columns, as pandas.DataFrame.query takes it, say "cc_mult <= 1"
    columns  our names to those of the table, as ["params=N,loss=val_loss"]

    A file holds curves where several of its rows share a `run`; the run is then the row with most tokens.
    """
    if file is not None and (store is not None or study is not None):
        raise ValueError(f"{file} is a table of its own; give it, or --store and --study, not both")
    names = mapping(columns or ())
    if file is not None:
        table, said = read_noted(file)
        rows = _named(tidy(table, columns=names, by=by, where=where, notes=said))
        runs = ends(rows)
        return runs, rows if len(runs) < len(rows) else None
    from mad.store import Store
    from scaling.lm.frames import curves_frame, language_frame

    with Store(store, read_only=True) as opened:
        frame, curves = language_frame(opened, study=study), curves_frame(opened, study=study)
    if frame.empty:
        if study is not None:
            raise ValueError(
                f"the store has no runs of study {study!r}; `mad scaling train` names a plan's study"
            )
        return tidy(frame), tidy(curves)
    frame, aside = _counted(frame)
    runs = _named(tidy(frame, columns=names, by=by, where=where, notes=aside, ids=True))
    curves = curves[curves["run"].isin(runs.frame["id"])]
    curves = curves.assign(arch=curves["run"].map(runs.frame.set_index("id")["arch"]))
    return runs, runs.quiet.only(curves)


def read_scores(
    csv: Path | None, store: Path | None, *, suite: str, protocol: str, where: str | None = None
) -> pd.DataFrame:
    """Synthetic scores by architecture, of a CSV, else of the store's leaderboard; only rows of `where`."""
    if csv is not None:
        frame = read_table(csv)
    else:
        from mad.api import leaderboard

        frame = leaderboard(suite=suite, protocol=protocol, store=store, reference=False)
        if frame.empty:
            raise ValueError(
                f"the store holds no scores of suite {suite!r}; run `mad bench` on the architectures first, "
                "or give a CSV with --scores"
            )
    return frame if where is None else chosen(frame, where)


def _named(runs: Runs) -> Runs:
    """Names of architectures as they can be shown; two that would look alike are refused."""
    shown = {name: brief(name) for name in runs.frame["arch"].unique()}
    alike = [name for name, text in shown.items() if list(shown.values()).count(text) > 1]
    if alike:
        raise ValueError(
            f"{alike[0]!r} and {alike[1]!r} differ by characters that are not shown; rename one of them"
        )
    return runs.only(runs.frame.assign(arch=runs.frame["arch"].map(shown)))


def _counted(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The stored runs without those that no table may hold, which a note names; all if none would be left."""
    odd = {}
    if _refusal(frame):
        for row, status in frame["status"].items():
            if status == "ok" and (reason := _refusal(frame.loc[[row]])):
                odd[row] = f"run {frame['id'][row]} ({reason})"
    if not odd or len(odd) == len(frame):
        return frame, []
    return frame.drop(index=list(odd)), [f"set aside: {'; '.join(odd.values())}. `mad rm ID` removes a run"]


def _refusal(frame: pd.DataFrame) -> str:
    """Why a table is refused; nothing where it is not."""
    try:
        clean(frame)
    except ValueError as error:
        return str(error).partition(": ")[2] or str(error)
    return ""


def numbers(text: str, what: str) -> tuple[float, ...]:
    """'1e12,3e12' as numbers above 0."""
    return tuple(_number(word.strip(), what) for word in text.split(","))


def _number(word: str, what: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (value := float(word)) < float("inf"):
            return value
    raise ValueError(f"{what} {word!r} is not a number above 0; write them as 1e12,3e12,1e13")
