"""What a record must be to be believed: readable, of the configuration that its id names, and consistent.

The same checks hold when a record is written, imported and read, so that none can be stored that a later
command stumbles over. Nothing that a record names is looked up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydantic import ValidationError

from mad.bounds import reason
from mad.config import DONE, Measure, Record
from mad.language import FINAL, LanguageRecord, below_entropy

AnyRecord = Record | LanguageRecord

# Characters of a record as JSON. The longest honest ones have a curve of some thousand points.
LONGEST = 2**22
# Of a whole number of hits; of a curve's end and a score, which a device without fixed order adds up anew; of
# numbers that are computed from one another.
WHOLE, CLOSE, NEAR = 1e-5, 0.01, 1e-6


def understood(kind: type[Record] | type[LanguageRecord], text: str | bytes) -> AnyRecord:
    """The record that JSON spells; a ValueError names the field that is wrong."""
    if len(text) > LONGEST:
        raise ValueError(f"it is longer than the {LONGEST:,} characters that a record may have")
    record: AnyRecord
    try:
        record = kind.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(reason(error, "the line")) from None
    check(record)
    return record


def check(record: AnyRecord) -> None:
    """Refuse a record that is not what its configuration or its status says, or contradicts itself."""
    if record.id != record.config.id:
        raise ValueError(
            f"id {record.id} does not match its configuration, which has id {record.config.id}; "
            "the record was edited or damaged: take it from its source again"
        )
    wrong = _language(record) if isinstance(record, LanguageRecord) else _battery(record)
    for sentence in wrong:
        raise ValueError(f"run {record.id} {sentence}; it was edited or damaged: run it again")


def _battery(record: Record) -> Iterator[str]:
    """What arithmetic finds wrong, the worst first."""
    config, metrics, status = record.config, record.metrics, record.status
    if status not in DONE:
        return
    if metrics is None or (status == "ok" and (metrics.validation is None or metrics.test is None)):
        yield f"is {status!r} but lacks its metrics"
        return
    splits = {"validation": config.validation_examples, "test": config.test_examples}
    if metrics.steps > config.steps:
        yield f"has {metrics.steps} steps, and its configuration {config.steps}"
    yield from _rising([point.step for point in metrics.curve], metrics.steps)
    if status != "ok":
        if metrics.validation or metrics.test:
            yield f"is {status!r}, and yet has a score"
        return
    for split, rows in splits.items():
        found: Measure = getattr(metrics, split)
        hits, length = found.micro * found.targets, config.task.get("seq_len")
        if found.rows != rows:
            yield f"measured {found.rows} rows of {split}, and its configuration has {rows}"
        if isinstance(length, int) and found.targets > rows * length:
            yield f"has {found.targets:,} targets of {split} in {rows:,} rows of length {length}"
        if abs(hits - round(hits)) > WHOLE:
            yield f"has a {split} accuracy of {found.micro}: not a whole number of {found.targets} targets"
        if len({(value == 0, value == 1) for value in (found.micro, found.macro)}) > 1:
            yield f"has a {split} accuracy of {found.micro}, but {found.macro} over classes"
    protocol = config.protocol
    watched = getattr(metrics, protocol.select_on).accuracy(protocol.metric)
    if metrics.curve and abs(metrics.curve[-1].accuracy - watched) > CLOSE:
        yield f"ends its curve at an accuracy of {metrics.curve[-1].accuracy}, and scores {watched}"
    if metrics.solved != (watched >= protocol.solved_at):
        yield f"is {'solved' if metrics.solved else 'not solved'} at an accuracy of {watched}"


def _language(record: LanguageRecord) -> Iterator[str]:
    """What arithmetic finds wrong, the worst first."""
    config, metrics, cost, status = record.config, record.metrics, record.cost, record.status
    if status not in FINAL:
        return
    if metrics is None or cost is None or (status == "ok" and metrics.loss is None):
        yield f"is {status!r} but lacks its metrics or cost"
        return
    if not _near(cost.flops, cost.flops_per_token * config.tokens):
        yield f"has {cost.flops:g} FLOPs, and {cost.flops_per_token:g} a token for {config.tokens:,} tokens"
    if cost.params_counted not in (cost.params, cost.params - cost.embedding):
        yield f"counts {cost.params_counted:,} of {cost.params:,} parameters, {cost.embedding:,} embedded"
    if metrics.epochs * metrics.unique_tokens > config.tokens * (1 + NEAR):
        yield f"read {metrics.unique_tokens:,} tokens {metrics.epochs:g} times, more than {config.tokens:,}"
    yield from _rising([point.step for point in metrics.curve], config.steps)
    if metrics.loss is None:
        return
    if (impossible := below_entropy(config, metrics)) is not None:
        yield impossible
    if status == "diverged":
        yield f"diverged, and yet has a loss of {metrics.loss:g}"
    size, bits = config.corpus.bytes_per_token, metrics.bits_per_byte
    if size is not None and bits is not None and not _near(bits * math.log(2) * size, metrics.loss):
        yield f"has a loss of {metrics.loss:g}, and {bits:g} bits a byte"
    last = metrics.curve[-1] if metrics.curve else None
    if last is not None and (last.tokens != config.tokens or not _near(last.loss or 0.0, metrics.loss)):
        yield f"ends its curve at {last.tokens:,} tokens and a loss of {last.loss}, and has {metrics.loss:g}"


def _rising(steps: list[int], end: int) -> Iterator[str]:
    if steps != sorted(set(steps)) or (steps and steps[-1] > end):
        yield f"has a curve whose steps do not rise to {end}"


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= NEAR * max(abs(one), abs(other))
