"""The columns of the leaderboard; a new one is an entry here."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

import synthetic_tasks
from mad.score import ArchitectureScore, Scores

SHORT_ID = 12


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
    percent  a fraction, which is shown in percent: a score, of which more is better
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
    percent: bool = False

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
    """The label, with a mark where the row came with the package, is stale or lacks tasks."""
    complete = sum(task.complete for task in row.tasks.values())
    marks = ["ref"] if row.reference == row.runs else []
    marks += ["stale"] if row.stale else []
    marks += [] if row.complete else [f"{complete}/{len(scores.tasks)} tasks"]
    return f"{row.label} ({', '.join(marks)})" if marks else row.label


def _with_interval(row: ArchitectureScore, scores: Scores) -> str:
    value = f"{percent(row.mad.value if row.mad else None):>5}"
    return f"{value} +-{percent(row.mad.half)}" if row.mad else value


def _ids(row: ArchitectureScore) -> str:
    """As short as git shows them, and as `mad show` reads them."""
    settings = (setting for task in row.tasks.values() for setting in task.settings)
    return " ".join(id[:SHORT_ID] for setting in settings for id in setting.ids)


def columns(tasks: Collection[str], *, mean: str = "MAD") -> list[Column]:
    """Every column of a board with these tasks, in the order of all formats; their mean is called so."""
    overall, *bounds = _estimate(
        "mad" if mean == "MAD" else "mean",
        f"the {'MAD score: the ' * (mean == 'MAD')}mean of the tasks, from 0 to 1",
    )
    overall = replace(overall, heading=f"  {mean}", text=_with_interval, left=True)  # padded to its numbers
    scores, ends = [], []
    known = synthetic_tasks.names()
    for task in tasks:
        score, *interval = _estimate(task, "the score of this task, the mean of its settings", task)
        heading = synthetic_tasks.get(task).heading if task in known else ""
        scores.append(replace(score, heading=heading or task, wraps=not heading))
        ends += interval
    return [*FIRST, overall, *bounds, *scores, *ends, *LAST]


def columns_of(scores: Scores) -> list[Column]:
    """Every column of this board."""
    return columns(scores.tasks, mean=scores.mean)


def _estimate(name: str, about: str, task: str | None = None) -> list[Column]:
    """The columns of a task's score, or of the MAD score: the value and the ends of its interval."""

    def part(which: str) -> Callable[[ArchitectureScore], float | None]:
        return lambda row: getattr(row.mad if task is None else row.tasks.get(task), which, None)

    end = f"end of the 95 % interval of `{name}`"
    return [
        Column(name, about, "float64", spell=percent, value=part("value"), percent=True),
        Column(f"{name}_low", f"the lower {end}", "float64", value=part("low"), percent=True),
        Column(f"{name}_high", f"the upper {end}", "float64", value=part("high"), percent=True),
    ]


def _how(name: str, about: str) -> Column:
    """How a score was computed: shown only where it differs between rows."""
    return Column(name, about, heading=name, shown=lambda scores, iso: len(_values(scores, name)) > 1)


def _values(scores: Scores, name: str) -> set[Any]:
    return {getattr(row, name) for row in scores.architectures}


def _size(name: str, heading: str, about: str, goal: str, *, equal: bool) -> Column:
    """A size, shown where the sizes of this goal were made equal, or where not."""
    number: Literal["Int64", "float64"] = "float64" if name == "flops_per_token" else "Int64"
    return Column(name, about, number, heading, short, shown=lambda scores, iso: (goal in iso) == equal)


FIRST = [
    Column(
        "rank",
        "1 + the number of ranked rows whose interval lies wholly above; stale rows and those that lack a "
        "task have none",
        "Int64",
        "#",
        lambda rank: "-" if rank is None else str(rank),
    ),
    Column(
        "architecture",
        "the label or the name of a preset that was typed, else the canonical spec",
        heading="architecture",
        value=lambda row: row.label,
        text=name_of,
        wraps=True,
        left=True,
    ),
    Column("given", "what was typed"),
    Column("spec", "the canonical spec, after the model options that differ from their default"),
    Column("family", "attention, recurrence, convolution, hybrid, none, or own: what mixes time"),
    _how("precision", "of the arithmetic"),
    _how("backend", "of the layers"),
    _how("compile", "whether torch.compile was used"),
    _size("params", "params", "parameters", "params", equal=False),
    _size("core_params", "core", "parameters without embedding and readout", "params", equal=True),
    _size("flops_per_token", "FLOPs", "forward FLOPs per token", "flops", equal=True),
    _size("state", "state", "state elements with the tails of convolutions", "state", equal=False),
    _size("nominal_state", "nominal", "state elements as iso-state counts them", "state", equal=True),
]
LAST = [
    Column("seeds", "the smallest number of seeds of a setting", "Int64"),
    Column("runs", "how many the row is made of", "Int64"),
    Column("imported", "runs that came out of a file", "Int64"),
    Column("reference", "runs that came with the package", "Int64"),
    Column(
        "interval",
        "`seeds`: bootstrap over seeds; `rows`: binomial over test rows of one seed",
        value=lambda row: row.interval_kind,
    ),
    Column("stale", "whether a layer in it has a newer version by now"),
    Column("ids", "the runs that were chosen, of each setting and seed: `mad show ID`", value=_ids),
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
