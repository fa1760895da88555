"""The table of runs that every fit reads: its columns, its units, and what is refused.

    arch     architecture; without it all rows are one
    params   parameters N, a count; which ones is a convention that the table's maker states
    tokens   training tokens D, a count; with repetitions
    flops    training FLOPs C in all; without it 6 N D
    loss     nats a token (or ppl = exp(loss)), on held-out text
    state    elements of the recurrent state, total over the layers
    budget   nominal FLOPs of the run's isoFLOP group
    status   "ok" or another word, say "diverged": what is not ok is set aside and counted, never silently

Further columns are kept and ignored.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd

# Rows of an error message; the others are counted.
SHOWN = 5
POSITIVE = ("params", "tokens", "flops", "loss", "ppl", "state", "budget", "floor")
# Training costs between 2 ND (a forward pass alone is counted) and, with long contexts, some tens of ND.
# Beyond these a unit must be wrong: billions of tokens, PFLOP-days, millions of parameters.
PLAUSIBLE = (0.5, 600.0)
# A language model of at most a few million words of vocabulary starts below this loss, in nats a token.
LARGEST_LOSS = 25.0


class NotIdentified(ValueError):
    """These runs cannot determine what was asked; the message says why and which runs would."""


class Status(enum.StrEnum):
    """How a fit ended."""

    CONVERGED = "converged"
    AT_BOUND = "at bound"
    NOT_IDENTIFIED = "not identified"
    FAILED = "failed"


def read_csv(path: str | Path) -> pd.DataFrame:
    """A CSV file with a header, as it stands; `clean` checks what it says."""
    path = Path(os.path.expanduser(path))
    if not path.is_file():
        raise ValueError(f"{path} is no file; give a CSV of runs with the columns params, tokens and loss")
    try:
        frame = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read as CSV ({str(error).strip()}); save it as UTF-8 CSV"
        ) from None
    frame.attrs["name"] = path.name
    return frame


def clean(
    frame: pd.DataFrame,
    *,
    need: Sequence[str] = ("params", "tokens", "loss"),
    floor: float | None = None,
    duplicates: bool = False,
) -> pd.DataFrame:
    """The runs as float64 with `arch`, `loss`, and where N and D are there `flops`; in the order given.

    need        columns that must be there; `loss` is also served by `ppl`, `flops` by params and tokens
    floor       entropy of the text in nats a token, where it is known: no honest loss lies below it. A
                column `floor` says it for each run.
    duplicates  True accepts rows that are equal in size, data, loss and label

    The index counts the rows of the input from 1, as the messages do, or is the column `row` of a frame that
    is a part of a table. Runs whose status is not "ok" are
    left out, and listed in `attrs["set_aside"]`; `attrs["convention"]` says whether flops were given.
    Refuses, with a ValueError that names rows and columns: columns that lack, values that are not finite
    and positive, mixed units, losses below the floor, duplicates.
    """
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"runs are a {type(frame).__name__}; give a pandas.DataFrame, or read a CSV")
    out = frame.copy()
    out.attrs = dict(frame.attrs)
    out.index = _rows(out)
    _unique_columns(out)
    if "loss" in need and "loss" not in out and "ppl" in out:
        _numbers(out, "ppl")
        out["loss"] = np.log(out["ppl"].to_numpy(float))
        need = [name for name in need if name != "loss"] + ["ppl"]
    asked = [name for name in need if name != "flops" or not {"params", "tokens"} <= set(out)]
    for name in asked:
        if name not in out:
            raise ValueError(_lacking(name, out))
    aside = _set_aside(out)
    out = out.drop(index=aside)
    if out.empty:
        raise ValueError("there are no runs" + (" whose status is ok" if aside else "") + "; add rows")
    for name in POSITIVE:
        if name in out and (name in need or name in ("flops", "loss") or out[name].notna().all()):
            _numbers(out, name)
    out.attrs["convention"] = "C as given" if "flops" in out else "C = 6 N D"
    if {"params", "tokens"} <= set(out) and (set(need) & {"params", "tokens"}):
        if "flops" not in out:
            out["flops"] = 6.0 * out["params"] * out["tokens"]
        _units(out)
    out["arch"] = out["arch"].astype(str) if "arch" in out else "all"
    if "loss" in out:
        _losses(out, floor)
    if not duplicates:
        _duplicates(out)
    out.attrs["set_aside"] = aside
    return out


def budgets(frame: pd.DataFrame, *, given: Sequence[float] | None = None, within: float = 0.1) -> pd.Series:
    """The nominal budget of each run of a clean frame, NaN where it belongs to none.

    From `given`, each run to the nearest if it is `within` (relative); else from the column `budget`; else
    found: runs whose FLOPs lie within that of the next are one group, called by its geometric mean.
    """
    flops = frame["flops"].to_numpy(float)
    if given is not None:
        grid = np.sort(np.asarray(given, float))
        nearest = grid[np.abs(np.log(flops[:, None] / grid)).argmin(1)]
        return pd.Series(np.where(np.abs(flops / nearest - 1) <= within, nearest, np.nan), frame.index)
    if "budget" in frame and frame["budget"].notna().all():
        return frame["budget"].astype(float)
    order = np.argsort(flops, kind="stable")
    jumps = np.diff(np.log(flops[order])) > np.log1p(within)
    group = np.empty(len(flops), int)
    group[order] = np.concatenate([[0], np.cumsum(jumps)])
    centre = np.bincount(group, np.log(flops)) / np.bincount(group)
    return pd.Series(np.exp(centre[group]), frame.index)


def rows_text(rows: Sequence[int]) -> str:
    """'row 3' or 'rows 3, 8 and 12 more'."""
    shown = ", ".join(str(row) for row in rows[:SHOWN])
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"


def _rows(frame: pd.DataFrame) -> pd.Index:
    """Row numbers: those that the frame brings, where it is a part of a table, else from 1."""
    brought = pd.to_numeric(frame["row"], errors="coerce") if "row" in frame else None
    if brought is None or brought.isna().any() or brought.duplicated().any():
        return pd.RangeIndex(1, len(frame) + 1)
    return pd.Index(brought.astype(int).to_numpy())


def _unique_columns(frame: pd.DataFrame) -> None:
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise ValueError(f"column {twice[0]!r} is there twice; keep one")


def _lacking(name: str, frame: pd.DataFrame) -> str:
    columns = [str(column) for column in frame.columns]
    close = get_close_matches(name, [column.lower() for column in columns], n=1, cutoff=0.5)
    real = next((column for column in columns if close and column.lower() == close[0]), None)
    hint = f"rename {real!r}, or add it" if real else "add it"
    other = " (or 'ppl')" if name == "loss" else ""
    return f"column {name!r}{other} is missing; {hint}. Columns are: {', '.join(columns) or 'none'}"


def _set_aside(frame: pd.DataFrame) -> list[int]:
    if "status" not in frame:
        return []
    return [int(row) for row in frame.index[frame["status"].astype(str) != "ok"]]


def _numbers(frame: pd.DataFrame, name: str) -> None:
    """Make a column float64; name the rows that are not finite and positive."""
    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(float)
    words = [row for row in frame.index[np.isnan(values)] if _word(frame[name][row])]
    if words:
        raw = frame[name][words[0]]
        raise ValueError(f"{rows_text(words)}, column {name!r}: {raw!r} is no number; write it as 1.5e9")
    missing = [int(row) for row in frame.index[np.isnan(values)]]
    if missing:
        raise ValueError(
            f"{rows_text(missing)}, column {name!r}: no value; fill it in, or leave the run out (a diverged "
            "run: column status = diverged)"
        )
    wrong = [int(row) for row in frame.index[~(np.isfinite(values) & (values > 0))]]
    if wrong:
        raise ValueError(
            f"{rows_text(wrong)}, column {name!r}: {frame[name][wrong[0]]} is not a finite number above 0; "
            "correct it, or leave the run out"
        )
    frame[name] = values


def _word(raw: object) -> bool:
    return isinstance(raw, str) and raw.strip().lower() not in ("", "nan")


def _units(frame: pd.DataFrame) -> None:
    """Counts, not billions: C lies within known multiples of N D, and D is not below one token a row."""
    params, tokens, flops = (frame[name].to_numpy(float) for name in ("params", "tokens", "flops"))
    small = [int(row) for row in frame.index[(params < 10) | (tokens < 100)]]
    if small:
        name = "params" if (params < 10).any() else "tokens"
        raise ValueError(
            f"{rows_text(small)}, column {name!r}: {frame[name][small[0]]:g} is too small for a count; "
            "give counts, not millions or billions"
        )
    ratio = flops / (params * tokens)
    odd = [int(row) for row in frame.index[(ratio < PLAUSIBLE[0]) | (ratio > PLAUSIBLE[1])]]
    if odd:
        value = float(flops[frame.index.get_loc(odd[0])] / (params * tokens)[frame.index.get_loc(odd[0])])
        raise ValueError(
            f"{rows_text(odd)}: flops are {value:.3g} params x tokens, where about 6 is usual: units are "
            "mixed; give params and tokens as counts and flops as training FLOPs in all"
        )
    spread = np.abs(np.log10(tokens / np.median(tokens)))
    far = [int(row) for row in frame.index[spread > 7]]
    if far:
        raise ValueError(
            f"{rows_text(far)}, column 'tokens': {frame['tokens'][far[0]]:g} is more than 1e7 times from the "
            f"median {np.median(tokens):g}: units are mixed; give counts in every row"
        )


def _losses(frame: pd.DataFrame, floor: float | None) -> None:
    loss = frame["loss"].to_numpy(float)
    large = [int(row) for row in frame.index[loss > LARGEST_LOSS]]
    if large:
        raise ValueError(
            f"{rows_text(large)}, column 'loss': {frame['loss'][large[0]]:g} nats a token is more than a "
            "uniform guess over any vocabulary; if these are perplexities, call the column ppl"
        )
    if (loss <= 0).any():
        low = [int(row) for row in frame.index[loss <= 0]]
        raise ValueError(f"{rows_text(low)}: a perplexity of 1 or less has no loss above 0; correct it")
    limits = np.full(len(frame), -np.inf if floor is None else float(floor))
    if "floor" in frame:
        limits = np.fmax(limits, pd.to_numeric(frame["floor"], errors="coerce").to_numpy(float))
    below = [int(row) for row in frame.index[loss < limits]]
    if below:
        at = frame.index.get_loc(below[0])
        raise ValueError(
            f"{rows_text(below)}, column 'loss': {loss[at]:g} lies below the entropy of the text, "
            f"{limits[at]:g} nats a token; check the unit (nats), and that the text was held out"
        )


def _duplicates(frame: pd.DataFrame) -> None:
    """The same run twice: equal in size, data and result, and not told apart by a label or a seed."""
    told = ("arch", "params", "tokens", "flops", "loss", "model", "seed")
    keys = [name for name in told if name in frame]
    if not {"params", "tokens"} <= set(keys):
        return
    twice = frame[frame.duplicated(keys, keep=False)]
    if len(twice):
        first = twice[(twice[keys] == twice[keys].iloc[0]).all(axis=1)]
        raise ValueError(
            f"{rows_text([int(row) for row in first.index])} are the same run (equal {', '.join(keys)}); "
            "leave all but one out, or add a column seed that tells them apart"
        )
