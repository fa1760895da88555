"""A part of a sweep, for machines that share nothing: the split is the same on each, whatever they hold."""

from __future__ import annotations

import heapq
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from mad.data.records import Cost
from mad.run.cost import counted_cost, work
from mad.run.sweep import Group


@dataclass(frozen=True)
class Shard:
    """The part with this number, counted from 1, of so many."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def read_shard(text: str) -> Shard:
    """Of "3/8": the third of eight parts."""
    found = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
    shard = Shard(*map(int, found.groups())) if found else Shard(0, 0)
    if not 1 <= shard.number <= shard.of:
        raise ValueError(
            f"shard {text!r} is not i/n with whole numbers 1 <= i <= n; give 3/8 for the third of eight parts"
        )
    return shard


def part(groups: Sequence[Group], shard: Shard) -> list[Group]:
    """The groups of a shard, in their order; of more shards than groups the last ones have none."""
    parts = split(groups, shard.of)
    return parts[shard.number - 1] if shard.number <= len(parts) else []


def split(groups: Sequence[Group], of: int) -> list[list[Group]]:
    """At most so many parts: the longest group first, each goes to the one that has the least work so far."""
    weights = _weights(groups)
    loads = [(0, place) for place in range(min(of, len(groups)))]
    places = {}
    # By content alone: neither the order of the groups nor the speed of a machine matters.
    for group in sorted(groups, key=lambda group: (-weights[group.id], group.id)):
        load, places[group.id] = loads[0]
        heapq.heapreplace(loads, (load + weights[group.id], places[group.id]))
    return [[group for group in groups if places[group.id] == place] for place in range(len(loads))]


def _weights(groups: Sequence[Group]) -> dict[str, int]:
    """Training FLOPs; of a model that cannot be counted without weights the median of the others."""
    cells = {id(group.cell): group.cell for group in groups}
    costs = {key: counted_cost(cell) for key, cell in cells.items()}
    known = {
        key: _rounded(work(cells[key], cost) * len(cells[key].setting.grid))
        for key, cost in costs.items()
        if isinstance(cost, Cost)
    }
    middle = statistics.median_low(known.values()) if known else 1
    return {group.id: known.get(id(group.cell), middle) for group in groups}


def _rounded(work: float) -> int:
    """To three digits: a logarithm may differ in its last one between machines, and sums of these do not."""
    return max(1, int(float(f"{work:.3g}")))
