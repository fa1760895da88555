"""`mad scaling`: from budgets to runs, from runs to laws, from laws to what the synthetic scores predict."""

from __future__ import annotations

import typer

from scaling.commands.compare import compare
from scaling.commands.fit import fit
from scaling.commands.plan import plan
from scaling.commands.relate import relate
from scaling.commands.report import report
from scaling.commands.train import train

app = typer.Typer(
    help="Plan and train language models at equal compute, fit scaling laws, relate them to the scores.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for command in (plan, train, fit, compare, relate, report):
    app.command()(command)
