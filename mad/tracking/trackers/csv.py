"""Two tables that any spreadsheet opens: `curves.csv`, a line a point, and `runs.csv`, a line a run."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mad.data.trails import Head, Row, Tail, Trail, axis_of
from mad.tracking import By, Place

FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Mirror:
    """See `mad.tracking.Tracker`."""

    by: ClassVar[By] = "run"

    def __init__(self, folder: Path, place: Place) -> None:
        folder = folder / "csv"
        folder.mkdir(parents=True, exist_ok=True)
        self.heads: dict[str, Head] = {}
        self.curves = Table(folder / "curves.csv", ("run", "axis", "at"))
        self.runs = Table(folder / "runs.csv", ("run",))

    @staticmethod
    def require() -> None:
        pass

    def begin(self, head: Head) -> None:
        self.heads[head.id] = head

    def log(self, id: str, rows: Sequence[Row]) -> None:
        head = self.heads[id]
        for row in rows:
            axis = axis_of(row)
            values = {key: value for key, value in row.items() if key != axis}
            where = {"run": id, "axis": axis, "at": row[axis]}
            self.curves.put(where | {"group": head.group, "name": head.name} | values)

    def end(self, id: str, tail: Tail) -> None:
        head = self.heads[id]
        about = {"run": id, "group": head.group, "job": head.job, "name": head.name}
        self.runs.put(about | dict(tail.summary) | _flat(head.config))

    def show(self, trail: Trail) -> None:
        self.begin(trail.head)
        self.log(trail.head.id, trail.rows)
        self.end(trail.head.id, trail.tail)

    def close(self) -> None:
        pass


class Table:
    """A CSV file with one line for each key: a line that is put again takes the place of the first.

    What is new is appended. A last line that was cut off is left out.
    """

    def __init__(self, path: Path, keys: tuple[str, ...]) -> None:
        self.path, self.keys = path, keys
        self.columns: list[str] = []
        self.rows: dict[tuple[str, ...], dict[str, str]] = {}
        self.whole = True
        if path.exists():
            text = path.read_text(encoding="utf-8")
            self.whole = text.endswith("\n") or not text
            lines = list(csv.reader(text.splitlines(keepends=True)))
            self.columns = lines[0] if lines else []
            for line in lines[1:] if self.whole else lines[1:-1]:
                row = dict(zip(self.columns, line, strict=False))
                self.rows[self._key(row)] = row

    def put(self, values: Mapping[str, Any]) -> None:
        row = {name: _text(value) for name, value in values.items()}
        key, known = self._key(row), self.columns
        self.columns = [*known, *(name for name in row if name not in known)]
        row = {name: row.get(name, "") for name in self.columns}
        new = key not in self.rows
        if not new and all(self.rows[key].get(name, "") == row[name] for name in row):
            return
        self.rows[key] = row
        if new and self.columns == known and self.whole:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(row.values())
            return
        part = self.path.with_name(f".{self.path.name}.part")
        with open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            writer.writerows([[line.get(name, "") for name in self.columns] for line in self.rows.values()])
        os.replace(part, self.path)
        self.whole = True

    def _key(self, row: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(row.get(name, "") for name in self.keys)


def _text(value: Any) -> str:
    """A value as a cell. A text that a spreadsheet would take for a formula is marked as a text."""
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value[:1] in FORMULA else str(value)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested names with dots between them."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
