"""The leaderboard: scores as a table for a terminal, Markdown, CSV or JSON.

A score stands between the chance and the ceiling of its task, which are printed below it, and the MAD score
carries its interval: a solved or capped task cannot pose as quality, nor noise as progress.
"""

from __future__ import annotations

import dataclasses
import difflib
import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from mad.messages import counted, printable
from mad.score import ArchitectureScore, Scores
from mad.score.interval import average

if TYPE_CHECKING:
    import pandas

WIDTH = 100
# Headings that let the six tasks fit a terminal; a task without one keeps its name.
HEADINGS = {
    "in-context-recall": "recall",
    "noisy-in-context-recall": "noisy",
    "fuzzy-in-context-recall": "fuzzy",
    "selective-copying": "copying",
    "compression": "compr.",
    "memorization": "memor.",
}
# What `--iso` makes equal: the heading of its column, where its number is, and what that counts.
EQUAL = {
    "params": ("core", "core_params", "parameters without embedding and readout"),
    "flops": ("FLOPs", "flops_per_token", "forward FLOPs per token"),
    "state": ("nominal", "nominal_state", "state elements as iso-state counts them"),
    "total-state": ("state", "state", "state elements with the tails of convolutions"),
}
# Columns that are read from the left; "MAD" is padded to its numbers.
LEFT = ("architecture", "  MAD")
WHO = ("given", "spec", "precision", "backend", "compile")
WHOLE = ("params", "core_params", "state", "nominal_state", "seeds", "imported")
# How a spreadsheet tells a formula, in narrow and in wide signs.
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
INTERVALS = {"seeds": "bootstrap over seeds", "rows": "binomial over test rows of one seed"}


def frame(scores: Scores) -> pandas.DataFrame:
    """One row an architecture, best first. Scores are fractions from 0 to 1, NaN where there is none."""
    import pandas

    names = ("mad", *scores.tasks, *(f"{task}_{end}" for task in scores.tasks for end in ("low", "high")))
    columns = [
        "rank",
        "architecture",
        *WHO,
        "params",
        "core_params",
        "flops_per_token",
        "state",
        "nominal_state",
    ]
    columns += [
        "mad",
        "mad_low",
        "mad_high",
        *names[1:],
        "seeds",
        "imported",
        "interval",
        "stale",
        "missing",
        "notes",
    ]
    table = pandas.DataFrame([_cells(row, scores.tasks) for row in scores.architectures], columns=columns)
    numbers = dict.fromkeys([*names, "mad_low", "mad_high", "flops_per_token"], "float64")
    # A pandas integer can be missing without becoming a float.
    return table.astype(numbers | dict.fromkeys(["rank", *WHOLE], "Int64"))


def render(
    scores: Scores,
    format: str = "table",
    *,
    width: int = WIDTH,
    color: bool = False,
    iso: Collection[str] = (),
) -> str:
    """The leaderboard as text: "table", "md", "csv" or "json". `width` and `color` matter to "table" only.

    iso  sizes that were made equal, of EQUAL: the table and Markdown show them in place of all parameters and
         of the measured state; the other formats have every size
    """
    for name in iso:
        if name not in EQUAL:
            close = difflib.get_close_matches(name, list(EQUAL), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"unknown size {name!r}{hint}; choose from {', '.join(EQUAL)}")
    formats: dict[str, Callable[[], str]] = {
        "table": lambda: _table(scores, width, color, iso),
        "md": lambda: _markdown(scores, iso),
        "csv": lambda: str(frame(scores).map(_cell).to_csv(index=False)),
        "json": lambda: _json(scores),
    }
    if format not in formats:
        close = difflib.get_close_matches(format, list(formats), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown format {format!r}{hint}; choose one of {', '.join(formats)}")
    return formats[format]()


def _cell(value: Any) -> Any:
    """A cell of CSV; an apostrophe keeps a spreadsheet from running what begins as a formula."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text


def _cells(row: ArchitectureScore, tasks: tuple[str, ...]) -> dict[str, Any]:
    estimates = {"mad": row.mad} | {task: row.tasks.get(task) for task in tasks}
    cells = {name: getattr(row, name) for name in ("rank", *WHO, *WHOLE, "flops_per_token", "stale")}
    for name, estimate in estimates.items():
        cells[name] = estimate and estimate.value
        cells[f"{name}_low"] = estimate and estimate.low
        cells[f"{name}_high"] = estimate and estimate.high
    words = {"missing": "; ".join(row.missing), "notes": "; ".join(row.notes), "interval": row.interval_kind}
    return cells | words | {"architecture": row.label}


def _json(scores: Scores) -> str:
    content = dataclasses.asdict(scores)
    return json.dumps(content, indent=1, allow_nan=False, default=lambda cost: cost.model_dump()) + "\n"


@dataclass(frozen=True)
class _Sheet:
    """What the table and Markdown show: the text of every cell, and the lines below."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bounds: tuple[tuple[str, ...], ...]
    lines: tuple[str, ...]


def _sheet(scores: Scores, iso: Collection[str]) -> _Sheet:
    rows = scores.architectures
    # How it was computed is shown only where it differs between rows.
    how = [
        name for name in ("precision", "backend", "compile") if len({getattr(row, name) for row in rows}) > 1
    ]
    equal = {name: EQUAL[name][:2] for name in EQUAL if name in iso}
    flops = [equal["flops"]] if "flops" in equal else []
    sizes = [equal.get("params", ("params", "params")), *flops, equal.get("state", ("state", "state"))]

    def bound(name: str, values: Mapping[str, float]) -> tuple[str, ...]:
        each = [values.get(task) for task in scores.tasks]
        known = [value for value in each if value is not None]
        mean = average(known) if len(known) == len(each) else None
        return (
            "",
            name,
            *("" for _ in (*how, *sizes)),
            f"{_percent(mean):>5}",
            *(_percent(value) for value in each),
        )

    found = _Sheet(
        headings=(
            "#",
            "architecture",
            *how,
            *(heading for heading, _ in sizes),
            "  MAD",
            *(HEADINGS.get(task, task) for task in scores.tasks),
        ),
        rows=tuple(
            (
                str(row.rank),
                _name(row, scores),
                *(str(getattr(row, name)) for name in how),
                *(_short(getattr(row, name)) for _, name in sizes),
                _mad(row),
                *(_percent(row.tasks[task].value if task in row.tasks else None) for task in scores.tasks),
            )
            for row in rows
        ),
        bounds=(bound("chance", scores.chance), bound("ceiling", scores.ceiling)),
        lines=tuple(map(printable, _lines(scores, iso))),
    )
    # Records come from other machines too: nothing in them is shown but what can be read.
    return replace(found, rows=tuple(tuple(map(printable, row)) for row in found.rows))


def _lines(scores: Scores, iso: Collection[str]) -> Iterator[str]:
    rows = scores.architectures
    seeds = sorted({row.seeds for row in rows if row.mad})
    count = (
        f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else counted(seeds[0] if seeds else 0, "seed")
    )
    kinds = dict.fromkeys(row.interval_kind for row in rows if row.mad)
    yield (
        f"{scores.suite}, protocol {scores.protocol}: {scores.metric} accuracy in %, {count}. "
        f"+- is half of the 95 % interval ({', or '.join(INTERVALS[kind] for kind in kinds) or 'none yet'}); "
        "ranks tie where intervals overlap."
    )
    if iso:
        told = (f"{heading}, {counts}" for name, (heading, _, counts) in EQUAL.items() if name in iso)
        yield f"Sizes shown: {'; '.join(told)}."
    for row in rows:
        said = [*([f"missing {_missing(row, scores)}"] if row.missing else []), *row.notes]
        if said:
            yield f"{_name(row, scores)}: {'; '.join(said)}."


def _missing(row: ArchitectureScore, scores: Scores) -> str:
    """The runs that lack, or where they are many, the settings by task."""
    if len(row.missing) <= 3:
        return ", ".join(row.missing)
    wanted = {task: len(settings) for task, settings in scores.settings.items()}
    found = {task: len(row.tasks[task].settings) if task in row.tasks else 0 for task in wanted}
    lacking = [
        f"{task} (has {found[task]} of {wanted[task]})" for task in wanted if found[task] < wanted[task]
    ]
    return ", ".join(lacking) or f"{counted(len(row.missing), 'group')} of further seeds"


def _table(scores: Scores, width: int, color: bool, iso: Collection[str]) -> str:
    from rich.box import Box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not scores.architectures:
        return _nothing(scores)
    sheet = _sheet(scores, iso)
    rule = Box("    \n    \n -- \n    \n    \n -- \n    \n    \n", ascii=True)
    table = Table(box=rule, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for heading in sheet.headings:
        wraps = heading == "architecture" or heading in scores.tasks
        justify: Literal["left", "right"] = "left" if heading in LEFT else "right"
        table.add_column(Text(heading), justify=justify, no_wrap=not wraps, overflow="fold")
    for i, row in enumerate(sheet.rows):
        table.add_row(*map(Text, row), end_section=i == len(sheet.rows) - 1)
    for row in sheet.bounds:
        table.add_row(*map(Text, row), style="dim")
    # Records come from other machines too: nothing in them is read as markup, an emoji code or a link.
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
    )
    console.print(table)
    for line in sheet.lines:
        console.print(Text(line), style="dim")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    return text if color else "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def _markdown(scores: Scores, iso: Collection[str]) -> str:
    if not scores.architectures:
        return _nothing(scores)
    sheet = _sheet(scores, iso)
    escaped = [[_escaped(cell).replace("|", "\\|") for cell in row] for row in (sheet.headings, *sheet.rows)]
    dim = [[f"*{cell.strip()}*" if cell else "" for cell in row] for row in sheet.bounds]
    marks = [":--" if heading in LEFT else "--:" for heading in sheet.headings]
    grid = "\n".join(f"| {' | '.join(row)} |" for row in (escaped[0], marks, *escaped[1:], *dim))
    return f"{grid}\n\n" + "\n\n".join(map(_escaped, sheet.lines)) + "\n"


def _escaped(text: str) -> str:
    """Markdown lets HTML through."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _nothing(scores: Scores) -> str:
    suite, protocol = (label.partition("@")[0] for label in (scores.suite, scores.protocol))
    return (
        f"No run of {scores.suite} under protocol {scores.protocol} is stored yet. "
        f'Make some: mad bench "2*(hyena swiglu)" --suite {suite} --protocol {protocol}\n'
    )


def _name(row: ArchitectureScore, scores: Scores) -> str:
    label = row.label
    complete = sum(task.complete for task in row.tasks.values())
    marks = ["stale"] if row.stale else []
    marks += [] if row.complete else [f"{complete}/{len(scores.tasks)} tasks"]
    return f"{label} ({', '.join(marks)})" if marks else label


def _mad(row: ArchitectureScore) -> str:
    value = f"{_percent(row.mad.value if row.mad else None):>5}"
    return f"{value} +-{_percent(row.mad.half)}" if row.mad else value


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _short(number: float | None) -> str:
    """Three digits or so: 950, 4.1k, 412k, 1.2M."""
    if number is None:
        return "-"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.0f}{unit}" if number >= 99.95 * size else f"{number / size:.1f}{unit}"
    return f"{number:.0f}"
