"""The command `mad leaderboard`: the scores of everything in a store."""

import sys
from typing import Annotated

from mad import terminal
from mad.commands.flags import ProtocolOption, StoreOption, SuiteOption, listed, option


def leaderboard(
    suite: SuiteOption = "quick",
    protocol: ProtocolOption = "sound",
    store: StoreOption = None,
    format: Annotated[str, option("table, md, csv or json.")] = "table",
    iso: Annotated[
        str, option("Show the sizes that bench --iso made equal, comma-separated: state, params.")
    ] = "",
    tasks: Annotated[
        str | None, option("Only these tasks of the suite and their mean, comma-separated.")
    ] = None,
    sort: Annotated[
        str | None, option("Order by this column, scores from the best on; -COLUMN the other way round.")
    ] = None,
    filter: Annotated[
        str | None, option("Rows that meet all of these: params<1e6,family=hybrid,label~hyena,mad>80.")
    ] = None,
    reference: Annotated[
        bool, option("Show the results that come with the package too.", "--reference/--no-reference")
    ] = True,
) -> None:
    """Compare every architecture in the store, and those whose results come with the package."""
    from mad.api import scores_of
    from mad.board import render
    from mad.board.choice import filtered, sorted_by

    scores = scores_of(suite=suite, protocol=protocol, store=store, reference=reference, tasks=listed(tasks))
    if filter is not None:
        scores = filtered(scores, filter)
    if sort is not None:
        scores = sorted_by(scores, sort)
    color, equal = sys.stdout.isatty(), listed(iso) or []
    sys.stdout.write(render(scores, format, width=terminal.width(), color=color, iso=equal))
