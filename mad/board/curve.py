"""Learning curves in plain characters, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from mad import terminal
from mad.messages import printable
from mad.score.naming import spelling

if TYPE_CHECKING:
    from mad.data.records import Record
    from mad.store.asked import Answer

HEIGHT = 16
# Columns of the numbers at the left; the least of the plot itself.
MARGIN, NARROWEST = 6, 20
CHANCE, CEILING = ".", "-"
DIM = "dim"
# The run that counts, and the others of its grid.
CHOSEN, OTHERS = "#", "abcdefghijklmnopqrstuvwxyz"
STYLES = ("cyan", "yellow", "magenta", "green", "red", "blue")


@dataclass(frozen=True)
class Line:
    """One curve: its sign, how it is coloured, and its points, steps and fractions."""

    sign: str
    style: str
    points: Sequence[tuple[int, float]]


def draw(lines: Sequence[Line], *, steps: int, chance: float, ceiling: float, width: int) -> list[Text]:
    """The curves over the steps, from 0 to 100 %, the first line on top; chance and ceiling run across."""
    columns = max(NARROWEST, width - MARGIN - 1)
    cells: dict[tuple[int, int], tuple[str, str]] = {}
    for value, sign in ((ceiling, CEILING), (chance, CHANCE)):
        cells |= {(_row(value), column): (sign, DIM) for column in range(columns)}
    for line in reversed(lines):
        for column, value in _sampled(line.points, steps, columns):
            cells[_row(value), column] = (line.sign, line.style)
    made = []
    for row in range(HEIGHT + 1):
        label = f"{100 - row * 100 / HEIGHT:.0f}" if row % (HEIGHT // 4) == 0 else ""
        text = Text(f"{label:>{MARGIN - 2}} |")
        for column in range(columns):
            text.append(*cells.get((row, column), (" ", "")))
        text.rstrip()
        made.append(text)
    end = f"{steps:,} steps"
    made.append(Text(f"{'':>{MARGIN - 2}} +{'-' * columns}"))
    made.append(Text(f"{'':>{MARGIN}}0{end:>{columns - 1}}"))
    return made


def _row(value: float) -> int:
    return round((1 - value) * HEIGHT)


def _sampled(points: Sequence[tuple[int, float]], steps: int, columns: int) -> list[tuple[int, float]]:
    """The value at each column from the first point to the last, straight between them."""
    places = [(step / max(steps, 1) * (columns - 1), value) for step, value in points]
    if not places:
        return []
    found = [(round(places[0][0]), places[0][1])]
    for (left, low), (right, high) in zip(places, places[1:], strict=False):
        for column in range(round(left) + 1, round(right) + 1):
            part = (column - left) / (right - left) if right > left else 1.0
            found.append((column, low + (high - low) * min(max(part, 0.0), 1.0)))
    return found


def show_answer(found: Answer, console: Console) -> None:
    """The curves of a group with its chance and ceiling, and what each of its runs scored."""
    runs = sorted(found.runs, key=lambda run: run.id != found.chosen)
    first, suite = runs[0], found.question.suite.label
    watched = first.config.protocol.select_on
    called = spelling(runs)
    name = called.spec if called.label == called.spec else f"{called.label} = {called.spec}"
    title = f"{name}, seed {found.seed}: {watched} accuracy in %"
    console.print(Text(printable(title)), soft_wrap=True)
    console.print(Text(printable(f"{found.question.setting.task} of {suite}")), soft_wrap=True)
    signs = [CHOSEN] if found.chosen is not None else []
    signs += [OTHERS[i % len(OTHERS)] for i in range(len(runs))]
    styles = [STYLES[i % len(STYLES)] for i in range(len(runs))]
    lines = [
        Line(sign, style, [(point.step, point.accuracy) for point in run.metrics.curve])
        for sign, style, run in zip(signs, styles, runs, strict=False)
        if run.metrics is not None
    ]
    measured = next((run.metrics for run in runs if run.metrics is not None), None)
    if measured is None or not any(line.points for line in lines):
        console.print("\nNone of its runs was evaluated while it was trained: there is no curve.")
    else:
        console.print()
        bounds = {"chance": measured.chance, "ceiling": measured.ceiling}
        for row in draw(lines, steps=first.config.steps, width=console.width, **bounds):
            console.print(row, soft_wrap=True)
        low, high = (f"{100 * value:.1f}" for value in bounds.values())
        console.print(Text(f"\n{CHANCE} chance {low}   {CEILING} ceiling {high}"))
    console.print()
    table = terminal.new_table("", "run", numbers=("lr", "decay", "test", "seconds", "status"))
    for sign, style, run in zip(signs, styles, runs, strict=False):
        table.add_row(*(Text(cell, style) for cell in (sign, *_cells(run))))
    console.print(table)
    said = [f"{CHOSEN} counts"] if found.chosen else ["runs of its grid are missing, so that none counts yet"]
    console.print(Text("; ".join((*said, *found.others))), soft_wrap=True)


def _cells(run: Record) -> list[str]:
    accuracy, _ = run.outcome
    score = "-" if accuracy is None else f"{100 * accuracy:.1f}"
    seconds = "-" if run.cost is None else f"{run.cost.seconds:.1f}"
    return [run.id[:10], f"{run.config.lr:g}", f"{run.config.weight_decay:g}", score, seconds, run.status]
