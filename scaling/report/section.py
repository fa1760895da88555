"""One result, made in one place: what it says as text, what it holds as JSON, and what a page shows of it."""

from __future__ import annotations

import itertools
import json
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from mad.messages import printable
from scaling.laws.runs.cleaning import NotIdentified
from scaling.laws.runs.doubts import SERIOUS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 100


@dataclass(frozen=True)
class Table:
    """Floats are written with four digits, NaN as "-"; as text, NAME_low and NAME_high stand behind NAME."""

    caption: str
    frame: pd.DataFrame

    def __str__(self) -> str:
        """The caption and aligned columns."""
        names = list(map(str, self.frame.columns))
        ends = {
            name: (names.index(f"{name}_low"), names.index(f"{name}_high"))
            for name in names
            if {f"{name}_low", f"{name}_high"} <= set(names)
        }
        kept = [i for i in range(len(names)) if i not in itertools.chain(*ends.values())]
        rows = [[names[i].replace("_", " ") for i in kept]]
        for row in self.frame.astype(object).itertuples(index=False, name=None):
            rows.append([_cell(row[i], *(row[end] for end in ends.get(names[i], ()))) for i in kept])
        columns = [_aligned(list(map(printable, column))) for column in zip(*rows, strict=True)]
        lines = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
        return "\n".join([self.caption, *lines] if self.caption else lines)


def _cell(value: object, low: object = None, high: object = None) -> str:
    if pd.notna(low) and pd.notna(high):
        return f"{_cell(value)} [{_cell(low)}, {_cell(high)}]"
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4g}"
    return "-" if value is None else str(value)


def _aligned(column: list[str]) -> list[str]:
    """Cells of one width: numbers to the right, words to the left."""
    width, right = max(map(len, column)), all(map(_is_number, column[1:]))
    return [cell.rjust(width) if right else cell.ljust(width) for cell in column]


def _is_number(text: str) -> bool:
    word = text.split(" ")[0]
    try:
        float(word)
    except ValueError:
        return word in ("", "-")
    return True


@dataclass(frozen=True)
class Listing:
    """Sentences under a heading; nothing where there are none."""

    heading: str
    sentences: Sequence[str]

    def __str__(self) -> str:
        wrapped = [
            textwrap.fill(str(sentence), WIDTH, initial_indent="- ", subsequent_indent="  ")
            for sentence in dict.fromkeys(self.sentences)
        ]
        return printable("\n".join([self.heading, *wrapped]), lines=True) if wrapped else ""


@dataclass(frozen=True)
class Drawing:
    """A figure of a page, drawn when it is first needed."""

    name: str
    caption: str
    draw: Callable[[], Figure]

    @cached_property
    def figure(self) -> Figure:
        return self.draw()


@dataclass(frozen=True, kw_only=True)
class Section:
    """A result.

    name      its anchor on a page, [a-z-]
    verdicts  sentences that stand on top of the page too
    notes     further sentences
    text      what a command prints, in order, with a blank line between them
    data      what a command prints as JSON
    why       the reason for no result, in place of all else
    """

    name: str = ""
    title: str = ""
    verdicts: Sequence[str] = ()
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Drawing] = ()
    text: Sequence[str | Table | Listing] = ()
    data: Any = None
    why: str = ""

    def as_text(self) -> str:
        return "\n\n".join(filter(None, map(str, self.text)))

    def as_json(self) -> str:
        """A number that JSON has no word for is refused."""
        return json.dumps(self.data, indent=1, allow_nan=False)


def writer(format: str) -> Callable[[Section], str]:
    """The function that writes a section as "text" or "json"."""
    formats = {"text": Section.as_text, "json": Section.as_json}
    if format not in formats:
        raise ValueError(f"format {format!r} is not one of {', '.join(formats)}")
    return formats[format]


def unidentified(title: str, error: NotIdentified, name: str = "") -> Section:
    """The reason, in place of a result."""
    said, data = f"{title}: not identified: {error}", {"status": "not identified", "reason": str(error)}
    return Section(name=name, title=title, text=(said,), data=data, why=str(error))


def stacked(parts: Sequence[Section]) -> tuple[Table, ...]:
    """The tables of sections that have the same ones, each with the rows of all."""
    return tuple(
        Table(tables[0].caption, pd.concat([table.frame for table in tables], ignore_index=True))
        for tables in zip(*(part.tables for part in parts), strict=True)
    )


def about_table(notes: Sequence[str]) -> Listing:
    """Notes on the table of runs, the serious ones first."""
    return Listing("about the table:", sorted(notes, key=lambda note: not note.startswith(SERIOUS)))
