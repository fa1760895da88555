"""The table of runs that every fit reads: its columns, its units, and what is refused.

    arch     architecture; without it all rows are one
    params   parameters N, a count; which ones is a convention that the table's maker states
    tokens   training tokens D, a count; with repetitions
    flops    training FLOPs C in all; without it 6 N D
    loss     nats per token (or ppl = exp(loss)), on held-out text
    state    elements of the recurrent state, total over the layers
    budget   name of the run's isoFLOP group, best its nominal FLOPs
    run      label of a training curve: rows that share it are one run
    status   "ok", "finished" or the like; what is not ok is set aside, and so are rows of which a column of
             `rows.FLAGS` says so: diverged (failed, ...), converged (finished, ...), exit_code

Further columns are kept and ignored; `scaling.laws.runs.columns` says which other names are recognised.
Whatever is set aside, merged or assumed is a sentence in the notes of the `Runs`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from scaling.laws.runs.columns import is_blank, lacking, refuse, rows_text
from scaling.laws.runs.doubts import OTHER_UNIT, names_groups
from scaling.laws.runs.rows import Runs, Table, ends, positive, tidy

# What is read of a table is found here, as well as what is checked.
__all__ = ["NotIdentified", "Runs", "Status", "Table", "budgets", "clean", "ends", "tidy"]

POSITIVE = ("params", "tokens", "flops", "loss", "ppl", "state", "floor")
# Training costs between 2 ND (a forward pass alone is counted) and, with long contexts, some tens of ND.
# Beyond these a unit must be wrong: billions of tokens, PFLOP-days, millions of parameters.
PLAUSIBLE = (0.5, 600.0)
# No text is read more often; a count of its tokens that says so is wrong.
MOST_READ = 1e4
# A language model of at most a few million words of vocabulary starts below this loss, in nats per token.
LARGEST_LOSS = 25.0


class NotIdentified(ValueError):
    """These runs cannot determine what was asked; the message says why and which runs would."""


class Status(enum.StrEnum):
    """How a fit ended."""

    CONVERGED = "converged"
    AT_BOUND = "at bound"
    NOT_IDENTIFIED = "not identified"
    FAILED = "failed"


def clean(
    source: Table,
    *,
    need: Sequence[str] = ("params", "tokens", "loss"),
    duplicates: bool = False,
) -> Runs:
    """The runs of a table, `tidy`, as float64 with `loss`, and where N and D are there `flops`.

    need        columns that must be there; `loss` is also served by `ppl`, `flops` by params and tokens
    duplicates  True accepts rows that are equal in size, data, loss and label

    Refuses, with a ValueError that names rows and columns: columns that lack, values that are not finite and
    positive, mixed units, duplicates, losses below the entropy of the text (a column `floor`, in nats per
    token, less a column `slack` by which chance may go below).
    """
    table = tidy(source)
    out = table.frame.copy()
    if "loss" in need and "loss" not in out and "ppl" in out:
        positive(out, "ppl")
        out["loss"] = np.log(out["ppl"].to_numpy(float))
        need = [name for name in need if name != "loss"] + ["ppl"]
    asked = [name for name in need if name != "flops" or not {"params", "tokens"} <= set(out)]
    missing = [name for name in asked if name not in out]
    if missing:
        raise ValueError(lacking(missing, table.columns))
    if out.empty:
        raise ValueError("there are no runs; add rows")
    for name in POSITIVE:
        if name in out and (name in need or name in ("flops", "loss")):
            positive(out, name)
        elif name in out:
            out[name] = _if_numbers(out[name])
    convention = table.convention or ("C as given" if "flops" in out else "C = 6 N D")
    if {"params", "tokens"} <= set(out) and (set(need) & {"params", "tokens"}):
        if "flops" not in out:
            out["flops"] = 6.0 * out["params"] * out["tokens"]
        _units(out)
    if "loss" in out:
        _losses(out)
    if not duplicates:
        _duplicates(out)
    return replace(table, frame=out, convention=convention)


def budgets(frame: pd.DataFrame, *, given: Sequence[float] | None = None, within: float = 0.1) -> pd.Series:
    """The nominal budget of each run of a clean frame, NaN where it belongs to none.

    From `given`, each run to the nearest if it is `within` (relative); else from the column `budget`, a name
    of the group whatever it counts; else found: runs whose FLOPs lie within that of the next are one group.
    In any case it is a number of FLOPs: where the names are not (an index, another unit), the geometric mean.
    """
    flops = frame["flops"].to_numpy(float)
    if given is not None:
        grid = np.sort(np.asarray(given, float))
        nearest = grid[np.abs(np.log(flops[:, None] / grid)).argmin(1)]
        return pd.Series(np.where(np.abs(flops / nearest - 1) <= within, nearest, np.nan), frame.index)
    if "budget" in frame and names_groups(frame["budget"]):
        return _as_flops(frame["budget"], frame["flops"])
    order = np.argsort(flops, kind="stable")
    jumps = np.diff(np.log(flops[order])) > np.log1p(within)
    group = np.empty(len(flops), int)
    group[order] = np.concatenate([[0], np.cumsum(jumps)])
    centre = np.bincount(group, np.log(flops)) / np.bincount(group)
    return pd.Series(np.exp(centre[group]), frame.index)


def _if_numbers(cells: pd.Series) -> pd.Series:
    """As numbers, where every cell that holds anything is one; what nobody needs may be what it likes."""
    numbers = pd.to_numeric(cells, errors="coerce").astype(float)
    return numbers if (numbers.isna() == is_blank(cells)).all() else cells


def _as_flops(names: pd.Series, flops: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(names, errors="coerce").astype(float)
    group = names.astype(str).str.strip()
    off = numbers / flops.groupby(group).transform("median")
    if off.between(1 / OTHER_UNIT, OTHER_UNIT).all():
        return numbers
    return np.exp(np.log(flops).groupby(group).transform("mean"))


def _units(frame: pd.DataFrame) -> None:
    """Counts, not billions: none is tiny, and C lies within known multiples of N D."""
    params, tokens, flops = (frame[name].to_numpy(float) for name in ("params", "tokens", "flops"))
    small = "{:g} is too small for a count; give counts, not millions or billions"
    refuse(frame, (params < 10) | (tokens < 100), "params" if (params < 10).any() else "tokens", small)
    if "unique_tokens" in frame:
        unique = pd.to_numeric(frame["unique_tokens"], errors="coerce")
        wrong = list(frame.index[~(unique * MOST_READ >= tokens) & ~is_blank(frame["unique_tokens"])])
        if wrong:
            raise ValueError(
                f"{rows_text(wrong)}, column 'unique_tokens': {frame['unique_tokens'][wrong[0]]} is not a "
                f"count of the text in {frame['tokens'][wrong[0]]:g} tokens; correct it, or leave the cell "
                "empty"
            )
    ratio = pd.Series(flops / (params * tokens), frame.index)
    odd = list(frame.index[(ratio < PLAUSIBLE[0]) | (ratio > PLAUSIBLE[1])])
    if odd:
        raise ValueError(
            f"{rows_text(odd)}: flops are {ratio[odd[0]]:.3g} params x tokens, where about 6 is usual: units "
            "are mixed; give params and tokens as counts and flops as training FLOPs in all"
        )


def _losses(frame: pd.DataFrame) -> None:
    loss = frame["loss"].to_numpy(float)
    large = (
        "{:g} nats per token is more than a uniform guess over any vocabulary; if these are perplexities, "
        "call the column ppl (--columns ppl=loss), if the run diverged, say so in a column status"
    )
    refuse(frame, loss > LARGEST_LOSS, "loss", large)
    if low := list(frame.index[loss <= 0]):
        raise ValueError(f"{rows_text(low)}: a perplexity of 1 or less has no loss above 0; correct it")
    if "floor" not in frame:
        return
    limits = pd.to_numeric(frame["floor"], errors="coerce").to_numpy(float)
    if "slack" in frame:
        limits = limits - pd.to_numeric(frame["slack"], errors="coerce").fillna(0.0).to_numpy(float)
    below = list(frame.index[loss < limits])
    if below:
        at = frame.index.get_loc(below[0])
        raise ValueError(
            f"{rows_text(below)}, column 'loss': {loss[at]:g} lies below the entropy of the text, "
            f"{limits[at]:g} nats per token; check the unit (nats), and that the text was held out"
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
            f"{rows_text(list(first.index))} are the same run (equal {', '.join(keys)}); "
            "leave all but one out, or add a column seed that tells them apart"
        )
