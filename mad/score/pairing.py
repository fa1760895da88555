"""Whether two architectures differ on one setting: paired by test row, with the luck of seeds counted.

What is compared are the means of their seeds, D = mean(a) - mean(b). Test rows are the same for both and for
every seed, so a row that is hard for both says nothing: its part cancels. Seeds are not paired: those of two
architectures share their training data, and yet what one of them scores says nothing of the other
(docs/comparing.md). The variance of D is

    max(s_a, i_a) / S_a  +  max(s_b, i_b) / S_b  +  max(0, r - i_a / S_a - i_b / S_b)

    s   variance of one seed's score: that between the S seeds of the architecture, which weighs S - 1, and
        what the other rows of the board let one expect at this score, which weighs 2 (`POOL`), or less where
        that is known from fewer seeds
    i   the part of it that the rows explain: what is left of the hits of a row in a seed without the mean of
        the row over seeds; 0 where there is one seed
    r   variance of the difference of the row means, over the number of rows; it contains the i of the seeds

and the test is Student's t, with the degrees of freedom of Satterthwaite. The pool makes that honest and
strong with few seeds: without it two seeds have one degree of freedom each, and a single one none.

Scores are ratios: hits over targets. Where the targets differ from row to row, a row counts by its residual,
its hits less the score times its targets, which sums to 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import nctdtr, stdtr, stdtrit

from mad.data.hits import Counts
from mad.score.interval import Array

# Degrees of freedom that the seeds of other architectures are worth, and the most seeds that are foretold.
POOL, MOST_SEEDS = 2, 1000
LEVEL, POWER = 0.05, 0.8

Basis = Literal["paired", "unpaired", "none", "mixed"]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One architecture on one setting, as a comparison sees it.

    value   the mean over the seeds
    spread  variance of a seed's score (s), None where there is one seed
    within  the part of it that rows explain (i), 0 where there is one seed
    rows    residual of each test row (R,), the mean over seeds; their mean is 0. None where the hits of a run
            are not known, or the score is no ratio of them
    size    how many test rows there are
    """

    value: float
    seeds: int
    spread: float | None
    within: float
    rows: Array | None
    size: int


@dataclass(frozen=True)
class Pool:
    """The variance of a seed's score over other architectures, and its degrees of freedom.

    Seeds move a score y as they move its logit: little where it is near 0 or 1. `unit` is the variance over
    (y (1 - y))^2.
    """

    unit: float = 0.0
    df: int = 0

    def at(self, value: float) -> float:
        """The variance to expect at this score."""
        return self.unit * (value * (1 - value)) ** 2


NO_POOL = Pool()


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean of a less that of b, with its 95 % interval and the p of "they are equal", two-sided.

    error  standard error; `df` its degrees of freedom
    rows   "paired": by test row; "unpaired": as independent binomial samples, where hits are not known;
           "none": not counted apart, since the spread of several seeds has most of it; "mixed": of several
           settings, not all alike
    luck   whether the luck of seeds is in it: not where both have one seed and the board no pool
    """

    value: float
    low: float
    high: float
    error: float
    df: float
    p: float
    rows: Basis
    luck: bool


def side(
    values: Sequence[float], size: int, hits: Array | None = None, targets: Counts | None = None
) -> Side:
    """From the score of each seed (S,), and where they are known the hits of each seed and row (S, R) and
    the targets of each row (R,).

    A seed that counts at chance has the score times the targets as its hits, which leaves no residual.
    """
    scores = np.array(values)
    spread = float(scores.var(ddof=1)) if len(scores) > 1 else None
    rows, within = None, 0.0
    if hits is not None and targets is not None:
        residual = (hits - scores[:, None] * targets) * (size / targets.sum())  # (S, R)
        rows = residual.mean(0)
        if len(scores) > 1:
            squares = float(((residual - rows) ** 2).sum())
            within = squares / (len(scores) - 1) / max(size - 1, 1) / size
    value = math.fsum(values) / len(values)
    return Side(value=value, seeds=len(scores), spread=spread, within=within, rows=rows, size=size)


def pool_of(others: Iterable[Sequence[float]]) -> Pool:
    """From the scores of the seeds of other architectures. Those that are always 0 or 1 say nothing."""
    spread = scale = 0.0
    df = 0
    for values in others:
        mean, freedom = math.fsum(values) / len(values), len(values) - 1
        weight = (mean * (1 - mean)) ** 2
        if freedom and weight:
            spread += float(np.var(values, ddof=1)) * freedom
            scale += weight * freedom
            df += freedom
    return Pool(spread / scale if df else 0.0, min(POOL, df))


def difference(a: Side, b: Side, pool: Pool = NO_POOL) -> Difference:
    """Of two sides on the same test rows."""
    return weighted([(a, b, pool, 1.0)])


def weighted(parts: Sequence[tuple[Side, Side, Pool, float]]) -> Difference:
    """The sum of differences of several settings with their weights, as of independent ones: they share
    neither rows nor, beyond its number, what a seed draws.
    """
    found = [(_parts(a, b, pool), weight) for a, b, pool, weight in parts]
    value = math.fsum(weight * (a.value - b.value) for a, b, _, weight in parts)
    error, df = _error([(part, weight) for part, weight in found])
    # Equal scores without any spread: nothing speaks against "they are equal".
    p = 1.0 if value == 0 else float(2 * stdtr(df, -abs(value) / error))
    half = float(stdtrit(df, 1 - LEVEL / 2)) * error
    bases = {part.basis for part, _ in found}
    return Difference(
        value=value,
        low=max(-1.0, value - half),
        high=min(1.0, value + half),
        error=error,
        df=df,
        p=p,
        rows=bases.pop() if len(bases) == 1 else "mixed",
        luck=all(part.complete for part, _ in found),
    )


@dataclass(frozen=True, kw_only=True)
class _Luck:
    """The variance of one seed of a side, and how much of it was learned from its own seeds."""

    spread: float
    own: float
    seeds: int


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """The variance of a difference: of a seed of each side, and of the rows. `pooled`: degrees of freedom."""

    lucks: tuple[_Luck, _Luck]
    pooled: int
    rows: float
    basis: Basis
    size: int

    @property
    def variances(self) -> list[tuple[float, float]]:
        """Independent terms, each with its degrees of freedom: what is pooled is one for both sides. That of
        the rows is at least the variance of one hit in one row.
        """
        own = [(luck.spread * luck.own / luck.seeds, luck.seeds - 1) for luck in self.lucks]
        pool = math.fsum(luck.spread * (1 - luck.own) / luck.seeds for luck in self.lucks)
        rows = (max(self.rows, 1 / self.size**2), max(self.size - 1, 1))
        return [(variance, df) for variance, df in (*own, (pool, self.pooled), rows) if variance and df]

    @property
    def complete(self) -> bool:
        """Whether the luck of both is known."""
        return all(luck.seeds > 1 or self.pooled for luck in self.lucks)

    def with_seeds(self, seeds: int) -> _Parts:
        """As it would be with so many seeds of each."""
        own = (seeds - 1) / (seeds - 1 + self.pooled)
        first, second = (replace(luck, seeds=seeds, own=own) for luck in self.lucks)
        return replace(self, lucks=(first, second))


def _parts(a: Side, b: Side, pool: Pool) -> _Parts:
    rows, basis = _rows(a, b)
    lucks = _luck(a, pool), _luck(b, pool)
    return _Parts(lucks=lucks, pooled=pool.df, rows=rows, basis=basis, size=a.size)


def _luck(one: Side, pool: Pool) -> _Luck:
    own = (one.spread or 0.0) * (one.seeds - 1)
    both = own + pool.at(one.value) * pool.df
    df = one.seeds - 1 + pool.df
    share = own / both if both else (one.seeds - 1) / df if df else 0.0
    spread = max(both / df, one.within) if df else 0.0
    return _Luck(spread=spread, own=share, seeds=one.seeds)


def _rows(a: Side, b: Side) -> tuple[float, Basis]:
    """The variance that is of the rows, beyond what the spread between seeds has of it."""
    if a.rows is not None and b.rows is not None:
        squares = float(((a.rows - b.rows) ** 2).sum())
        whole = squares / max(a.size - 1, 1) / a.size
        return max(0.0, whole - a.within / a.seeds - b.within / b.seeds), "paired"
    if min(a.seeds, b.seeds) > 1:
        return 0.0, "none"
    return sum(max(0.0, one.value * (1 - one.value)) / one.size for one in (a, b)), "unpaired"


def _error(parts: Sequence[tuple[_Parts, float]]) -> tuple[float, float]:
    """The standard error of a weighted sum, and Satterthwaite's degrees of freedom."""
    terms = [(weight**2 * variance, df) for part, weight in parts for variance, df in part.variances]
    total = math.fsum(variance for variance, _ in terms)
    return math.sqrt(total), total**2 / math.fsum(variance**2 / df for variance, df in terms)


def seeds_to_separate(a: Side, b: Side, pool: Pool, level: float) -> int | None:
    """How many seeds of each would show the observed difference at this level with a power of 80 %.

    None where no number does, because of the rows or because there is nothing to show; above `MOST_SEEDS` it
    is not foretold either. The number is at least that which there is.
    """
    parts, value = _parts(a, b, pool), abs(a.value - b.value)

    def shown(seeds: int) -> bool:
        error, df = _error([(parts.with_seeds(seeds), 1.0)])
        return bool(1 - nctdtr(df, value / error, stdtrit(df, 1 - level / 2)) >= POWER)

    low, high = max(a.seeds, b.seeds, 2), MOST_SEEDS
    if not shown(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if shown(middle) else (middle + 1, high)
    return low


def rows_limit(a: Side, b: Side, level: float) -> bool:
    """Whether the test rows alone hide a difference as large as the observed one, however many the seeds."""
    error = math.sqrt(max(_rows(a, b)[0], 1 / a.size**2))
    needed = stdtrit(max(a.size - 1, 1), 1 - level / 2) + stdtrit(max(a.size - 1, 1), POWER)
    return abs(a.value - b.value) < needed * error


def holm(values: Sequence[float]) -> list[float]:
    """Adjusted p: at 5 %, the chance that any of the true equalities is denied is at most 5 %."""
    adjusted, largest = [1.0] * len(values), 0.0
    for rank, i in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = largest
    return adjusted
