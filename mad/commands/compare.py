"""The command `mad compare`: two architectures, setting by setting."""

import sys
from typing import Annotated

from mad import terminal
from mad.commands.flags import ProtocolOption, StoreOption, SuiteOption, argument, listed, option


def compare(
    a: Annotated[str, argument("An architecture that has runs: a spec, preset or label.", "A")],
    b: Annotated[
        str | None, argument("The one to compare it with; default: the row nearest above it.", "[B]")
    ] = None,
    suite: SuiteOption = "quick",
    protocol: ProtocolOption = "sound",
    store: StoreOption = None,
    format: Annotated[str, option("table, md, csv or json.")] = "table",
    tasks: Annotated[str | None, option("Only these tasks of the suite, comma-separated.")] = None,
    reference: Annotated[
        bool, option("With the results that come with the package.", "--reference/--no-reference")
    ] = True,
) -> None:
    """Compare two architectures: how they differ, how sure that is, and what it would take to know."""
    from mad.api import compare as compared
    from mad.board.versus import render

    asked = listed(tasks)
    found = compared(a, b, suite=suite, protocol=protocol, store=store, reference=reference, tasks=asked)
    sys.stdout.write(render(found, format, width=terminal.width(), color=sys.stdout.isatty()))
