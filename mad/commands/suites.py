"""The command `mad suites`: what is asked in each, and a suite as a file to begin one's own with."""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Annotated

from mad import terminal
from mad.commands.flags import argument, option
from mad.messages import counted, printable, say

if TYPE_CHECKING:
    from mad.data.protocol import Suite


def suites(
    name: Annotated[
        str | None, argument("A suite, quick or quick@1, a file, or module:NAME; default all.", "[SUITE]")
    ] = None,
    format: Annotated[str, option("table; or toml, a file to begin your own with.")] = "table",
) -> None:
    """List the suites, or show one: settings, grid, budget, seeds."""
    from mad.data.protocol import get_suite

    if format not in ("table", "toml"):
        raise ValueError(f"format {format!r} is not one of table, toml")
    if name is None and format == "toml":
        raise ValueError("--format toml writes one suite; name it: mad suites quick --format toml")
    if name is None:
        _list()
    elif format == "toml":
        suite = get_suite(name)
        sys.stdout.write(f"# {suite.label}. A suite of your own has a name of its own.\n{suite.toml()}")
    else:
        _show(get_suite(name))


def _list() -> None:
    from mad.data.protocol import known_suites

    table = terminal.new_table("suite", "what it is for", numbers=("settings", "seeds", "runs", "steps"))
    for suite in known_suites().values():
        counts = (len(suite.settings), suite.seeds, suite.runs, suite.steps)
        table.add_row(*map(printable, (suite.label, suite.about)), *(f"{count:,}" for count in counts))
    terminal.console().print(table, markup=False)
    say(
        "\nRuns and steps: of one architecture. A bare name is the newest version. To make your own, write\n"
        "`mad suites quick --format toml` into mine.toml, change it, and say --suite mine.toml."
    )


def _show(suite: Suite) -> None:
    console = terminal.console()
    console.print(f"{suite.label}  {printable(suite.about)}", markup=False, style="bold", soft_wrap=True)
    console.print(
        f"width {suite.dim}, {counted(suite.seeds, 'seed')}; {counted(suite.runs, 'run')} with "
        f"{suite.steps:,} steps in all for an architecture\n",
        soft_wrap=True,
    )
    numbers = ("examples", "epochs", "batch", "steps per run", "learning rates", "weight decays")
    table = terminal.new_table("", "task", numbers=numbers)
    for place, setting in enumerate(suite.settings, 1):
        counts = (setting.train_examples, setting.epochs, setting.batch_size, setting.steps)
        axes = (setting.lrs, setting.weight_decays)
        grid = (", ".join(f"{value:g}" for value in values) for values in axes)
        table.add_row(str(place), printable(setting.task), *(f"{count:,}" for count in counts), *grid)
    console.print(table, markup=False)
    console.print("")
    for checked, places in _checked(suite).items():
        where = "" if len(places) == len(suite.settings) else f"settings {', '.join(map(str, places))}: "
        console.print(f"{where}{checked}", soft_wrap=True)


def _checked(suite: Suite) -> dict[str, list[int]]:
    """How runs are evaluated, each with the settings of which it holds."""
    found: dict[str, list[int]] = defaultdict(list)
    for place, setting in enumerate(suite.settings, 1):
        times, rows = counted(setting.evaluations, "evaluation"), f"{setting.validation_examples:,}"
        found[f"{times} on {rows} validation rows, scored on {setting.test_examples:,} test rows"].append(
            place
        )
    return found
