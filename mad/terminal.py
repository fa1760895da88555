"""Consoles as wide as their terminal, and plain tables."""

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Standard output; 120 columns wide where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def errors() -> Console:
    """Standard error, for progress and remarks: text as it is, in a notebook too."""
    return Console(stderr=True, highlight=False, markup=False, force_jupyter=False)


def watched() -> bool:
    """Whether a person sees standard error as it is written: in a terminal or a notebook."""
    return "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())


def width() -> int:
    """Columns of a wide table."""
    return max(100, Console().width) if sys.stdout.isatty() else 100


def new_table(*columns: str, numbers: Iterable[str] = ()) -> Table:
    """A plain table: columns that fold long cells, then columns of `numbers`, aligned on the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for column in numbers:
        table.add_column(column, justify="right")
    return table
