"""The columns of the leaderboard; a new one is an entry here."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

from mad.score import ArchitectureScore, Scores

# Headings that let the six tasks fit a terminal; a task without one keeps its name.
HEADINGS = {
    "in-context-recall": "recall",
    "noisy-in-context-recall": "noisy",
    "fuzzy-in-context-recall": "fuzzy",
    "selective-copying": "copying",
    "compression": "compr.",
    "memorization": "memor.",
}


@dataclass(frozen=True)
class Column:
    """One column: in Python and CSV by its name; in the table and Markdown under its heading.

    name     of the column, and of the row's field where there is no `value`
    about    what it says, for the documentation
    number   its dtype in a data frame, where it may be missing; "" for texts and marks
    heading  in the table and Markdown; "" where it is not shown there
    spell    the text of a value there; `text`: of a row, where that takes more than its value
    value    of a row; None where there is none
    shown    whether it is shown there, of the scores and of the sizes that were made equal (--iso)
    wraps    its cells may be broken there
    left     they are read from the left
    """

    name: str
    about: str
    number: Literal["Int64", "float64", ""] = ""
    heading: str = ""
    spell: Callable[[Any], str] = str
    text: Callable[[ArchitectureScore, Scores], str] | None = None
    value: Callable[[ArchitectureScore], Any] | None = None
    shown: Callable[[Scores, Collection[str]], bool] = lambda scores, iso: True
    wraps: bool = False
    left: bool = False

    def of(self, row: ArchitectureScore) -> Any:
        """The value of a row."""
        return getattr(row, self.name) if self.value is None else self.value(row)

    def cell(self, row: ArchitectureScore, scores: Scores) -> str:
        """Of the table and Markdown."""
        return self.spell(self.of(row)) if self.text is None else self.text(row, scores)


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


def name_of(row: ArchitectureScore, scores: Scores) -> str:
    """The label, with a mark where the row is stale or lacks tasks."""
    complete = sum(task.complete for task in row.tasks.values())
    marks = ["stale"] if row.stale else []
    marks += [] if row.complete else [f"{complete}/{len(scores.tasks)} tasks"]
    return f"{row.label} ({', '.join(marks)})" if marks else row.label


def _with_interval(row: ArchitectureScore, scores: Scores) -> str:
    value = f"{percent(row.mad.value if row.mad else None):>5}"
    return f"{value} +-{percent(row.mad.half)}" if row.mad else value


def columns(tasks: Collection[str]) -> list[Column]:
    """Every column of a board with these tasks, in the order of all formats."""
    scores, ends = [], []
    for task in tasks:
        heading, *interval = _estimate(task, "the score of this task, the mean of its settings", task)
        short_heading = HEADINGS.get(task, task)
        scores.append(replace(heading, heading=short_heading, wraps=short_heading == task))
        ends += interval
    return [*FIRST, *scores, *ends, *LAST]


def _estimate(name: str, about: str, task: str | None = None) -> list[Column]:
    """The columns of a task's score, or of the MAD score: the value and the ends of its interval."""

    def part(which: str) -> Callable[[ArchitectureScore], float | None]:
        return lambda row: getattr(row.mad if task is None else row.tasks.get(task), which, None)

    return [
        Column(name, about, "float64", spell=percent, value=part("value")),
        Column(
            f"{name}_low", f"the lower end of the 95 % interval of `{name}`", "float64", value=part("low")
        ),
        Column(
            f"{name}_high", f"the upper end of the 95 % interval of `{name}`", "float64", value=part("high")
        ),
    ]


def _differs(name: str) -> Callable[[Scores, Collection[str]], bool]:
    """How it was computed is shown only where it differs between rows."""
    return lambda scores, iso: len({getattr(row, name) for row in scores.architectures}) > 1


_MAD, *_MAD_ENDS = _estimate("mad", "the MAD score: the mean of the tasks, from 0 to 1")
FIRST = [
    Column("rank", "1 + the number of rows whose interval lies wholly above", "Int64", "#"),
    Column(
        "architecture",
        "the preset's name where one was typed, else the canonical spec",
        heading="architecture",
        value=lambda row: row.label,
        text=name_of,
        wraps=True,
        left=True,
    ),
    Column("given", "what was typed"),
    Column("spec", "the canonical spec, with the model options that differ from their default"),
    Column("precision", "of the arithmetic", heading="precision", shown=_differs("precision")),
    Column("backend", "of the layers", heading="backend", shown=_differs("backend")),
    Column("compile", "whether torch.compile was used", heading="compile", shown=_differs("compile")),
    Column("params", "parameters", "Int64", "params", short, shown=lambda _, iso: "params" not in iso),
    Column(
        "core_params",
        "parameters without embedding and readout",
        "Int64",
        "core",
        short,
        shown=lambda _, iso: "params" in iso,
    ),
    Column(
        "flops_per_token",
        "forward FLOPs per token",
        "float64",
        "FLOPs",
        short,
        shown=lambda _, iso: "flops" in iso,
    ),
    Column(
        "state",
        "state elements with the tails of convolutions",
        "Int64",
        "state",
        short,
        shown=lambda _, iso: "state" not in iso,
    ),
    Column(
        "nominal_state",
        "state elements as iso-state counts them",
        "Int64",
        "nominal",
        short,
        shown=lambda _, iso: "state" in iso,
    ),
    replace(_MAD, heading="  MAD", text=_with_interval, left=True),  # padded to its numbers
    *_MAD_ENDS,
]
LAST = [
    Column("seeds", "the smallest number of seeds of a setting", "Int64"),
    Column("imported", "runs that came out of a file", "Int64"),
    Column(
        "interval",
        "`seeds`: bootstrap over seeds; `rows`: binomial over test rows of one seed",
        value=lambda row: row.interval_kind,
    ),
    Column("stale", "whether a layer in it has a newer version by now"),
    Column("missing", "what was not run", value=lambda row: "; ".join(row.missing)),
    Column("notes", "what to know before trusting it", value=lambda row: "; ".join(row.notes)),
]
# What `--iso` makes equal, by the name of its column.
EQUAL = {
    "params": "core_params",
    "flops": "flops_per_token",
    "state": "nominal_state",
    "total-state": "state",
}
