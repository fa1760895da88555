"""How much of what a board shows is the architectures, and how much the luck of the seeds."""

import math
from collections.abc import Iterable, Sequence

from mad.score.interval import average
from mad.score.rows import ArchitectureScore, Noise

Group = Sequence[float]  # the scores of one row's seeds

# A task whose architectures lie less than so many times further apart than seeds do separates little.
LEAST_SIGNAL = 2.0
# The last digit that is shown. Seeds that agree in it, as where all solve a task, have no smaller spread.
RESOLUTION = 0.001


def signals(rows: Sequence[ArchitectureScore], tasks: Iterable[str]) -> dict[str, float | None]:
    """Of each task the spread between architectures over the spread between seeds."""
    counted = [row for row in rows if not row.stale]
    return {
        name: signal([list(row.tasks[name].by_seed.values()) for row in counted if _complete(row, name)])
        for name in tasks
    }


def signal(groups: Iterable[Group]) -> float | None:
    """The square root of the variance between the groups over that within them; None of fewer than two.

    The means of the groups vary with their seeds too; that part is taken off.
    """
    found = [group for group in groups if len(group) >= 2]
    if len(found) < 2:
        return None
    within = max(_within(found), RESOLUTION**2)
    means = [average(group) for group in found]
    middle = average(means)
    spread = math.fsum((mean - middle) ** 2 for mean in means) / (len(means) - 1)
    between = spread - _within(found) * average(1 / len(group) for group in found)
    return math.sqrt(max(between, 0.0) / within)


def noise(rows: Iterable[ArchitectureScore]) -> Noise | None:
    """How far the mean score of a row moves with its seeds; None where no row has two."""
    found = [group for row in rows if not row.stale and len(group := list(row.by_seed.values())) >= 2]
    if not found:
        return None
    from scipy.special import stdtrit

    seeds, freedom = min(map(len, found)), sum(len(group) - 1 for group in found)
    sd = math.sqrt(_within(found))
    apart = float(stdtrit(freedom, 0.975)) * sd * math.sqrt(2 / seeds)
    return Noise(sd=sd, rows=len(found), seeds=seeds, apart=apart)


def _complete(row: ArchitectureScore, name: str) -> bool:
    return name in row.tasks and row.tasks[name].complete


def _within(groups: Sequence[Group]) -> float:
    """The variance between the seeds of a group, pooled."""
    squares = [(value - average(group)) ** 2 for group in groups for value in group]
    return math.fsum(squares) / sum(len(group) - 1 for group in groups)
