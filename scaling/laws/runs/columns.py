"""Which column of a table is which: by our name, by a name that is well known, or as the user says.

    params=N, loss=val_loss      as `--columns` takes it, or {"params": "N", "loss": "val_loss"}

Columns are copied, not renamed, so that a condition may use either name. Where two columns could be meant,
the table is refused with the option that decides.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Container, Hashable, Iterator, Mapping, Sequence
from difflib import get_close_matches

import numpy as np
import pandas as pd

SPLITS = "val valid validation eval test heldout held_out dev".split()
# Our names, and what others call the same. A training loss is not a held-out one, so it is not among them.
KNOWN: dict[str, tuple[str, ...]] = {
    "arch": ("architecture",),
    "params": (
        *("n_params", "num_params", "param_count", "parameters", "n_parameters", "num_parameters"),
        *("parameter_count", "total_params", "total_parameters", "model_size", "model_params"),
    ),
    "tokens": (
        *("n_tokens", "num_tokens", "token_count", "total_tokens", "train_tokens", "training_tokens"),
        *("tokens_seen", "tokens_trained", "n_train_tokens", "num_input_tokens_seen"),
    ),
    "flops": (
        *("compute", "train_flops", "training_flops", "total_flops", "train_compute", "training_compute"),
        "compute_flops",
    ),
    "loss": tuple(name for split in SPLITS for name in (f"{split}_loss", f"loss_{split}")),
    "ppl": ("perplexity", *(f"{split}_{word}" for split in SPLITS for word in ("ppl", "perplexity"))),
    **{name: () for name in ("state", "budget", "unique_tokens", "run", "floor", "status", "class", "seed")},
}
QUANTITIES = ("params", "tokens", "flops", "loss", "ppl")
# The letters of the literature, as capitals: d may be a width.
LETTERS = {"N": "params", "D": "tokens", "C": "flops"}
FORMS = {folded: ours for ours, names in KNOWN.items() for folded in (ours, *names)}
# Rows of an error message; the others are counted.
SHOWN = 5
# Digits of an id, of which `mad show` and `mad rm` take as many as tell it from others.
BEGINNING = 10
# Words of a name that is not in our units: nothing to suggest for nats or a count.
OTHER = {"bit", "bits", "bpb", "bpc", "bpt", "log", "per", "ratio", "mult"}
# What stands in a cell that holds nothing.
BLANK = frozenset(("", "nan", "na", "n/a", "null", "none", "<na>", "nat"))
OPTION = "with --columns (in Python columns={...} of scaling.read)"


def mapping(words: Sequence[str]) -> dict[str, str]:
    """["params=N,tokens=D"] as {"params": "N", "tokens": "D"}."""
    found: dict[str, str] = {}
    for word in (part.strip() for text in words for part in text.split(",")):
        ours, equals, theirs = (part.strip() for part in word.partition("="))
        if not (ours and equals and theirs):
            raise ValueError(f"--columns {word!r}: write NAME=COLUMN, as in params=N,loss=val_loss")
        if ours in found:
            raise ValueError(f"--columns names {ours} twice, as {found[ours]!r} and {theirs!r}; choose one")
        found[ours] = theirs
    return found


def named(
    frame: pd.DataFrame, columns: Mapping[str, str] | None = None, by: str | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """A copy with our names for all columns that are known, and a sentence on those that were recognised.

    columns  ours to the table's; by: the column that serves as `arch`
    """
    out = flat(frame)
    out.columns = pd.Index([str(column).strip() for column in out.columns])
    twice = out.columns[out.columns.duplicated()]
    if len(twice):
        raise ValueError(f"column {twice[0]!r} is there twice; keep one")
    asked = dict(columns or {}) | ({"arch": by} if by is not None else {})
    for ours, theirs in asked.items():
        if ours not in KNOWN:
            close = get_close_matches(str(ours), KNOWN, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"{ours!r} is not one of our columns; {hint}They are: {', '.join(KNOWN)}")
        if theirs not in out:
            close = get_close_matches(theirs, list(out), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"there is no column {theirs!r}{hint}; columns are {', '.join(out)}")
    if "ppl" in asked and "loss" not in asked:
        out = out.drop(
            columns=[name for name in out if folded(name) == "loss" and name not in asked.values()]
        )
    free = out.drop(columns=list(asked.values()))
    found = {ours: theirs for ours, theirs in _recognised(free, without=asked)}
    values = {ours: out[theirs] for ours, theirs in (found | asked).items()}
    # A column that serves as another quantity is no longer its own.
    out = out.drop(columns=[name for name in asked.values() if name in QUANTITIES and name not in asked])
    said = ", ".join(f"{ours} from {theirs!r}" for ours, theirs in found.items() if ours != theirs)
    return out.assign(**values), [f"columns were recognised: {said}"] if said else []


def flat(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy with the named levels of the index as columns, tensors of one number as it, lists as text."""
    out = frame.reset_index([name for name in frame.index.names if name is not None and name not in frame])
    for name in out.columns if out.columns.is_unique else ():
        if pd.api.types.is_object_dtype(out[name]):
            out[name] = [_plain(cell) for cell in out[name]]
    return out


def _plain(cell: object) -> object:
    if getattr(cell, "ndim", None) == 0:
        return cell.item()  # type: ignore[attr-defined]
    return cell if isinstance(cell, Hashable) else str(cell)


def lacking(names: Sequence[str], columns: Sequence[str]) -> str:
    """That these columns are missing, all at once, and what each might be called here."""
    free = [column for column in columns if _form(column) is None]
    likely = {name: _likely(name, free) for name in names}
    guesses = list(likely.values())
    likely = {name: theirs if guesses.count(theirs) == 1 else None for name, theirs in likely.items()}
    listed = _and([f"{name!r}" + " (or 'ppl')" * (name == "loss") for name in names])
    one = len(names) == 1
    added = "add it" if one else "add them"
    hints = [f"rename {theirs!r}" for theirs in likely.values() if theirs]
    option = ",".join(f"{name}={theirs or 'NAME'}" for name, theirs in likely.items())
    steps = "tokens" in names and next((c for c in columns if c.lower() in ("_step", "step", "steps")), None)
    return (
        f"column{'s' * (not one)} {listed} {'is' if one else 'are'} missing; "
        f"{_and([*hints, added], 'or')}, or say which {'it is' if one else 'they are'}: "
        f"--columns {shlex.quote(option)} (in Python columns={{...}} of scaling.read). "
        f"Columns are: {', '.join(columns) or 'none'}"
        + (f". Tokens are {steps} times the tokens of a step" if steps else "")
    )


def chosen(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """The rows for which an expression over the columns holds."""
    try:
        # Without our own variables, which "@" would name.
        found = frame.query(where, local_dict={}, global_dict={})
    except Exception as error:
        # pandas evaluates what the user typed, which may fail in any way.
        raise ValueError(
            f"{where!r} cannot be evaluated ({type(error).__name__}: {error}); write a condition over the "
            f"columns {', '.join(map(str, frame.columns))}"
        ) from None
    if not isinstance(found, pd.DataFrame):
        raise ValueError(f"{where!r} is not a condition on each row; write one as in 'tokens > 1e9'")
    if found.empty:
        raise ValueError(f"no run satisfies {where!r}; loosen it")
    return found


def rows_text(rows: Sequence[int | str]) -> str:
    """'row 3' or 'rows 3, 8 and 12 more'; of stored runs how their ids begin, 'run 3fa4b21c90'."""
    shown = ", ".join(str(row)[:BEGINNING] for row in rows[:SHOWN])
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return f"{'run' if isinstance(rows[0], str) else 'row'}{'s' if len(rows) > 1 else ''} {shown}{more}"


def refuse(frame: pd.DataFrame, wrong: pd.Series | np.ndarray, column: str, words: str) -> None:
    """Refuse a table for its wrong rows, if there are any; {} in the words is what the first one holds."""
    rows = list(frame.index[wrong])
    if rows:
        raise ValueError(f"{rows_text(rows)}, column {column!r}: {words.format(frame[column][rows[0]])}")


def folded(name: object) -> str:
    """'Valid/Loss ' as 'valid_loss'."""
    return re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_")


def is_blank(cells: pd.Series) -> pd.Series:
    """Which cells hold nothing: NaN, spaces, or a word that says so."""
    return cells.isna() | cells.astype(str).str.strip().str.lower().isin(BLANK)


def _recognised(frame: pd.DataFrame, without: Container[str]) -> Iterator[tuple[str, str]]:
    columns = list(frame.columns)
    for ours in (name for name in KNOWN if name not in without):
        own = [name for name in columns if folded(name) == ours]
        others = [name for name in columns if name not in own and _form(name) == ours]
        # W&B calls the status of a run State; ours is a number of elements.
        words = [name for name in columns if folded(name) == "state" and not _holds_numbers(frame[name])]
        if ours == "state":
            own, others = [name for name in own if name not in words], []
        if ours == "status" and not own:
            own = words
        if ours in own and f"{ours}.1" in columns:
            raise ValueError(
                f"column {ours!r} is there twice (pandas calls the other {ours + '.1'!r}); keep one"
            )
        # A table that has our name means it, but `loss` beside `val_loss` is that of training, or is not.
        candidates = own + others if ours == "loss" or not own else own
        if ours in QUANTITIES and len(candidates) > 1:
            candidates = [name for name in candidates if _holds_numbers(frame[name])] or candidates
        if len(candidates) > 1 and not all(frame[candidates[0]].equals(frame[name]) for name in candidates):
            raise ValueError(
                f"columns {_and([repr(name) for name in candidates])} may all be {ours}; choose one "
                f"{OPTION}: {ours}={candidates[-1]}"
            )
        if candidates:
            yield ours, candidates[0]


def _holds_numbers(cells: pd.Series) -> bool:
    return bool(pd.to_numeric(cells, errors="coerce").notna().any())


def _form(name: str) -> str | None:
    return LETTERS.get(name) or FORMS.get(folded(name))


def _likely(name: str, columns: Sequence[str]) -> str | None:
    """The column that is most likely meant; never one of another unit, or the training loss."""
    forms = {form: column for column in columns if not OTHER & set((form := folded(column)).split("_"))}
    if name == "loss":
        forms = {form: column for form, column in forms.items() if "train" not in form}
    close = get_close_matches(name, forms, n=1, cutoff=0.5)
    return forms[close[0]] if close else None


def _and(words: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)
