"""What a record must be to be believed: readable, of the configuration that its id names, and consistent.

The same checks hold when a record is written, imported and read, so that none can be stored that a later
command stumbles over. Nothing that a record names is looked up.
"""

import functools
import importlib
import importlib.metadata
import pkgutil
from typing import TypeVar

from pydantic import ValidationError

from mad.data.bounds import reason
from mad.data.records import Record
from mad.data.stored import StoredRecord
from mad.messages import note

R = TypeVar("R", bound=StoredRecord)

# Characters of a record as JSON. The longest honest ones have a curve of some thousand points.
LONGEST = 2**22


@functools.cache
def kinds() -> dict[str, type[StoredRecord]]:
    """The kinds of records by their tables: the battery's first, then those of packages that add commands."""
    found: dict[str, type[StoredRecord]] = {Record.table: Record}
    for point in importlib.metadata.entry_points(group="mad.commands"):
        package = point.module.partition(".")[0]
        try:
            for name in getattr(importlib.import_module(package), "RECORDS", ()):
                kind = pkgutil.resolve_name(name)
                found[kind.table] = kind
        except Exception as error:
            note(f"the records of package {package} cannot be read ({error}); repair it")
    return found


def understood(kind: type[R], text: str | bytes) -> R:
    """The record that JSON spells; a ValueError names the field that is wrong."""
    if len(text) > LONGEST:
        raise ValueError(f"it is longer than the {LONGEST:,} characters that a record may have")
    try:
        record = kind.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(reason(error, "the line")) from None
    check(record)
    return record


def check(record: StoredRecord) -> None:
    """Refuse a record that is not what its configuration or its status says, or contradicts itself."""
    if record.id != record.config.id:
        raise ValueError(
            f"id {record.id} does not match its configuration, which has id {record.config.id}; "
            "the record was edited or damaged: take it from its source again"
        )
    for sentence in record.wrong():
        raise ValueError(f"run {record.id} {sentence}; it was edited or damaged: run it again")
