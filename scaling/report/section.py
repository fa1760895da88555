"""One result, made in one place: what it says as text, what it holds as JSON, and what a page shows of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from scaling.laws.runs.cleaning import NotIdentified
from scaling.laws.runs.doubts import SERIOUS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Table:
    """Floats are written with four digits, NaN as "-"; as text, NAME_low and NAME_high stand behind NAME."""

    caption: str
    frame: pd.DataFrame


@dataclass(frozen=True)
class Listing:
    """Sentences under a heading; nothing where there are none."""

    heading: str
    sentences: Sequence[str]


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
    text      what a command prints, in order
    data      what a command prints as JSON
    why       why there is no result, in place of all else
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


def unidentified(title: str, error: NotIdentified, name: str = "") -> Section:
    """The reason in the place of a result."""
    return Section(
        name=name,
        title=title,
        text=(f"{title}: not identified: {error}",),
        data={"status": "not identified", "reason": str(error)},
        why=str(error),
    )


def stacked(parts: Sequence[Section]) -> tuple[Table, ...]:
    """The tables of sections that have the same ones, each with the rows of all."""
    return tuple(
        Table(tables[0].caption, pd.concat([table.frame for table in tables], ignore_index=True))
        for tables in zip(*(part.tables for part in parts), strict=True)
    )


def about_table(notes: Sequence[str]) -> Listing:
    """Notes on the table of runs, the serious ones first."""
    return Listing("about the table:", sorted(notes, key=lambda note: not note.startswith(SERIOUS)))
