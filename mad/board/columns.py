"""The columns of the leaderboard; a new one is an entry here."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from mad.score import ArchitectureScore, Scores
from mad.score.interval import Estimate

# Headings that let the six tasks fit a terminal; a task without one keeps its name.
HEADINGS = {
    "in-context-recall": "recall",
    "noisy-in-context-recall": "noisy",
    "fuzzy-in-context-recall": "fuzzy",
    "selective-copying": "copying",
    "compression": "compr.",
    "memorization": "memor.",
}

Of = Callable[[ArchitectureScore], Estimate | None]
Shown = Callable[[Scores, Collection[str]], bool]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: in Python and CSV by its name; in the table and Markdown under its heading.

    about    what it says, for the documentation
    value    of a row; None where there is none
    number   the dtype in a data frame, which can be missing; "" for texts and marks
    heading  in the table and Markdown; "" where it is not shown there
    shown    whether it is shown there, of the scores and of the sizes that were made equal (--iso)
    text     a cell of it there; the row's value by default
    wraps    its cells may be broken there; `left`: they are read from the left
    """

    name: str
    about: str
    value: Callable[[ArchitectureScore], Any]
    number: Literal["Int64", "float64", ""] = ""
    heading: str = ""
    shown: Shown = lambda scores, iso: True
    text: Callable[[ArchitectureScore, Scores], str] | None = None
    wraps: bool = False
    left: bool = False

    def cell(self, row: ArchitectureScore, scores: Scores) -> str:
        """Of the table and Markdown."""
        return str(self.value(row)) if self.text is None else self.text(row, scores)


def columns(tasks: Collection[str]) -> list[Column]:
    """Every column of a board with these tasks, in the order of all formats."""
    scores = [
        _part(
            task,
            "value",
            _of_task(task),
            "the score of this task, the mean of its settings",
            heading=HEADINGS.get(task, task),
            wraps=task not in HEADINGS,
        )
        for task in tasks
    ]
    return [*FIRST, *scores, *(end for task in tasks for end in _ends(task, _of_task(task))), *LAST]


def _of_task(task: str) -> Of:
    return lambda row: row.tasks.get(task)


def _part(name: str, part: str, of: Of, about: str, **more: Any) -> Column:
    """A column that is a number of an estimate."""

    def value(row: ArchitectureScore) -> float | None:
        estimate = of(row)
        return None if estimate is None else float(getattr(estimate, part))

    def text(row: ArchitectureScore, scores: Scores) -> str:
        return percent(value(row))

    return Column(name=name, about=about, value=value, number="float64", **({"text": text} | more))


def _ends(name: str, of: Of) -> list[Column]:
    return [
        _part(f"{name}_{end}", end, of, f"the {side} end of the 95 % interval of `{name}`")
        for end, side in (("low", "lower"), ("high", "upper"))
    ]


def _field(name: str, about: str, **more: Any) -> Column:
    """A column that is a field of the row."""
    return Column(name=name, about=about, value=lambda row: getattr(row, name), **more)


def _how(name: str, about: str) -> Column:
    """How it was computed is shown only where it differs between rows."""
    return _field(
        name,
        about,
        heading=name,
        shown=lambda scores, iso: len({getattr(row, name) for row in scores.architectures}) > 1,
    )


def _size(name: str, about: str, heading: str, shown: Shown, number: str = "Int64") -> Column:
    def text(row: ArchitectureScore, scores: Scores) -> str:
        return short(getattr(row, name))

    return _field(name, about, number=number, heading=heading, shown=shown, text=text)


FIRST = [
    _field("rank", "1 + the number of rows whose interval lies wholly above", number="Int64", heading="#"),
    Column(
        name="architecture",
        about="the preset's name where one was typed, else the canonical spec",
        value=lambda row: row.label,
        heading="architecture",
        text=lambda row, scores: name_of(row, scores),
        wraps=True,
        left=True,
    ),
    _field("given", "what was typed"),
    _field("spec", "the canonical spec, with the model options that differ from their default"),
    _how("precision", "of the arithmetic"),
    _how("backend", "of the layers"),
    _how("compile", "whether torch.compile was used"),
    _size("params", "parameters", "params", lambda _, iso: "params" not in iso),
    _size("core_params", "parameters without embedding and readout", "core", lambda _, iso: "params" in iso),
    _size("flops_per_token", "forward FLOPs per token", "FLOPs", lambda _, iso: "flops" in iso, "float64"),
    _size(
        "state", "state elements with the tails of convolutions", "state", lambda _, iso: "state" not in iso
    ),
    _size(
        "nominal_state", "state elements as iso-state counts them", "nominal", lambda _, iso: "state" in iso
    ),
    _part(
        "mad",
        "value",
        lambda row: row.mad,
        "the MAD score: the mean of the tasks, from 0 to 1",
        heading="  MAD",  # padded to its numbers
        text=lambda row, scores: _mad(row),
        left=True,
    ),
    *_ends("mad", lambda row: row.mad),
]
LAST = [
    _field("seeds", "the smallest number of seeds of a setting", number="Int64"),
    _field("imported", "runs that came out of a file", number="Int64"),
    Column(
        name="interval",
        about="`seeds`: bootstrap over seeds; `rows`: binomial over test rows of one seed",
        value=lambda row: row.interval_kind,
    ),
    _field("stale", "whether a layer in it has a newer version by now"),
    Column(name="missing", about="what was not run", value=lambda row: "; ".join(row.missing)),
    Column(name="notes", about="what to know before trusting it", value=lambda row: "; ".join(row.notes)),
]
# What `--iso` makes equal, by the name of its column.
EQUAL = {
    "params": "core_params",
    "flops": "flops_per_token",
    "state": "nominal_state",
    "total-state": "state",
}


def name_of(row: ArchitectureScore, scores: Scores) -> str:
    """The label, with a mark where the row is stale or lacks tasks."""
    complete = sum(task.complete for task in row.tasks.values())
    marks = ["stale"] if row.stale else []
    marks += [] if row.complete else [f"{complete}/{len(scores.tasks)} tasks"]
    return f"{row.label} ({', '.join(marks)})" if marks else row.label


def _mad(row: ArchitectureScore) -> str:
    value = f"{percent(row.mad.value if row.mad else None):>5}"
    return f"{value} +-{percent(row.mad.half)}" if row.mad else value


def percent(value: float | None) -> str:
    """A fraction in percent with one decimal, or a dash."""
    return "-" if value is None else f"{100 * value:.1f}"


def short(number: float | None) -> str:
    """Three digits or so: 950, 4.1k, 412k, 1.2M."""
    if number is None:
        return "-"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.0f}{unit}" if number >= 99.95 * size else f"{number / size:.1f}{unit}"
    return f"{number:.0f}"
