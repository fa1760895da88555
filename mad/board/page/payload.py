"""The page's data: one value for JSON, of scores and of the records behind them.

Every text in it may come from another machine and is shown as text only; control characters and marks that
turn the direction of writing are replaced here. Equal stores make equal pages.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

import synthetic_tasks
from mad.board.caption import caption
from mad.board.page.pairs import packed
from mad.board.page.rows import Found, Shared, row_of
from mad.data.protocol import Protocol, Setting, Suite
from mad.data.records import Record, setting_key
from mad.messages import printable
from mad.score import Scores, pairing
from mad.score.pairs import pairs_of

FORMAT = 1


def payload(
    boards: Iterable[tuple[Scores, Suite, Protocol]],
    runs: Mapping[str, Record],
    *,
    opened: tuple[str, str],
    version: str,
    published: Sequence[Mapping[str, Any]] = (),
    sections: Sequence[Mapping[str, str]] = (),
    words: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """All that the page shows.

    boards     scores with the suite and the protocol that they were made by, those without rows left out
    runs       those that the scores came from, of the store and of the package, by id
    opened     labels of the suite and the protocol that are shown first
    published  rows of `mad.board.page.published`
    sections   of other packages: name, title and HTML
    words      what `--suite` takes for a suite, where that is not its label
    """
    shared = Shared()
    made = [
        _board(*board, runs, shared, words.get(board[0].suite, board[0].suite))
        for board in boards
        if board[0].architectures
    ]
    labels = [(board["suite"], board["protocol"]) for board in made]
    return _clean(
        {
            "format": FORMAT,
            "version": version,
            "opened": labels.index(opened) if opened in labels else 0,
            "asked": list(opened),
            "boards": made,
            "environments": shared.environments,
            "steps": shared.steps,
            "published": list(published),
            "sections": [{name: part[name] for name in ("name", "title")} for part in sections],
        }
    )


def _board(
    scores: Scores, suite: Suite, protocol: Protocol, runs: Mapping[str, Record], shared: Shared, word: str
) -> dict[str, Any]:
    asked = [
        setting for setting in suite.settings if synthetic_tasks.parse(setting.task).name in scores.tasks
    ]
    questions = [(setting_key(setting, protocol), setting) for setting in asked]
    found: Found = {}
    wanted = {key for key, _ in questions}
    for record in runs.values():
        config = record.config
        if (key := config.setting_key) in wanted and config.architecture.dim in (None, suite.dim):
            groups = found.setdefault(config.architecture_key, {})
            groups.setdefault((key, config.seed), {})[config.lr, config.weight_decay] = record
    tasks = _tasks(scores, questions)
    order = {setting["label"]: setting.pop("key") for task in tasks for setting in task["settings"]}
    rows = [row_of(row, scores, order, found, shared, suite, word) for row in scores.architectures]
    for task in tasks:
        complete = [row.tasks[task["name"]] for row in scores.architectures if task["name"] in row.tasks]
        task["sigma"] = _sigma(list(part.by_seed.values()) for part in complete if part.complete)
    return {
        "suite": scores.suite,
        "protocol": scores.protocol,
        "metric": scores.metric,
        "about": suite.about,
        "mean": scores.mean,
        "word": word,
        "caption": list(caption(scores)),
        "tasks": tasks,
        "sigma": _six(scores.noise.sd) if scores.noise else None,
        "rows": rows,
        "pool": pairing.POOL,
        "pairs": packed(pairs_of(scores, suite, protocol, runs.get)),
    }


def _tasks(scores: Scores, questions: Sequence[tuple[str, Setting]]) -> list[dict[str, Any]]:
    """The tasks with their settings: labels in the order of the suite, and what each changes of the first."""
    by_task: dict[str, list[tuple[str, Setting, dict[str, Any]]]] = {}
    for key, setting in questions:
        task = synthetic_tasks.parse(setting.task)
        options = {f.name: getattr(task, f.name) for f in dataclasses.fields(task)}
        options["train_examples"] = setting.train_examples
        by_task.setdefault(task.name, []).append((key, setting, options))
    tasks, first = [], 0
    for name, parts in by_task.items():
        base = parts[0][2]
        settings = [
            {
                "key": key,
                "label": label,
                "changes": {k: v for k, v in options.items() if v != base[k] and _is_number(v)},
                "lrs": len(setting.lrs),
            }
            for label, (key, setting, options) in zip(scores.settings[name], parts, strict=True)
        ]
        known = name in synthetic_tasks.names()
        tasks.append(
            {
                "name": name,
                "heading": (synthetic_tasks.get(name).heading if known else "") or name,
                "chance": _six(scores.chance.get(name)),
                "ceiling": _six(scores.ceiling.get(name)),
                "signal": _six(scores.signal.get(name)),
                "base": {k: v for k, v in base.items() if _is_number(v)},
                "settings": settings,
                "first": first,
            }
        )
        first += len(settings)
    return tasks


def _sigma(values: Iterable[Sequence[float]]) -> float | None:
    """The standard deviation between seeds, pooled over architectures; None where none has two seeds."""
    groups = [np.array(group) for group in values if len(group) > 1]
    if not groups:
        return None
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    return _six(math.sqrt(squares / sum(len(group) - 1 for group in groups)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _six(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _clean(value: Any) -> Any:
    """The same with every text printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): _clean(part) for key, part in value.items()}
    return [_clean(part) for part in value] if isinstance(value, list | tuple) else value
