"""What a record must be to be believed: readable, of the configuration that its id names, and consistent.

The same checks hold when a record is written, imported and read, so that none can be stored that a later
command stumbles over. Nothing that a record names is looked up.
"""

from __future__ import annotations

from pydantic import ValidationError

from mad.config import DONE, Record
from mad.language import LanguageRecord, check_language

AnyRecord = Record | LanguageRecord

# Characters of a record as JSON. The longest honest ones have a curve of some thousand points.
LONGEST = 2**22


def understood(kind: type[Record] | type[LanguageRecord], text: str | bytes) -> AnyRecord:
    """The record that JSON spells; a ValueError names the field that is wrong."""
    if len(text) > LONGEST:
        raise ValueError(f"it is longer than the {LONGEST:,} characters that a record may have")
    record: AnyRecord
    try:
        record = kind.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the line"
        raise ValueError(f"{field}: {first['msg']}") from None
    check(record)
    return record


def check(record: AnyRecord) -> None:
    """Refuse a record that is not what its configuration or its status says."""
    if isinstance(record, LanguageRecord):
        check_language(record)
        return
    if record.id != record.config.id:
        raise ValueError(
            f"id {record.id} does not match its configuration, which has id {record.config.id}; "
            "the record was edited or damaged: take it from its source again"
        )
    metrics = record.metrics
    if record.status not in DONE:
        return
    if metrics is None or (record.status == "ok" and (metrics.validation is None or metrics.test is None)):
        raise ValueError(f"run {record.id} is {record.status!r} but lacks its metrics; run it again")
    values = [metrics.chance, metrics.ceiling]
    for measure in (metrics.validation, metrics.test):
        values += [] if measure is None else [measure.micro, measure.macro, measure.macro_batches]
    for value in values:
        if not 0 <= value <= 1:
            raise ValueError(
                f"run {record.id} has an accuracy of {value}, which must be from 0 to 1; run it again"
            )
