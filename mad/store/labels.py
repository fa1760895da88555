"""Labels in a store: what one stands for by itself, and how a stored run gets another."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from mad.data.bounds import MOST_ENTRIES
from mad.data.labels import label_of, may_be_label
from mad.data.records import Record
from mad.store.location import default_path, holds
from mad.store.store import Store


def spelled(text: str, store: str | Path | None = None) -> str:
    """What was typed with a label that stands by itself, as the store has it; any other text as it is.

    A label that was given to several architectures is refused, and they are named.
    """
    if not may_be_label(text):
        return text
    path = Path(store or default_path()).expanduser()
    if not holds(path):
        return text
    word = text.strip()
    with Store(path, read_only=True) as opened:
        typed = {given for run in opened.outlines() for _, given in run.typed if label_of(given) == word}
    if len(typed) > 1:
        known = ", ".join(sorted(typed))
        raise ValueError(f"label {word!r} has several architectures in {path}; give one of {known}")
    return typed.pop() if typed else text


def call(runs: Iterable[Record], given: str, store: Store | None) -> list[Record]:
    """The runs, under the label that was typed for them now: one that a store holds keeps it there."""
    if not label_of(given):
        return list(runs)
    found = []
    for run in runs:
        held = None if store is None else store.get(run.id)
        newest = max((pair for pair in (held or run).typed if label_of(pair[1])), default=("", ""))[1]
        if label_of(given) != label_of(newest):
            # The oldest makes room: texts may come from a program.
            kept = sorted((held or run).called.items(), key=lambda pair: pair[1])[1 - MOST_ENTRIES :]
            called = dict(kept) | {given: datetime.now(UTC).isoformat()}
            run = run.model_copy(update={"called": called})
            if store is not None and held is not None:
                store.relabel(held, called=called)
        found.append(run)
    return found
