"""The order of the rows, and who can be told from whom."""

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import replace

from mad.score.rows import ArchitectureScore


def ranked(rows: Iterable[ArchitectureScore]) -> list[ArchitectureScore]:
    """Rank 1 + the number of ranked rows whose interval lies wholly above, best first; then what has no rank:
    rows that lack a task, and stale ones.
    """
    found = list(rows)
    ends = sorted(row.mad.low for row in found if row.mad and not row.stale)
    placed = [replace(row, rank=_rank(row, ends)) for row in found]
    return sorted(placed, key=_order)


def _rank(row: ArchitectureScore, ends: list[float]) -> int | None:
    """`ends`: the lower ends of the intervals of all that are ranked, sorted."""
    if row.mad is None or row.stale:
        return None
    return 1 + len(ends) - bisect_right(ends, row.mad.high)


def _order(row: ArchitectureScore) -> tuple[bool, bool, float, float, str, str]:
    rank, value = row.rank or math.inf, row.mad.value if row.mad else 0.0
    return row.stale, row.mad is None, rank, -value, row.label, row.architecture_key
