"""Records that say more than was measured, and are consistent in every field that is checked."""

from __future__ import annotations

from typing import Any

from mad.data.hits import pack, unpack
from mad.data.records import Measure, Record


def raised(record: Record, by: float = 0.02) -> Record:
    """The record with a higher accuracy, on test and validation, with hits, classes and the curve's end."""
    metrics = record.metrics
    assert metrics is not None and metrics.validation is not None and metrics.test is not None
    new: dict[str, Any] = {split: _more(getattr(metrics, split), by) for split in ("validation", "test")}
    end = metrics.curve[-1].model_copy(update={"accuracy": new["validation"].micro})
    solved = new["validation"].micro >= record.config.protocol.solved_at
    changed = metrics.model_copy(update={**new, "curve": (*metrics.curve[:-1], end), "solved": solved})
    return Record.model_validate_json(record.model_copy(update={"metrics": changed}).model_dump_json())


def _more(measure: Measure, by: float) -> Measure:
    extra = round(by * measure.targets)
    hits = measure.hits
    if hits is not None:
        counts = unpack(hits, measure.rows)
        most = measure.targets // measure.rows
        for row in range(len(counts)):
            added = min(extra - int(counts.sum() - unpack(hits, measure.rows).sum()), most - int(counts[row]))
            counts[row] += max(added, 0)
        hits = pack(counts)
    micro = (round(measure.micro * measure.targets) + extra) / measure.targets
    other = {name: min(getattr(measure, name) + by, 0.9999) for name in ("macro", "macro_batches")}
    return measure.model_copy(update={"micro": micro, "hits": hits, **other})


def moved(record: Record, **place: object) -> Record:
    """The same as if it had been made in another place."""
    return record.model_copy(update={"environment": record.environment | place})
