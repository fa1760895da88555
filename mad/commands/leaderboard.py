"""The command `mad leaderboard`: the scores of everything in a store."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mad import terminal
from mad.commands.flags import ProtocolOption, StoreOption, SuiteOption, listed


def leaderboard(
    suite: SuiteOption = "quick",
    protocol: ProtocolOption = "sound",
    store: StoreOption = None,
    format: Annotated[str, typer.Option("--format", help="table, md, csv or json.")] = "table",
    iso: Annotated[
        str,
        typer.Option(help="Show the sizes that bench --iso made equal, comma-separated: state, params."),
    ] = "",
) -> None:
    """Compare every architecture in the store."""
    from mad.api import scores_of
    from mad.board import render

    scores = scores_of(suite=suite, protocol=protocol, store=store)
    color, equal = sys.stdout.isatty(), listed(iso) or []
    sys.stdout.write(render(scores, format, width=terminal.width(), color=color, iso=equal))
