"""The command `mad verify`: stored or exported runs, run again."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from mad import terminal
from mad.commands.flags import StoreOption, argument, option
from mad.messages import brief

if TYPE_CHECKING:
    from mad.trust.verdicts import Verdict

STYLES = {"bit for bit": "green", "within noise": "green", "does not reproduce": "bold red"}


def verify(
    source: Annotated[
        str, argument("A file that `mad export` wrote, or the id of a stored run.", "FILE|RUN")
    ],
    sample: Annotated[
        int | None, option("Only so many runs, drawn so that each architecture is as likely.")
    ] = None,
    seed: Annotated[int, option("Of that draw.")] = 0,
    store: StoreOption = None,
    allow_code: Annotated[
        bool, option("Run records that name package.module:Class, too: imports it.", "--allow-code")
    ] = False,
) -> None:
    """Run records again, and say of each whether it reproduces. Exit status 1 where one does not."""
    from mad import api

    verdicts = api.verify(source, sample=sample, seed=seed, store=store, allow_code=allow_code, progress=True)
    _show(verdicts)
    if any(verdict.outcome == "does not reproduce" for verdict in verdicts):
        raise typer.Exit(1)


def _show(verdicts: list[Verdict]) -> None:
    table = terminal.new_table("run", "architecture", "task", numbers=("claimed", "here"))
    table.add_column("", overflow="fold")
    for verdict in verdicts:
        record = verdict.record
        here = verdict.found[0] if verdict.found else None
        numbers = ("-" if value is None else f"{value:.4f}" for value in (verdict.claimed, here))
        said = Text(verdict.outcome, style=STYLES.get(verdict.outcome, "dim"))
        if verdict.why:
            said.append(f": {brief(verdict.why)}", style="default")
        name = brief(record.config.architecture.label)
        table.add_row(record.id[:8], Text(name), Text(brief(record.subject)), *numbers, said)
    console = terminal.console()
    console.print(table)
    counts = Counter(verdict.outcome for verdict in verdicts)
    console.print(f"\n{', '.join(f'{count} {outcome}' for outcome, count in counts.items())}")
