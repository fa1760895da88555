"""The command `mad import`: the records of files into the store."""

from pathlib import Path
from typing import Annotated

from mad.commands.flags import StoreOption, argument
from mad.messages import counted, say


def import_(
    files: Annotated[list[Path], argument("Files that `mad export` wrote.", "FILE...")],
    store: StoreOption = None,
) -> None:
    """Merge the records of files into the store, marked as imported. All or nothing; runs no code."""
    from mad.store import Store
    from mad.store.exchange import read_records

    records = [record for file in files for record in read_records(file)]
    with Store(store) as opened:
        report = opened.merge(records)
    ids = ", ".join([*report.conflicting[:3], *(["..."] if report.conflicts > 3 else [])])
    conflicts = f" ({report.conflicts} with other numbers; the store's were kept: {ids})" if ids else ""
    added = counted(report.added, "run")
    say(f"{added} added, {report.replaced} replaced, {report.known} known{conflicts}\n")
