"""`mad scaling`: from budgets to runs, from runs to laws, from laws to what the synthetic scores predict."""

from __future__ import annotations

import typer

from scaling.commands import laws, study

app = typer.Typer(
    help="Plan and train language models at equal compute, fit scaling laws, relate them to the scores.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for command in (study.plan, study.train, laws.fit, laws.compare, laws.relate, laws.report):
    app.command()(command)
