"""Runs for a command: from a CSV or a store, cut to what was asked, grouped as was asked."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from mad.messages import note, printable
from scaling.runs import clean, read_csv


def read(
    csv: Path | None,
    store: Path | None,
    *,
    study: str | None = None,
    by: str | None = None,
    where: str | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The runs of a CSV or, without one, of a store, and their training curves where there are any.

    by     the column that tells architectures apart, in the place of `arch`
    where  an expression over the columns, as pandas.DataFrame.query takes it, say "cc_mult <= 1"

    A CSV holds curves where several of its rows share a `run`; the run is then the row with most tokens.
    """
    if csv is not None and (store is not None or study is not None):
        raise ValueError(f"{csv} is a table of its own; give it, or --store and --study, not both")
    if csv is not None:
        frame = read_csv(csv)
    else:
        from mad.store import Store
        from scaling.stored import curves_frame, language_frame

        with Store(store, read_only=True) as opened:
            frame, curves = language_frame(opened, study=study), curves_frame(opened, study=study)
        if frame.empty and study is not None:
            raise ValueError(
                f"the store has no runs of study {study!r}; `mad scaling train` names a plan's study"
            )
        frame = _counted(frame)
    frame = frame.assign(row=range(1, len(frame) + 1))
    if by is not None:
        frame = frame.assign(arch=frame[known_column(frame, by)].astype(str))
    if where is not None:
        frame = chosen(frame, where)
    frame = _named(frame)
    if csv is None:
        curves = curves[curves["run"].isin(frame["id"])]
        return frame, curves.assign(arch=curves["run"].map(frame.set_index("id")["arch"]))
    if "run" not in frame or not frame["run"].duplicated().any():
        return frame, None
    known_column(frame, "tokens")
    ends = frame.groupby("run")["tokens"].idxmax().sort_values()
    return frame.loc[ends], frame


def scores(
    csv: Path | None, store: Path | None, *, suite: str, protocol: str, where: str | None = None
) -> pd.DataFrame:
    """Synthetic scores by architecture: of a CSV, else of the store's leaderboard; rows of `where`."""
    if csv is not None:
        frame = read_csv(csv)
        return frame if where is None else chosen(frame, where)
    from mad.api import leaderboard

    frame = leaderboard(suite=suite, protocol=protocol, store=store)
    if frame.empty:
        raise ValueError(
            f"the store holds no scores of suite {suite!r}; run `mad bench` on the architectures first, or "
            "give a CSV with --scores"
        )
    return frame if where is None else chosen(frame, where)


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """Names of architectures as they can be shown; two that would look alike are refused."""
    if "arch" not in frame:
        return frame
    shown = {name: printable(name) for name in frame["arch"].unique() if isinstance(name, str)}
    alike = [name for name, text in shown.items() if list(shown.values()).count(text) > 1]
    if alike:
        raise ValueError(
            f"{alike[0]!r} and {alike[1]!r} differ by characters that cannot be shown; rename one of them"
        )
    return frame.assign(arch=frame["arch"].map(lambda name: shown.get(name, name)))


def _counted(frame: pd.DataFrame) -> pd.DataFrame:
    """The stored runs without those that no table may hold; a note names them. None is left: as it was."""
    try:
        clean(frame)
    except ValueError:
        odd = {at: reason for at in frame.index if (reason := _refusal(frame.loc[[at]]))}
        if odd and len(odd) < len(frame):
            said = "; ".join(f"run {frame['id'][at]} ({reason})" for at, reason in odd.items())
            note(f"set aside: {said}. `mad rm ID` removes a run")
            return frame.drop(index=list(odd))
    return frame


def _refusal(row: pd.DataFrame) -> str:
    """Why one run by itself is refused."""
    if row["status"].iloc[0] != "ok":
        return ""
    try:
        clean(row)
    except ValueError as error:
        return str(error).partition(": ")[2]
    return ""


def chosen(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """The rows for which an expression over the columns holds."""
    try:
        found = frame.query(where)
    except Exception as error:
        # pandas evaluates what the user typed, which may fail in any way.
        raise ValueError(
            f"{where!r} cannot be evaluated ({type(error).__name__}: {error}); write a condition over the "
            f"columns {', '.join(map(str, frame.columns))}"
        ) from None
    if found.empty:
        raise ValueError(f"no run satisfies {where!r}; loosen it")
    return found


def known_column(frame: pd.DataFrame, name: str) -> str:
    columns = [str(column) for column in frame.columns]
    if name not in columns:
        close = get_close_matches(name, columns, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"there is no column {name!r}{hint}; columns are {', '.join(columns)}")
    return name


def numbers(text: str, what: str) -> list[float]:
    """'1e12,3e12' as numbers above 0."""
    found = []
    for word in text.split(","):
        try:
            value = float(word)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise ValueError(f"{what} {word.strip()!r} is no number above 0; write them as 1e12,3e12,1e13")
        found.append(value)
    return found
