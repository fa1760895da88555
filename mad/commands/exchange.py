"""The commands `mad export` and `mad import`: the records of a store as a file, and back."""

from pathlib import Path
from typing import Annotated

from mad.commands.flags import ForceOption, StoreOption, argument
from mad.messages import counted, say


def export(
    file: Annotated[Path, argument("Where to write: .jsonl or .parquet.")],
    store: StoreOption = None,
    force: ForceOption = False,
) -> None:
    """Write every record of the store to a file, one line per run."""
    from mad.store import Store
    from mad.store.exchange import export_records

    with Store(store, read_only=True) as opened:
        count = export_records(opened, file, overwrite=force)
    say(f"{counted(count, 'run')} written to {file}\n")


def import_(
    file: Annotated[Path, argument("A file that `mad export` wrote.")], store: StoreOption = None
) -> None:
    """Merge the records of a file into the store, marked as imported. All or nothing; runs no code."""
    from mad.store import Store
    from mad.store.exchange import read_records

    records = read_records(file)
    with Store(store) as opened:
        report = opened.merge(records)
    ids = ", ".join([*report.conflicting[:3], *(["..."] if report.conflicts > 3 else [])])
    conflicts = f" ({report.conflicts} with other numbers; the store's were kept: {ids})" if ids else ""
    added = counted(report.added, "run")
    say(f"{added} added, {report.replaced} replaced, {report.known} known{conflicts}\n")
