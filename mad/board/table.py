"""The leaderboard: scores as a table for a terminal, Markdown, CSV or JSON.

A score stands between the chance and the ceiling of its task, which are printed below it, and the MAD score
carries its interval: a solved or capped task cannot pose as quality, nor noise as progress.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from mad.board.columns import EQUAL, Column, columns, name_of, percent
from mad.messages import counted, near, printable
from mad.score import ArchitectureScore, Scores
from mad.score.interval import average

if TYPE_CHECKING:
    import pandas

Cells = list[list[str]]

WIDTH = 100
FORMATS = ("table", "md", "csv", "json")
# How a spreadsheet tells a formula, in narrow and in wide signs.
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
INTERVALS = {"seeds": "bootstrap over seeds", "rows": "binomial over test rows of one seed"}


def frame(scores: Scores) -> pandas.DataFrame:
    """One row per architecture, best first; the columns are those of `mad.board.columns`. Scores are
    fractions from 0 to 1, NaN where there is none.
    """
    import pandas

    found = columns(scores.tasks)
    rows = [[column.of(row) for column in found] for row in scores.architectures]
    table = pandas.DataFrame(rows, columns=[column.name for column in found])
    # A pandas integer can be missing without becoming a float.
    return table.astype({column.name: column.number for column in found if column.number})


def render(
    scores: Scores,
    format: str = "table",
    *,
    width: int = WIDTH,
    color: bool = False,
    iso: Collection[str] = (),
) -> str:
    """The leaderboard as text: "table", "md", "csv" or "json". `width` and `color` matter to "table" only.

    iso  sizes that were made equal, of `columns.EQUAL`: the table and Markdown show them in place of all
         parameters and of the measured state; the other formats have every size
    """
    for name in iso:
        if name not in EQUAL:
            raise ValueError(f"unknown size {name!r}{near(name, EQUAL)}; choose from {', '.join(EQUAL)}")
    if format not in FORMATS:
        raise ValueError(
            f"unknown format {format!r}{near(format, FORMATS)}; choose one of {', '.join(FORMATS)}"
        )
    if format == "csv":
        return str(frame(scores).map(_cell).to_csv(index=False))
    if format == "json":
        content = dataclasses.asdict(scores)
        return json.dumps(content, indent=1, allow_nan=False, default=lambda cost: cost.model_dump()) + "\n"
    if not scores.architectures:
        return _nothing(scores)
    shown = [column for column in columns(scores.tasks) if column.heading and column.shown(scores, iso)]
    # Records come from other machines too: nothing in them is shown but what can be read.
    rows = [[printable(column.cell(row, scores)) for column in shown] for row in scores.architectures]
    bounds = [_bound(name, getattr(scores, name), scores, shown) for name in ("chance", "ceiling")]
    lines = list(map(printable, _lines(scores, iso)))
    if format == "md":
        return _markdown(shown, rows, bounds, lines)
    return _table(shown, rows, bounds, lines, width, color)


def _cell(value: Any) -> Any:
    """A cell of CSV; an apostrophe keeps a spreadsheet from running what begins as a formula."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text


def _bound(name: str, values: Mapping[str, float], scores: Scores, shown: Iterable[Column]) -> list[str]:
    """The row of the tasks' chance or ceiling."""
    known = [values[task] for task in scores.tasks if task in values]
    mean = average(known) if len(known) == len(scores.tasks) else None
    cells = {task: percent(values.get(task)) for task in scores.tasks}
    cells |= {"architecture": name, "mad": f"{percent(mean):>5}"}
    return [cells.get(column.name, "") for column in shown]


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
        sizes = {column.name: f"{column.heading}, {column.about}" for column in columns(())}
        told = (sizes[column] for name, column in EQUAL.items() if name in iso)
        yield f"Sizes shown: {'; '.join(told)}."
    if scores.reference:
        made = "; ".join(scores.reference)
        yield f"(ref): a reference result, which comes with the package (made by {made})."
        if all(row.reference for row in rows):
            yield "There are no runs of your own yet: `mad bench` makes some, and they stand beside these."
    for row in rows:
        said = [*([f"missing {_missing(row, scores)}"] if row.missing else []), *row.notes]
        if said:
            yield f"{name_of(row, scores)}: {'; '.join(said)}."


def _missing(row: ArchitectureScore, scores: Scores) -> str:
    """The runs that are missing, or where they are many, the settings by task."""
    if len(row.missing) <= 3:
        return ", ".join(row.missing)
    wanted = {task: len(settings) for task, settings in scores.settings.items()}
    found = {task: len(row.tasks[task].settings) if task in row.tasks else 0 for task in wanted}
    lacking = [
        f"{task} (has {found[task]} of {wanted[task]})" for task in wanted if found[task] < wanted[task]
    ]
    return ", ".join(lacking) or f"{counted(len(row.missing), 'group')} of further seeds"


def _table(shown: list[Column], rows: Cells, bounds: Cells, lines: list[str], width: int, color: bool) -> str:
    from rich.box import Box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rule = Box("    \n    \n -- \n    \n    \n -- \n    \n    \n", ascii=True)
    table = Table(box=rule, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for column in shown:
        justify: Literal["left", "right"] = "left" if column.left else "right"
        table.add_column(Text(column.heading), justify=justify, no_wrap=not column.wraps, overflow="fold")
    for i, row in enumerate(rows):
        table.add_row(*map(Text, row), end_section=i == len(rows) - 1)
    for row in bounds:
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
    for line in lines:
        console.print(Text(line), style="dim")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    return text if color else "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def _markdown(shown: list[Column], rows: Cells, bounds: Cells, lines: list[str]) -> str:
    headings = [column.heading for column in shown]
    escaped = [[_escaped(cell).replace("|", "\\|") for cell in row] for row in (headings, *rows)]
    dim = [[f"*{cell.strip()}*" if cell else "" for cell in row] for row in bounds]
    marks = [":--" if column.left else "--:" for column in shown]
    grid = "\n".join(f"| {' | '.join(row)} |" for row in (escaped[0], marks, *escaped[1:], *dim))
    return f"{grid}\n\n" + "\n\n".join(map(_escaped, lines)) + "\n"


def _escaped(text: str) -> str:
    """Markdown lets HTML through."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _nothing(scores: Scores) -> str:
    suite, protocol = (label.partition("@")[0] for label in (scores.suite, scores.protocol))
    return (
        f"No run of {scores.suite} under protocol {scores.protocol} is stored yet. "
        f'Make some: mad bench "2*(hyena swiglu)" --suite {suite} --protocol {protocol}\n'
    )
