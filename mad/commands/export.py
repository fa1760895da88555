"""The command `mad export`: the records of a store as a file."""

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
