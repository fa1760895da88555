"""The command `mad check`: the findings on one layer, factory or task as a table, or as JSON."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from mad import terminal
from mad.commands.flags import argument, listed, option
from mad.messages import printable

if TYPE_CHECKING:
    from architectures.contract.subject import Finding

STYLES = {"passed": "green", "failed": "bold red"}


def check(
    spec: Annotated[
        str, argument("A layer or a task: module:Class or a name, options if you like; or module:factory.")
    ],
    dim: Annotated[
        int | None, option("Of a layer: width of most inputs, divisible by 16; default 64.")
    ] = None,
    compile: Annotated[
        bool, option("Of a layer: check torch.compile too; takes seconds.", "--compile")
    ] = False,
    only: Annotated[str | None, option("Only these checks, comma-separated.")] = None,
    size: Annotated[str | None, option("Of a layer: the one input to ask, batch,length,width.")] = None,
    suite: Annotated[
        str | None, option("Of a factory: the suite whose tasks it is asked on; default smoke.")
    ] = None,
    format: Annotated[str, option("table or json.")] = "table",
) -> None:
    """Test a layer, a factory or a task, your own too: causality, gradients, oracle, chance and more."""
    from mad import api

    if format not in ("table", "json"):
        raise ValueError(f"format {format!r} is not one of table, json")
    sides = _sides(size) if size is not None else None
    with Console(stderr=True).status("importing") as status:
        findings = api.check(
            spec,
            dim=dim,
            compile=compile,
            only=listed(only),
            size=sides,
            suite=suite,
            report=status.update,
        )
    if format == "json":
        sys.stdout.write(json.dumps([dataclasses.asdict(found) for found in findings], indent=2) + "\n")
    else:
        _show(spec, findings)
    if any(found.result == "failed" for found in findings):
        raise typer.Exit(1)


def _show(spec: str, findings: list[Finding]) -> None:
    """One row per check; under a failure the smallest input and the command that asks it alone."""
    table = terminal.new_table("check", "result", "what was seen")
    for found in findings:
        seen = Text(printable(found.seen, lines=True))
        if found.smallest is not None:
            size = ",".join(str(side) for side in found.smallest)
            seen.append(f"\nsmallest input: {found.smallest}")
            seen.append(f"\nagain: mad check {shlex.quote(spec)} --only {found.check} --size {size}")
        table.add_row(found.check, Text(found.result, style=STYLES.get(found.result, "dim")), seen)
    console = terminal.console()
    console.print(table)
    counts = Counter(found.result for found in findings)
    console.print(f"\n{', '.join(f'{count} {result}' for result, count in counts.items())}")


def _sides(size: str) -> tuple[int, int, int]:
    try:
        batch, length, width = (int(side) for side in size.split(","))
    except ValueError:
        raise ValueError(f"size {size!r} is not batch,length,width; write it as 2,5,64") from None
    return batch, length, width
