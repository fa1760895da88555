"""One row of the page: its numbers, and behind each of them the runs that it came from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mad.board.page.stripe import stripe
from mad.data.protocol import Suite
from mad.data.records import Record
from mad.messages import printable
from mad.score import ArchitectureScore, Scores
from mad.score.interval import Estimate
from mad.score.rows import SettingScore
from mad.score.selection import Group

# Of each architecture, by setting and seed.
Found = dict[str, dict[tuple[str, int], Group]]
# What of an environment a reader needs to judge a number by.
TOLD = ("mad_suite", "torch", "python", "system", "device", "device_name", "threads")


@dataclass
class Shared:
    """What many rows have in common and the page holds once: environments, and the steps of curves."""

    environments: list[dict[str, Any]] = field(default_factory=list)
    steps: list[list[int]] = field(default_factory=list)

    def environment(self, record: Record) -> int:
        told = {name: record.environment[name] for name in TOLD if name in record.environment}
        return _place(told, self.environments)

    def curve(self, record: Record) -> list[Any]:
        """[place of its steps, accuracies in ten-thousandths]."""
        points = record.metrics.curve if record.metrics else ()
        accuracies = [round(10_000 * point.accuracy) for point in points]
        return [_place([point.step for point in points], self.steps), accuracies]


def row_of(
    row: ArchitectureScore,
    scores: Scores,
    settings: Mapping[str, str],
    found: Found,
    shared: Shared,
    suite: Suite,
    word: str,
) -> dict[str, Any]:
    """The row as the page holds it. `settings` are the suite's, label to key, in the order of the tasks;
    `word` is what `--suite` takes for the suite.
    """
    by_label = {part.setting: part for task in row.tasks.values() for part in task.settings}
    mine = found[row.architecture_key]
    records = [run for group in mine.values() for run in group.values()]
    cost = next((part.cost for part in by_label.values() if part.cost), None)
    seeds = {seed for _, seed in mine}
    seconds = sum(run.cost.seconds for run in records if run.cost)
    return {
        "key": row.architecture_key,
        "rank": row.rank,
        "label": row.label,
        "given": row.given,
        "spec": row.spec,
        "family": row.family,
        "stripe": stripe(row.spec),
        "arithmetic": [row.precision, row.backend, row.compile],
        "params": row.params,
        "core": row.core_params,
        "flops": row.flops_per_token,
        "state": row.state,
        "nominal": row.nominal_state,
        "states": {kind: n for kind, n in (cost.state or {}).items() if kind != "total"} if cost else {},
        "seconds": round(seconds / len(seeds), 1) if seeds else None,
        "memory": max((run.cost.peak_memory or 0 for run in records if run.cost), default=0) or None,
        "mad": row.mad and _ends(row.mad),
        "interval": row.interval_kind,
        "tasks": [_ends(row.tasks[name]) if name in row.tasks else None for name in scores.tasks],
        "settings": [
            _setting(by_label[label], key, mine, shared) if label in by_label else None
            for label, key in settings.items()
        ],
        "seeds": row.seeds,
        "versions": records[0].config.architecture.versions if records else {},
        "sources": records[0].config.architecture.sources if records else {},
        "runs": row.runs,
        "imported": row.imported,
        "packaged": row.reference,
        "created": max((run.created[:10] for run in records), default=""),
        "missing": list(row.missing),
        "notes": list(row.notes),
        "stale": row.stale,
        "complete": row.complete,
        "command": command(row, scores, suite, word, len(seeds)),
    }


def command(row: ArchitectureScore, scores: Scores, suite: Suite, word: str, seeds: int) -> str | None:
    """The line that makes the row again, quoted for a shell; None where it cannot be shown as it is."""
    words = [row.given, word, row.precision]
    if any(printable(word) != word for word in words) or row.given.startswith("-"):
        return None
    parts = ["mad", "bench", row.given, "--suite", word]
    protocol = scores.protocol.partition("@")[0]
    parts += [] if protocol == "sound" else ["--protocol", protocol]
    parts += [] if seeds == suite.seeds else ["--seeds", str(max(seeds, 1))]
    parts += [] if row.precision == "32-true" else ["--precision", row.precision]
    parts += ["--compile"] if row.compile else []
    return shlex.join(parts)


def _setting(
    score: SettingScore, key: str, mine: Mapping[tuple[str, int], Group], shared: Shared
) -> dict[str, Any]:
    """A setting's score; a group of each seed: [seed, value, place of the chosen run, runs, curve].

    A run is [id, lr, weight decay, status, seconds, place of its environment].
    """
    groups = []
    for seed, point, value in zip(score.seeds, score.chosen, score.values, strict=True):
        group = mine[key, seed]
        runs = list(group.values())
        chosen = group[point]
        told = [_run(run, shared) for run in runs]
        groups.append([seed, round(value, 6), runs.index(chosen), told, shared.curve(chosen)])
    return {
        "score": _ends(score),
        "micro": round(score.micro, 6),
        "macro": round(score.macro, 6),
        "chance": round(score.chance, 6),
        "edges": list(score.edges),
        "diverged": score.diverged,
        "apart": score.apart,
        "groups": groups,
    }


def _run(run: Record, shared: Shared) -> list[Any]:
    config, seconds = run.config, run.cost.seconds if run.cost else 0.0
    where = shared.environment(run)
    return [run.id, config.lr, config.weight_decay, run.status, round(seconds, 1), where]


def _ends(estimate: Estimate) -> list[float]:
    return [round(value, 6) for value in (estimate.value, estimate.low, estimate.high)]


def _place(value: Any, known: list[Any]) -> int:
    """Where a value stands in a list, which gets it where it is new."""
    if value not in known:
        known.append(value)
    return known.index(value)
