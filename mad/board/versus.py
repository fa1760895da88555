"""A comparison of two architectures as text: a table for a terminal, Markdown, CSV or JSON."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator, Sequence

from mad.board.cells import as_cell, as_markdown
from mad.board.columns import percent, short
from mad.board.table import FORMATS, WIDTH
from mad.messages import counted, near, printable
from mad.score.comparison import Comparison, Contestant, SettingComparison
from mad.score.verdict import title

HEADINGS = ("", "A", "B", "A - B", "p", "lr A", "lr B", "seeds", "to separate")
NEEDS = {"": "", "rows": "test rows", "seed": "2 seeds", "more": ">1000 seeds", "equal": "equal"}


def render(found: Comparison, format: str = "table", *, width: int = WIDTH, color: bool = False) -> str:
    """The comparison as "table", "md", "csv" or "json"; `width` and `color` matter to "table" only."""
    if format not in FORMATS:
        said = f"unknown format {format!r}{near(format, FORMATS)}"
        raise ValueError(f"{said}; choose one of {', '.join(FORMATS)}")
    if format == "csv":
        return str(found.frame().map(as_cell).to_csv(index=False))
    if format == "json":
        content = dataclasses.asdict(found) | {"verdict": found.verdict}
        return json.dumps(content, indent=1, allow_nan=False) + "\n"
    rows = [[printable(cell) for cell in row] for row in _rows(found)]
    if format == "md":
        return _markdown(found, rows)
    return _table(found, rows, width, color)


def _rows(found: Comparison) -> Iterator[list[str]]:
    for s in found.settings:
        yield [
            title(found, s),
            percent(s.a),
            percent(s.b),
            _difference(s.difference, s.low, s.high),
            f"{_probability(s.adjusted)}{' *' if s.separated else '  '}",
            _rates(s, "a_points"),
            _rates(s, "b_points"),
            _seeds(s),
            NEEDS.get(s.needs, f"{s.seeds_needed} seeds"),
        ]
    mean = found.mean
    if mean.tasks > 1:
        apart = _difference(mean.difference, mean.low, mean.high)
        mark = " *" if mean.p < 0.05 else "  "
        yield ["mean", percent(mean.a), percent(mean.b), apart, _probability(mean.p) + mark, "", "", "", ""]


def _difference(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.1f} +- {100 * (high - low) / 2:.1f}"


def _probability(p: float) -> str:
    return "<.001" if p < 0.001 else "1" if p > 0.995 else f"{p:.3f}"[1:]


def _rates(setting: SettingComparison, which: str) -> str:
    """The learning rates that the seeds chose."""
    return " ".join(dict.fromkeys(f"{lr:g}" for lr, _ in getattr(setting, which)))


def _seeds(setting: SettingComparison) -> str:
    ours, theirs = len(setting.a_seeds), len(setting.b_seeds)
    return str(ours) if ours == theirs else f"{ours}, {theirs}"


def _about(one: Contestant) -> str:
    """What an architecture costs."""
    parts = [f"rank {one.rank}"] if one.rank else []
    parts += [f"{short(one.params)} parameters"] if one.params is not None else []
    parts += [f"state {short(one.state)}"] if one.state is not None else []
    parts += [f"{short(one.flops_per_token)} FLOPs per token"] if one.flops_per_token is not None else []
    parts += [f"{one.seconds:.0f} s of training"] if one.seconds is not None else []
    return ", ".join(parts)


def _lines(found: Comparison) -> Iterator[str]:
    """Below the table: how it was counted, and what to know of it."""
    count = counted(len(found.settings), "setting")
    yield (
        f"{found.suite}, protocol {found.protocol}: {found.metric} accuracy in %; +- is half of the 95 % "
        f"interval. p is corrected for the {count} (Holm), not that of the mean; * is below .05. To "
        "separate: seeds of each that would show the observed difference with a power of 80 %."
    )
    yield from (f"{note}." for note in found.notes)
    if found.lacking:
        most = "; ".join(found.lacking[:3])
        more = f" and {counted(len(found.lacking) - 3, 'other')}" if len(found.lacking) > 3 else ""
        yield f"Not run, and so not compared: {most}{more}."
    if len({*found.a.devices, *found.b.devices}) > 1:
        ours, theirs = (", ".join(one.devices) for one in (found.a, found.b))
        yield f"Seconds are of different devices: A {ours}; B {theirs}."
    for name, one in (("A", found.a), ("B", found.b)):
        if one.notes:
            yield f"{name}: {'; '.join(one.notes)}."


def _conclusion(found: Comparison) -> str:
    """The verdict, whose A and B are explained above it."""
    return printable(found.verdict)


def _table(found: Comparison, rows: Sequence[Sequence[str]], width: int, color: bool) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for heading in HEADINGS:
        left = heading in ("", "to separate")
        table.add_column(
            Text(heading), justify="left" if left else "right", no_wrap=heading != "", overflow="fold"
        )
    for row in rows:
        table.add_row(*map(Text, row), style="bold" if row[0] == "mean" and row[-2] == "" else "")
    # Records come from other machines too: nothing in them is read as markup, an emoji code or a link.
    file = io.StringIO()
    console = Console(
        file=file,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
    )
    for name, one in (("A", found.a), ("B", found.b)):
        console.print(Text(f"{name}  {printable(one.label)}", style="bold"))
        console.print(Text(f"   {printable(_about(one))}", style="dim"))
    console.print("")
    console.print(table)
    console.print("")
    console.print(Text(_conclusion(found)))
    console.print("")
    for line in _lines(found):
        console.print(Text(printable(line), style="dim"))
    text = file.getvalue()
    return text if color else "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def _markdown(found: Comparison, rows: Sequence[Sequence[str]]) -> str:
    who = [
        f"**{name}**: {as_markdown(printable(one.label))} ({_about(one)})"
        for name, one in (("A", found.a), ("B", found.b))
    ]
    marks = [":--" if heading in ("", "to separate") else "--:" for heading in HEADINGS]
    cells = [[as_markdown(cell.strip()) for cell in row] for row in rows]
    grid = "\n".join(f"| {' | '.join(row)} |" for row in (HEADINGS, marks, *cells))
    lines = [as_markdown(printable(line)) for line in (_conclusion(found), *_lines(found))]
    return "\n\n".join([*who, grid, *lines]) + "\n"
