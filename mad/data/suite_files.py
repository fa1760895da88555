"""Suites as TOML files: read with an answer to every mistake that names its place, and written.

name = "mine"
dim = 64

[budget]                # what holds for every setting that does not say otherwise
train_examples = 12800
epochs = 2
batch_size = 32
lrs = [3e-3]
weight_decays = [0.0]

[[settings]]
task = "in-context-recall[vocab_size=32]"

[[settings]]
task = "my_tasks:Reverse[seq_len=8]"
epochs = 5
"""

from __future__ import annotations

import codecs
import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from mad.data.protocol import Setting, Suite, fault
from mad.messages import near, printable

LARGEST = 2**20  # bytes of a file

COUNT, AXIS, TEXT = "a whole number from 1", "a list of different numbers from 0", "a text in quotes"
COUNTS = {"train_examples": "12800", "epochs": "2", "batch_size": "32", "evaluations": "10"}
COUNTS |= {"validation_examples": "1280", "test_examples": "1280"}
# What each key holds, and an example, which may stand in a file.
RULES = {
    "name": ("a name of letters, digits, '.', '_' and '-'", '"mine"'),
    "version": (COUNT, "1"),
    "about": (TEXT, '"what it is for"'),
    "dim": (f"{COUNT}, the width of the models", "64"),
    "seeds": (COUNT, "3"),
    "budget": ("a table", "{epochs = 2}, or lines under [budget]"),
    "settings": ("a list of tables", '[{task = "compression"}], or lines under [[settings]]'),
    "task": (TEXT, '"compression[seq_len=8]"'),
    **{key: (COUNT, example) for key, example in COUNTS.items()},
    "lrs": (AXIS, "[1e-3, 3e-3]"),
    "weight_decays": (AXIS, "[0.0, 0.1]"),
}
HEAD = ("name", "version", "about", "dim", "seeds", "budget", "settings")
OWN = ("task", *COUNTS, "lrs", "weight_decays")
REQUIRED = ("task", "train_examples", "epochs", "batch_size", "lrs", "weight_decays")
# A setting with nothing wrong in it.
ANY: dict[str, Any] = {"task": "any", **dict.fromkeys(COUNTS, 1), "lrs": [1.0], "weight_decays": [0.0]}


def read(path: str | Path) -> Suite:
    """The suite of a file; ValueError where there is none in it."""
    text = _text(path)
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(_broken(str(path), error, text.count("\n") + 1)) from None
    return _File(str(path), text, data).suite()


def _text(path: str | Path) -> str:
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        raise ValueError(
            f"suite {path} is not a file; check the path, or name a suite that `mad suites` lists"
        )
    with open(file, "rb") as opened:
        content = opened.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(
            f"{path} is longer than the {LARGEST:,} bytes that a suite may have; give a TOML file"
        )
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: it is not UTF-8; save it as UTF-8 text") from None


def _broken(path: str, error: Exception, last: int) -> str:
    """What the parser of TOML says, the place first; `last` is the number of the last line."""
    remedy = "mend it, or begin with `mad suites quick --format toml`"
    place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", str(error))
    if place is None:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        return f"{path} is not TOML: {why}; {remedy}"
    what = str(error)[: place.start()]
    return f"{path}, line {place[1] or last}: not TOML: {what}; {remedy}"


class _Place(NamedTuple):
    """A table of the file; of settings the one with this number, counted from 1."""

    table: Literal["", "budget", "settings"] = ""
    number: int = 1


class _File:
    """A file as it was read; what is refused is refused with its place."""

    def __init__(self, path: str, text: str, data: dict[str, Any]) -> None:
        self.path, self.data, self.lines = path, data, text.splitlines()
        found = [re.match(r"\s*\[\[?\s*(\w+)\s*\]\]?\s*(#.*)?$", line) for line in self.lines]
        self.headers = [(line, match[1]) for line, match in enumerate(found) if match]
        # Where settings are written in another way, or texts have several lines, no line is told.
        settings = data.get("settings", [])
        headed = isinstance(settings, list) and len(settings) == self._headers("settings")
        self.plain = headed and '"""' not in text and "'''" not in text

    def _headers(self, table: str) -> int:
        return sum(name == table for _, name in self.headers)

    def suite(self) -> Suite:
        self._check_keys(self.data, HEAD, _Place())
        budget, given = self.data.get("budget", {}), self.data.get("settings", [])
        if not isinstance(budget, dict):
            raise self._refusal("budget", budget, _Place())
        if not isinstance(given, list) or not all(isinstance(setting, dict) for setting in given):
            raise self._refusal("settings", given, _Place())
        self._check_keys(budget, OWN[1:], _Place("budget"))
        self._valid(Setting, ANY | budget, _Place("budget"))
        if not given:
            raise ValueError(f"{self.path} has no settings; add a line [[settings]] and under it a task")
        settings = [self._setting(budget, own, _Place("settings", n)) for n, own in enumerate(given, 1)]
        head = {key: value for key, value in self.data.items() if key != "budget"}
        suite: Suite = self._valid(Suite, head | {"settings": settings}, _Place())
        if (found := fault(suite)) is not None:
            raise ValueError(f"{self._where(_Place('settings', found[0] + 1), 'task')}: {found[1]}")
        return suite

    def _setting(self, budget: dict[str, Any], own: dict[str, Any], place: _Place) -> dict[str, Any]:
        self._check_keys(own, OWN, place)
        whole = budget | own
        for key in REQUIRED:
            if key not in whole:
                where = "" if key == "task" else " there, or under [budget] for all"
                raise ValueError(
                    f"{self._where(place)}: {key} is missing; write {key} = {RULES[key][1]}{where}"
                )
        self._valid(Setting, whole, place)
        return whole

    def _check_keys(self, table: Mapping[str, Any], known: Sequence[str], place: _Place) -> None:
        for key in table:
            if key not in known:
                raise ValueError(
                    f"{self._where(place, key)}: unknown key {printable(key)!r}{near(key, known)}; there are "
                    f"{', '.join(known)}"
                )

    def _valid(self, kind: type[BaseModel], data: dict[str, Any], place: _Place) -> Any:
        try:
            # As JSON, where nothing is converted but lists to tuples; a date, which it lacks, is no text.
            text = json.dumps(data, default=lambda value: [str(value)])
            return kind.model_validate_json(text, strict=True)
        except ValidationError as error:
            key = str(error.errors()[0]["loc"][0])
            if key in data:
                raise self._refusal(key, data[key], place) from None
            raise ValueError(
                f"{self._where(place)}: {key} is missing; write {key} = {RULES[key][1]}"
            ) from None

    def _refusal(self, key: str, value: Any, place: _Place) -> ValueError:
        shown, (rule, example) = printable(repr(value)), RULES[key]
        shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
        return ValueError(
            f"{self._where(place, key)}: {key} = {shown} is refused; write {rule}, such as {key} = {example}"
        )

    def _where(self, place: _Place, key: str | None = None) -> str:
        """The file, the line where one is known, and the number of the setting."""
        line = self._line(place, key) if self.plain else None
        setting = f", setting {place.number}" if place.table == "settings" else ""
        return f"{self.path}{f', line {line}' if line else ''}{setting}"

    def _line(self, place: _Place, key: str | None) -> int | None:
        """Of the key, counted from 1, else of the header of its table."""
        starts = [line for line, name in self.headers if name == place.table] if place.table else [-1]
        if len(starts) < place.number:
            return None
        start = starts[place.number - 1]
        end = next((line for line, _ in self.headers if line > start), len(self.lines))
        for line in range(start + 1, end) if key else ():
            if re.match(rf"\s*[\"']?{re.escape(key or '')}[\"']?\s*=", self.lines[line]):
                return line + 1
        headed = (line + 1 for line, name in self.headers if not place.table and name == key)
        return next(headed, start + 1) or None


def write(suite: Suite) -> str:
    """What most settings have in common is their budget; each says what it has of its own."""
    rows = [setting.model_dump() for setting in suite.settings]
    budget = {key: Counter(row[key] for row in rows).most_common(1)[0][0] for key in OWN[1:]}
    head = {key: getattr(suite, key) for key in HEAD if key not in ("budget", "settings")}
    parts = [_table(head), f"[budget]\n{_table(budget)}"]
    for row in rows:
        own = {key: row[key] for key in budget if row[key] != budget[key]}
        parts.append(f"[[settings]]\n{_table({'task': row['task']} | own)}")
    return "\n".join(parts)


def _table(values: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):  # TOML escapes as JSON does, and one more character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
