"""The command `mad import`: the records of a file into a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mad.commands.flags import StoreOption
from mad.messages import counted, say


def import_(
    file: Annotated[Path, typer.Argument(help="A file that `mad export` wrote.")],
    store: StoreOption = None,
) -> None:
    """Merge the records of a file into the store, marked as imported. All or nothing; runs no code."""
    from mad.store import Store
    from mad.store.exchange import read_records

    records = read_records(file)
    with Store(store) as opened:
        report = opened.merge(records)
    ids = ", ".join([*report.conflicting[:3], *(["..."] if report.conflicts > 3 else [])])
    conflicts = f" ({report.conflicts} with other numbers; the store's were kept: {ids})" if ids else ""
    say(
        f"{counted(report.added, 'run')} added, {report.replaced} replaced, {report.known} known{conflicts}\n"
    )
