"""How a task is written: "name", "name[option=value, ...]", or a class instead of the name."""

import re
from dataclasses import fields
from typing import Any

from synthetic_tasks.registry import find, get, unknown
from synthetic_tasks.task import Task

NAME = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*|[A-Za-z][\w-]*"


def parse(text: str) -> Task:
    """Reads "name" or "name[option=value, ...]"; values are ints, floats, true, false and bare words.

    For the name there may stand "package.module:Task", a class that `@task` registers; it is imported.
    """
    position = 0
    if len(text) > 1000:
        raise ValueError(f"a task of {len(text):,} characters is refused; write at most 1,000")

    def take(pattern: str, expected: str) -> tuple[str, int]:
        nonlocal position
        start = len(text) - len(text[position:].lstrip())
        found = re.compile(pattern).match(text, start)
        if not found:
            raise ValueError(_caret(text, start, f"expected {expected}"))
        position = found.end()
        return found.group(), start

    name, start = take(NAME, "the name of a task")
    try:
        cls = find(name)
    except ValueError as error:
        if ":" in name:  # It says where to look, which is not here.
            raise
        raise ValueError(_caret(text, start, str(error))) from error
    known = [field.name for field in fields(cls)]
    options: dict[str, Any] = {}
    closing = take(r"\[|$", "'[' or the end")[0]
    while closing in ("[", ","):
        option, start = take(r"[A-Za-z]\w*", "the name of an option")
        if option not in known:
            raise ValueError(_caret(text, start, unknown(f"option of {name}", option, known)))
        if option in options:
            raise ValueError(_caret(text, start, f"{option} is given twice; give it once"))
        take("=", "'='")
        value, start = take(r"[^\s,=\[\]]+", "a value")
        options[option] = _value(text, value, start)
        closing = take(r",|\]", "',' or ']'")[0]
    if closing == "]":
        take("$", "the end")
    return get(name, **options)


def _value(text: str, word: str, start: int) -> bool | int | float | str:
    if word in ("true", "false"):
        return word == "true"
    if re.fullmatch(r"[+-]?\d+", word):
        return int(word)
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", word):
        return float(word)
    if re.fullmatch(r"[A-Za-z][\w-]*", word):
        return word
    raise ValueError(_caret(text, start, "expected a number, true, false or a word"))


def _caret(text: str, position: int, message: str) -> str:
    return f"{message}\n  {text}\n  {' ' * position}^"
