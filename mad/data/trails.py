"""A run as trackers show it, whatever kind of run it is: plain names and numbers, made from its record.

What is known at its start is a `Head`, each evaluation a `Row`, what came of it a `Tail`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# A point of a curve. The key that is "step", or ends with "/step", is the axis of the others.
Row = Mapping[str, float]
Cell = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a run is called, and what it was made with.

    id       the hash of its content, the same whenever and wherever it is shown
    group    the runs that belong together, and `job` what each of them does
    tags     what to filter by: suite, protocol, versions
    section  its question, by which its curve is told apart in the run that shows all of its family
    family   the head of that run; None where it has none
    """

    id: str
    name: str
    group: str
    job: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    section: str = ""
    family: Head | None = None


@dataclass(frozen=True, kw_only=True)
class Tail:
    """What came of a run: its status, its summary, the records that say so as lines of JSON, a table."""

    status: str
    summary: Mapping[str, Cell]
    records: Sequence[str]
    table: Sequence[Mapping[str, Cell]] = ()


@dataclass(frozen=True, kw_only=True)
class Trail:
    """A run from its start to its end."""

    head: Head
    rows: Sequence[Row] = field(default=())
    tail: Tail


def axis_of(row: Row) -> str:
    """The key of a row that the others are drawn over."""
    return next(key for key in row if key.rpartition("/")[2] == "step")


def known(**values: float | None) -> dict[str, float]:
    """The values that there are; a double underscore in a name stands for a slash."""
    return {name.replace("__", "/"): value for name, value in values.items() if value is not None}
