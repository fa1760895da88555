"""The command `mad doctor`: what is here, what of it runs, and what repairs the rest."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from mad import terminal
from mad.commands.flags import option
from mad.messages import brief, say

if TYPE_CHECKING:
    from mad.trust.doctor import Finding

STYLES = {"ok": "green", "missing": "dim", "warning": "yellow", "broken": "bold red"}


def doctor(
    patience: Annotated[float, option("Seconds that what is tried has in all.")] = 20.0,
    as_json: Annotated[bool, option("Print the findings as JSON.", "--json")] = False,
) -> None:
    """Look at this machine: versions, store, and what runs, with the command that repairs each thing.

    Nothing is installed or changed. Exit status 1 where the suite does not run.
    """
    from mad.trust.doctor import diagnose, runs_here

    with Console(stderr=True).status("trying what runs here"):
        findings = diagnose(patience=patience)
    runs = runs_here(findings)
    if as_json:
        content = {"runs": runs, "findings": [dataclasses.asdict(finding) for finding in findings]}
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
    else:
        _show(findings, runs)
    if not runs:
        raise typer.Exit(1)


def _show(findings: list[Finding], runs: bool) -> None:
    table = terminal.new_table("", "", "what was seen")
    section = ""
    for finding in findings:
        if section and finding.section != section:
            table.add_row()
        section = finding.section
        seen = Text(brief(finding.seen))
        if finding.remedy:
            seen.append(f"\n{brief(finding.remedy)}", style="bold")
        table.add_row(Text(finding.name), Text(finding.state, style=STYLES[finding.state]), seen)
    terminal.console().print(table)
    broken = [finding.name for finding in findings if finding.state == "broken"]
    what = f"; broken: {', '.join(broken)}" if broken else ""
    say(f"\nThe suite {'runs' if runs else 'does not run'} here{what}. Commands under a finding repair it.\n")
