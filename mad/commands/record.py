"""A stored run in a terminal: what it was, its curve, its scores and its cost."""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Console

from mad.data.stored import StoredRecord
from mad.messages import brief, printable
from mad.store.store import Store
from mad.terminal import new_table


def find_run(what: str, store: str | Path | None) -> StoredRecord | None:
    """The stored run with this id, or with an id that begins so (6 digits or more); None where `what` is not
    an id. Runs of every kind are looked through alike.
    """
    if not re.fullmatch(r"[0-9a-f]{6,20}", what):
        return None
    with Store(store, read_only=True) as opened:
        found = opened.find(what)
    if found.record is None:
        raise ValueError(
            f"run {found.id} cannot be understood ({found.reason}); `mad rm {found.id}` removes it"
        )
    return found.record


def show_record(record: StoredRecord, console: Console) -> None:
    """A run: what it was, its curve, its scores and its cost."""
    sheet = record.sheet()
    for name, value in sheet.facts:
        console.print(f"{name:13} {brief(value)}", markup=False, soft_wrap=True)
    if sheet.columns:
        table = new_table(numbers=sheet.columns)
        for row in sheet.curve:
            table.add_row(*row)
        console.print("")
        console.print(table)
    if sheet.result is not None:
        console.print(f"\n{sheet.result}", soft_wrap=True)
    if record.error is not None:
        console.print(f"\n{printable(record.error, lines=True)}", markup=False)
