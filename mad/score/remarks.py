"""What stands beside a row of the leaderboard: grids that end too early, divergence, origin, doubt."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from mad.data.labels import label_of
from mad.data.records import Record

if TYPE_CHECKING:
    from mad.score.naming import Spelling
    from mad.score.rows import TaskScore


def remarks(
    tasks: Mapping[str, TaskScore],
    settings: Mapping[str, int],
    counts: Sequence[int],
    seeds: int,
    old: Sequence[str],
    records: Sequence[Record],
    called: Spelling,
) -> Iterator[str]:
    """What a reader must know of a row before trusting its scores."""
    if called.label == label_of(called.given):
        yield f"is {called.spec}"
    if called.others:
        yield f"also called {', '.join(called.others)}"
    edges: dict[str, list[str]] = defaultdict(list)
    for name, task in tasks.items():
        for axis, number in Counter(axis for setting in task.settings for axis in setting.edges).items():
            part = "" if settings[name] == 1 else f" ({number} of {settings[name]} settings)"
            edges[axis].append(f"{name}{part}")
    for axis, where in edges.items():
        yield f"best at the edge of the grid ({axis}) in {', '.join(where)}"
    for name, task in tasks.items():
        diverged = sum(setting.diverged for setting in task.settings)
        if diverged:
            yield f"{diverged} diverged in {name}"
    least, most = min(counts), max(counts)
    if 0 < least < most:
        yield f"{least} to {most} seeds"
    elif 0 < most < seeds:
        yield f"{most} of {seeds} seeds"
    if old:
        yield f"stale: {', '.join(old)}"
    imported = sum(record.imported for record in records)
    if imported:
        yield f"{imported} of {len(records)} runs imported"
    for name, task in tasks.items():
        if any(setting.apart for setting in task.settings):
            yield f"test accuracy far above validation in {name}"
