"""Synthetic runs with hits by row: what a trainer would have written of answers that a test makes up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mad.data.hits import pack
from mad.data.protocol import Protocol, Setting
from mad.data.records import Measure, Record
from synthetic_tasks import IGNORE
from tests.mad.records import SOUND, record

Counts = npt.NDArray[np.int64]


def targets_of(at: Setting, protocol: Protocol = SOUND) -> Counts:
    """How many targets each test row of a setting has."""
    drawn = at.resolve(protocol).draw(protocol.data_seed, "test", at.test_examples)
    return np.asarray((drawn.targets != IGNORE).sum(1))


def answered(at: Setting, hits: Counts | None, *, keep: bool = True, **changes: Any) -> Record:
    """A run with these hits of each test row; `keep`: it says so. None: it diverged."""
    if hits is None:
        return record(at, status="diverged", **changes)
    targets = int(targets_of(at, changes.get("protocol", SOUND)).sum())
    share = int(hits.sum()) / targets
    made = record(at, test=share, **changes)
    assert made.metrics is not None and made.metrics.validation is not None
    test = Measure(
        rows=at.test_examples,
        targets=targets,
        micro=share,
        macro=share,
        macro_batches=share,
        loss=1.0,
        hits=pack(hits) if keep else None,
    )
    validation = made.metrics.validation.model_copy(update={"micro": 0.5, "macro": 0.5})
    metrics = made.metrics.model_copy(update={"test": test, "validation": validation, "solved": False})
    return made.model_copy(update={"metrics": metrics})


def hits_at(at: Setting, levels: Sequence[float], rng: np.random.Generator) -> list[Counts]:
    """Hits of each row for each seed, of these accuracies; some rows are harder for all."""
    targets = targets_of(at)
    hard = rng.uniform(0.7, 1.0, len(targets))
    return [rng.binomial(targets, np.minimum(level * hard / hard.mean(), 1)) for level in levels]
