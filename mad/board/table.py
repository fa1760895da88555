"""The leaderboard: scores as a table for a terminal, Markdown, CSV or JSON.

A score stands between the chance and the ceiling of its task, which are printed below it, and the MAD score
carries its interval: a solved or capped task cannot pose as quality, nor noise as progress.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from mad.board.caption import caption, remarks
from mad.board.cells import as_cell
from mad.board.columns import EQUAL, Column, columns_of, percent
from mad.messages import near, printable
from mad.score import Scores
from mad.score.interval import average

if TYPE_CHECKING:
    import pandas

Cells = list[list[str]]

WIDTH = 100
FORMATS = ("table", "md", "csv", "json")


def frame(scores: Scores) -> pandas.DataFrame:
    """One row per architecture, best first; the columns are those of `mad.board.columns`. Scores are
    fractions from 0 to 1, NaN where there is none.
    """
    import pandas

    found = columns_of(scores)
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
        return str(frame(scores).map(as_cell).to_csv(index=False))
    if format == "json":
        content = dataclasses.asdict(scores)
        return json.dumps(content, indent=1, allow_nan=False, default=lambda cost: cost.model_dump()) + "\n"
    if not scores.architectures:
        return _nothing(scores)
    shown = [column for column in columns_of(scores) if column.heading and column.shown(scores, iso)]
    # Records come from other machines too: nothing in them is shown but what can be read.
    rows = [[printable(column.cell(row, scores)) for column in shown] for row in scores.architectures]
    bounds = list(_bounds(scores, shown))
    lines = [printable(line) for line in (*caption(scores, iso), *remarks(scores))]
    if format == "md":
        return _markdown(shown, rows, bounds, lines)
    # Among many that came with the package one's own are looked for.
    own = {i for i, row in enumerate(scores.architectures) if scores.reference and row.reference < row.runs}
    return _table(shown, rows, bounds, lines, own, width, color)


def _bounds(scores: Scores, shown: Iterable[Column]) -> Iterator[list[str]]:
    """The rows below the others: what chance and perfection score, and how much each task separates."""
    asked = len(scores.tasks)
    for name, values in (("chance", scores.chance), ("ceiling", scores.ceiling)):
        mean = average(values.values()) if len(values) == asked else None
        cells = {task: percent(values.get(task)) for task in scores.tasks}
        cells |= {"architecture": name, "mad": f"{percent(mean):>5}", "mean": f"{percent(mean):>5}"}
        yield [cells.get(column.name, "") for column in shown]
    known = {task: value for task, value in scores.signal.items() if value is not None}
    if known:
        cells = {"architecture": "signal", **{task: f"{value:.1f}" for task, value in known.items()}}
        yield [cells.get(column.name, "") for column in shown]


def _table(
    shown: list[Column],
    rows: Cells,
    bounds: Cells,
    lines: list[str],
    own: Collection[int],
    width: int,
    color: bool,
) -> str:
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
        table.add_row(*map(Text, row), style="bold" if i in own else None, end_section=i == len(rows) - 1)
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
    # One that is not ours is named by its file or module, which is not told here.
    how = f"--suite {suite} --protocol {protocol}"
    how = f"--protocol {protocol}, with --suite as here" if "+" in scores.suite else how
    return (
        f"No run of {scores.suite} under protocol {scores.protocol} is stored yet. "
        f'Make some: mad bench "2*(hyena swiglu)" {how}\n'
    )
