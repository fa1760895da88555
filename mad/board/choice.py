"""What of a board is shown, and in which order: a column to sort by, and conditions on columns.

A condition is a column, a sign and a value; several, joined by commas, must all hold:
"params<1e6, family=recurrence, label~hyena, mad>=80". They are compared, and never evaluated.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from mad.board.columns import Column, columns_of
from mad.messages import near
from mad.score import ArchitectureScore, Scores
from mad.score.ranks import ranked
from mad.score.signal import noise, signals

Test = Callable[[ArchitectureScore], bool]

CONDITION = re.compile(r"\s*([^\s<>=!~]+)\s*(<=|>=|!=|!~|<|>|=|~)\s*(.*?)\s*", re.DOTALL)
ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
NUMBER = re.compile(r"([+-]?[0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)([kmg]?)(%?)", re.IGNORECASE)
UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
# A comma that is in no brackets, since options of layers have some.
COMMA = re.compile(r",(?![^\[]*\])")


def sorted_by(scores: Scores, name: str) -> Scores:
    """The rows in the order of a column: scores from the best on, else from the least on; after "-" the other
    way round. What has no value is last. Ranks stay.
    """
    column = _column(name.removeprefix("-"), scores)
    falling = column.percent != name.startswith("-")
    known = [row for row in scores.architectures if column.of(row) is not None]
    rest = [row for row in scores.architectures if column.of(row) is None]
    known.sort(key=lambda row: _key(column.of(row)), reverse=falling)
    return replace(scores, architectures=(*known, *rest))


def filtered(scores: Scores, conditions: str) -> Scores:
    """The rows that meet all conditions, ranked among themselves; refuses what no row meets."""
    tests = [_test(text, scores) for text in COMMA.split(conditions)]
    rows = [row for row in scores.architectures if all(test(row) for test in tests)]
    if scores.architectures and not rows:
        raise ValueError(f"no row meets {conditions.strip()!r}{_remedy(conditions, scores)}")
    return replace(
        scores,
        architectures=tuple(ranked(rows)),
        signal=signals(rows, scores.tasks),
        noise=noise(rows),
    )


def _test(text: str, scores: Scores) -> Test:
    """Whether a row meets a condition."""
    found = CONDITION.fullmatch(text)
    if found is None or not found[3]:
        raise ValueError(
            f"condition {text.strip()!r} is not COLUMN, one of < <= > >= = != ~ !~ and a value; give such as "
            "'params<1e6', 'family=hybrid' or 'label~hyena', several joined by commas"
        )
    name, sign, value = found.groups()
    column = _column(name, scores)
    values = [column.of(row) for row in scores.architectures]
    if column.number:
        return _of_numbers(column, sign, _number(value, column, text), text)
    if any(isinstance(value, bool) for value in values):
        return _of_truth(column, sign, value, text)
    return _of_texts(column, sign, value, text)


def _of_numbers(column: Column, sign: str, value: float, text: str) -> Test:
    """A row without a value meets no condition but !=."""
    if sign in ("~", "!~"):
        raise ValueError(
            f"condition {text.strip()!r}: {column.name} is a number; compare it with < <= > >= = !="
        )
    if sign in ("=", "!="):
        return lambda row: (column.of(row) == value) == (sign == "=")
    return lambda row: (found := column.of(row)) is not None and ORDERED[sign](found, value)


def _of_truth(column: Column, sign: str, value: str, text: str) -> Test:
    wanted = TRUTH.get(value.lower())
    if wanted is None or sign not in ("=", "!="):
        raise ValueError(
            f"condition {text.strip()!r}: {column.name} is true or false; write {column.name}=true"
        )
    return lambda row: (column.of(row) == wanted) == (sign == "=")


def _of_texts(column: Column, sign: str, value: str, text: str) -> Test:
    """Upper and lower case are one."""
    if sign in ORDERED:
        raise ValueError(f"condition {text.strip()!r}: {column.name} is a text; compare it with = != ~ or !~")
    wanted = value.casefold()
    if sign in ("=", "!="):
        return lambda row: (str(column.of(row)).casefold() == wanted) == (sign == "=")
    return lambda row: (wanted in str(column.of(row)).casefold()) == (sign == "~")


def _number(text: str, column: Column, condition: str) -> float:
    """As the table shows numbers: 4.1k, 1e6, and scores in percent, of which 0.8 could mean two things."""
    found = NUMBER.fullmatch(text)
    if found is None or (found[3] and not column.percent):
        raise ValueError(
            f"condition {condition.strip()!r}: {text!r} is no number; give one such as 80, 4.1k or 1e6"
        )
    value = float(found[1]) * UNITS[found[2].lower()]
    if column.percent and not found[3] and 0 < value < 1:
        raise ValueError(
            f"condition {condition.strip()!r}: scores are in percent, as the table shows them; "
            f"give {100 * value:g}, or {text}% if that is meant"
        )
    return value / 100 if column.percent else value


def _column(name: str, scores: Scores) -> Column:
    """By its name, or its heading in the table; "label" is the row's."""
    columns = columns_of(scores)
    known = {column.heading.strip(): column for column in columns if column.heading}
    known |= {column.name: column for column in columns}
    known["label"] = known["architecture"]
    if name not in known:
        offered = [column.name for column in columns if not column.name.endswith(("_low", "_high"))]
        raise ValueError(
            f"unknown column {name!r}{near(name, known)}; choose from {', '.join(offered)}, or an end of a "
            "score's interval, such as compression_low"
        )
    return known[name]


def _key(value: Any) -> Any:
    return value.casefold() if isinstance(value, str) else value


def _remedy(conditions: str, scores: Scores) -> str:
    """What there is instead, where one condition on a text is not met by any row."""
    for text in COMMA.split(conditions):
        test, found = _test(text, scores), CONDITION.fullmatch(text)
        if found is not None and not any(map(test, scores.architectures)):
            column = _column(found[1], scores)
            values = [value for row in scores.architectures if (value := column.of(row)) not in (None, "")]
            return (
                f"; {column.name} is {_range(values, column)}" if values else f"; {column.name} is not known"
            )
    return "; leave one of the conditions out"


def _range(values: Iterable[Any], column: Column) -> str:
    """The values of a column: from the least to the greatest, or a few of the texts."""
    found = sorted(set(values), key=_key)
    if column.number:
        scale = 100 if column.percent else 1
        return f"from {scale * found[0]:g} to {scale * found[-1]:g}"
    texts = [str(value).lower() if isinstance(value, bool) else str(value) for value in found]
    return " or ".join(texts) if len(texts) <= 6 else f"one of {len(texts)}, such as {texts[0]}"
