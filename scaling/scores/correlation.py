"""Correlation of a few points with what a few points allow: exact p-values, intervals, prediction errors.

Pearson's r asks for a line, Spearman's rho and Kendall's tau-b for an order. A p-value is the share of the
n! pairings of y with x whose coefficient is at least as extreme as the one found, ties included: it assumes
nothing but that the rows are exchangeable.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri
from scipy.stats import rankdata

from scaling.laws.law import Interval
from scaling.laws.optima import interval
from scaling.laws.powerlaw import check_confidence

Array = npt.NDArray[np.float64]
Statistic = Callable[[Array, Array], Array]

# All pairings are counted up to this n (362,880 of them, in .2 s for the three coefficients, of which
# `scipy.stats.permutation_test` takes 1.8); beyond, a sample is.
EXACT = 9
# Two coefficients nearer than this are equal: sums in another order differ by less, different ones by more.
EQUAL = 1e-10


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    """A coefficient, its bootstrap interval over rows, and its permutation p-values.

    `p` is one-sided: of a coefficient as far or farther to the side that was expected. `p_two_sided` is of
    one as far from 0 on either side.
    """

    value: float
    interval: Interval
    p: float
    p_two_sided: float


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """How y goes with x.

    fisher      interval of Pearson's r by Fisher's transform; assumes normal variables, needs n > 3
    method      "exact" where all n! pairings were counted, else "monte carlo"
    pairings    how many were counted
    smallest_p  the smallest one-sided p of Spearman's rho that any order of these values could have had
    needed      rows at which a Pearson correlation of this size is found, two-sided at the stated confidence,
                with probability 0.8
    """

    pearson: Coefficient
    spearman: Coefficient
    kendall: Coefficient
    fisher: Interval
    method: str
    pairings: int
    smallest_p: float
    needed: int


def correlate(
    x: Sequence[float] | Array,
    y: Sequence[float] | Array,
    *,
    expect: str = "negative",
    confidence: float = 0.95,
    bootstrap: int = 2000,
    pairings: int = 9999,
    seed: int = 0,
) -> Correlation:
    """Pearson's r, Spearman's rho and Kendall's tau-b of x and y, n values each, with p-values.

    expect      side of the one-sided p: "negative" (a score against a perplexity) or "positive"
    pairings    random pairings m beyond n = 9: p = (k + 1) / (m + 1) of k as extreme (Phipson and Smyth 2010)

    The interval of a coefficient is the percentile interval of `bootstrap` resamples of rows, NaN of none.
    Those in which x or y does not vary have no coefficient and are left out. Below about ten rows it is too
    short. Raises ValueError for fewer than three rows, a value that is not finite, and for x or y that do not
    vary.
    """
    x, y = _checked(x, y)
    order = np.lexsort((y, x))  # draws do not depend on the order of the rows
    x, y = x[order], y[order]
    if expect not in ("negative", "positive"):
        raise ValueError(f"expect is {expect!r}; choose negative or positive")
    check_confidence(confidence, bootstrap)
    if pairings < 1:
        raise ValueError(f"pairings is {pairings}; it counts draws, give 1 or more")
    rng, n = np.random.default_rng(seed), len(x)
    exact = n <= EXACT
    orders = _all_orders(n) if exact else rng.permuted(np.tile(np.arange(n), (pairings, 1)), axis=1)
    drawn = rng.integers(n, size=(bootstrap, n))
    sign = 1.0 if expect == "positive" else -1.0

    def coefficient(statistic: Statistic, null: Array) -> Coefficient:
        def share(extreme: npt.NDArray[np.bool_]) -> float:
            return float((np.sum(extreme) + (not exact)) / (len(null) + (not exact)))

        value = float(statistic(x, y))
        ends = interval(statistic(x[drawn], y[drawn]), confidence)
        if bootstrap and math.isnan(ends.low):
            ends = Interval(-1.0, 1.0, confidence)
        return Coefficient(
            value=value,
            interval=ends,
            p=share(sign * null >= sign * value - EQUAL),
            p_two_sided=share(np.abs(null) >= abs(value) - EQUAL),
        )

    r = coefficient(pearson, _of_orders(x, y, orders))
    return Correlation(
        pearson=r,
        spearman=coefficient(spearman, _of_orders(rankdata(x), rankdata(y), orders)),
        kendall=coefficient(kendall, kendall(x, y[orders])),
        fisher=fisher(r.value, n, confidence),
        method="exact" if exact else "monte carlo",
        pairings=len(orders),
        smallest_p=_smallest_p(x, y, sign),
        needed=needed(r.value, confidence),
    )


def pearson(x: Array, y: Array) -> Array:
    """Pearson's r of the last axes, (..., n) and (..., n); NaN where one does not vary."""
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    norms = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    return np.clip(_ratio((x * y).sum(-1), norms), -1.0, 1.0)


def spearman(x: Array, y: Array) -> Array:
    """Pearson's r of the ranks, ties at their mean rank."""
    return pearson(rankdata(x, axis=-1), rankdata(y, axis=-1))


def kendall(x: Array, y: Array) -> Array:
    """Kendall's tau-b: (concordant - discordant pairs) / sqrt(pairs untied in x * pairs untied in y)."""
    agree = np.zeros(np.broadcast_shapes(x.shape[:-1], y.shape[:-1]))
    untied_x, untied_y = agree.copy(), agree.copy()
    for i in range(x.shape[-1] - 1):
        left, right = (np.sign(values[..., i + 1 :] - values[..., i : i + 1]) for values in (x, y))
        agree += (left * right).sum(-1)
        untied_x += (left != 0).sum(-1)
        untied_y += (right != 0).sum(-1)
    return _ratio(agree, np.sqrt(untied_x * untied_y))


def fisher(r: float, n: int, confidence: float = 0.95) -> Interval:
    """tanh(atanh r +- z / sqrt(n - 3)); all of -1..1 for n of 3."""
    if n <= 3:
        return Interval(-1.0, 1.0, confidence)
    if abs(r) >= 1 - EQUAL:
        return Interval(math.copysign(1.0, r), math.copysign(1.0, r), confidence)
    half = float(ndtri((1 + confidence) / 2)) / math.sqrt(n - 3)
    return Interval(math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half), confidence)


def needed(r: float, confidence: float = 0.95) -> int:
    """Rows that tell r from 0 with probability 0.8: 3 + ((z_confidence + z_0.8) / atanh r)^2, at least 4."""
    size = math.atanh(min(max(abs(r), 1e-6), 1 - EQUAL))
    z = float(ndtri((1 + confidence) / 2) + ndtri(0.8))
    return max(4, math.ceil(3 + (z / size) ** 2))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979): the i-th smallest of m times m - i + 1, made monotone, at most 1."""
    adjusted = [1.0] * len(p)
    largest = 0.0
    for place, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = largest
    return adjusted


def leave_out_error(
    x: Sequence[float] | Array | None, y: Sequence[float] | Array, groups: Sequence[str] | None = None
) -> float:
    """Root mean square error of y predicted by a line in x that was fitted without the row's own group.

    Without `groups` each row is its own: leave one out. Without x the prediction is the mean of the others,
    as it is where x does not vary among them. NaN where fewer than two groups are there.
    """
    y = np.asarray(y, float)
    x = np.zeros(len(y)) if x is None else np.asarray(x, float)
    labels = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
    if len(set(labels)) < 2:
        return math.nan
    errors = np.empty(len(y))
    for label in set(labels):
        out = labels == label
        errors[out] = _line(x[~out], y[~out], x[out]) - y[out]
    return float(np.sqrt(np.mean(errors**2)))


def _checked(x: Sequence[float] | Array, y: Sequence[float] | Array) -> tuple[Array, Array]:
    """Both as float64 of one length of at least three, finite and not constant."""
    x, y = np.asarray(x, float).ravel(), np.asarray(y, float).ravel()
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} values and y {len(y)}; give pairs")
    if len(x) < 3:
        raise ValueError(f"a correlation of {len(x)} rows says nothing; give three or more")
    for name, values in (("x", x), ("y", y)):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise ValueError(f"{name}[{bad[0]}] is {values[bad[0]]}; leave the pair out")
        if np.ptp(values) == 0:
            raise ValueError(f"{name} is {values[0]:g} in every row; nothing can go with what does not vary")
    return x, y


@lru_cache(maxsize=2)
def _all_orders(n: int) -> npt.NDArray[np.int8]:
    """All permutations of 0..n-1, (n!, n)."""
    places = itertools.chain.from_iterable(itertools.permutations(range(n)))
    return np.fromiter(places, np.int8).reshape(-1, n)


def _line(x: Array, y: Array, at: Array) -> Array:
    """Least squares through (x, y), read at other x; the mean of y where x does not vary."""
    away = x - x.mean()
    slope = float(away @ y) / float(away @ away) if np.ptp(x) > 0 else 0.0
    return y.mean() + slope * (at - x.mean())


def _of_orders(x: Array, y: Array, orders: npt.NDArray[np.integer]) -> Array:
    """Pearson's r of x with y in each order; the norms are those of any order."""
    x, y = x - x.mean(), y - y.mean()
    return (y / math.sqrt(float((x * x).sum() * (y * y).sum())))[orders] @ x


def _ratio(top: Array, bottom: Array) -> Array:
    return np.divide(top, bottom, out=np.full(np.shape(bottom), np.nan), where=np.asarray(bottom) > 0)


def _smallest_p(x: Array, y: Array, sign: float) -> float:
    """Share of pairings with the extreme rank correlation: the orders that sort y along x, over n!.

    Within rows of equal x any order of y counts, and rows of equal y can change places. The number of
    distinct arrangements follows from the table of how many rows have this x and this y when both are sorted.
    """
    left, right = np.sort(rankdata(x, "dense")), np.sort(sign * rankdata(y, "dense"))
    counts = [np.unique(values, axis=-1, return_counts=True)[1] for values in (left, right, [left, right])]
    log = [[math.lgamma(k + 1) for k in of.tolist()] for of in counts]
    return math.exp(math.fsum(log[0] + log[1]) - math.fsum(log[2]) - math.lgamma(len(x) + 1))
