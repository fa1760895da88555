"""Published scores, to show beside measured ones: a table of somebody else's numbers, never ranked with ours.

The file is CSV with a row for each model: `model`, `source`, perhaps `arxiv` and `notes`, and a column for
each task by its name or short heading ("in-context-recall", "fuzzy_recall"), in percent.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import synthetic_tasks
from mad.messages import near

TEXTS = ("source", "arxiv", "model", "notes")
MOST_ROWS = 500


def read_published(file: str | Path) -> list[dict[str, Any]]:
    """Rows of source, arxiv, model, notes and `scores`, a fraction for each task that is there.

    ValueError, with the line, where a column is missing, a score is no percentage or the file cannot be read.
    """
    path = Path(os.path.expanduser(file))
    try:
        with open(path, encoding="utf-8-sig", newline="") as opened:
            lines = list(csv.DictReader(opened, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{path} cannot be read as CSV ({error}); give a table of published scores"
        ) from None
    names = [name for name in (lines[0] if lines else {}) if name is not None]
    for wanted in ("model", "source"):
        if wanted not in names:
            raise ValueError(
                f"{path.name} has no column {wanted!r}{near(wanted, names)}; "
                "give a header with model, source and the names of tasks"
            )
    tasks = {name: task for name in names if (task := _task(name))}
    if not tasks:
        raise ValueError(
            f"{path.name} has no column of a task; name one such as {', '.join(synthetic_tasks.names()[:2])}"
        )
    if len(lines) > MOST_ROWS:
        raise ValueError(f"{path.name} has {len(lines):,} rows; give at most {MOST_ROWS}")
    return [_row(line, tasks, f"{path.name} line {i}") for i, line in enumerate(lines, 2)]


def _row(line: Mapping[str, str | None], tasks: Mapping[str, str], where: str) -> dict[str, Any]:
    scores = {}
    for column, task in tasks.items():
        text = (line[column] or "").strip()
        if not text:
            continue
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 100:
            raise ValueError(
                f"{where}: {column} is {text[:40]!r}; give percent from 0 to 100, or leave it out"
            )
        scores[task] = round(value / 100, 6)
    told = {name: (line.get(name) or "").strip() for name in TEXTS}
    if not told["model"]:
        raise ValueError(f"{where} has no model; name it, or leave the line out")
    return told | {"scores": scores}


def _task(column: str) -> str | None:
    """The task that a column's name means: its name, its short heading, or the name without "in-context"."""
    asked = column.strip().lower().replace("_", "-")
    return next((name for name in synthetic_tasks.names() if asked in _spellings(name)), None)


def _spellings(name: str) -> Sequence[str]:
    return list(dict.fromkeys(_spelled(name)))


def _spelled(name: str) -> Iterator[str]:
    yield name
    yield name.replace("-in-context", "")
    yield synthetic_tasks.get(name).heading
