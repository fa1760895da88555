"""Power laws as straight lines in logs: one line, or lines of several groups with one slope.

The intervals are exact where the scatter of ln y is normal and equal at all points (Student's t). Whether the
groups may share a slope is an F test, exact under the same condition.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt
from scipy import stats

from scaling.laws.law import Array, Interval
from scaling.laws.runs.cleaning import NotIdentified

# Percentiles of fewer draws are not an interval.
FEWEST_DRAWS = 100


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """F test of one slope for all groups against a slope for each; `allowed` is None where it cannot tell."""

    f: float
    df: tuple[int, int]
    p: float

    @property
    def allowed(self) -> bool | None:
        """False where the slopes differ with p below .05; None where no degree of freedom is left."""
        return None if np.isnan(self.p) else self.p >= 0.05


@dataclass(frozen=True, kw_only=True)
class PowerLaws:
    """y = coefficient x^exponent for each class of points, by least squares of ln y on ln x.

    exponents, coefficients, intervals, coefficient_intervals   by class; equal exponents where `shared`. A
              class without an interval has no residual left
    sharing   F test of one exponent for all classes against one for each; None of a single class
    r2        share of the variance of ln y within classes
    """

    shared: bool
    exponents: dict[str, float]
    coefficients: dict[str, float]
    intervals: dict[str, Interval]
    coefficient_intervals: dict[str, Interval]
    sharing: Sharing | None
    residuals: Array = field(repr=False)
    r2: float
    n: int

    @property
    def exponent(self) -> float:
        """Of all classes where it is shared, or of the only class."""
        if not self.shared and len(self.exponents) > 1:
            raise ValueError(f"each class has its own exponent ({', '.join(self.exponents)}); use exponents")
        return next(iter(self.exponents.values()))

    @property
    def interval(self) -> Interval | None:
        """Of the exponent; None where the points leave no residual."""
        _ = self.exponent
        return next(iter(self.intervals.values()), None)

    @property
    def coefficient(self) -> float:
        """Of the only class."""
        if len(self.coefficients) > 1:
            raise ValueError(f"there are {len(self.coefficients)} classes; use coefficients, a k for each")
        return next(iter(self.coefficients.values()))

    def at(self, x: npt.ArrayLike, *, group: str | None = None) -> npt.ArrayLike:
        """coefficient x^exponent, of the class `group` where there are several; floats give a float."""
        if group is None:
            return power(self.coefficient, self.exponent, x)
        if group not in self.coefficients:
            close = get_close_matches(group, self.coefficients, n=1) or list(self.coefficients)
            raise ValueError(f"group = {group!r} is not a class of this law; did you mean {close[0]!r}?")
        return power(self.coefficients[group], self.exponents[group], x)


def power_law(x: npt.ArrayLike, y: npt.ArrayLike, *, confidence: float = 0.95) -> PowerLaws:
    """The power law through positive points (x, y); at least two different x, else NotIdentified."""
    return power_laws(x, y, ["all"] * np.size(x), confidence=confidence)


def power_laws(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    group: Sequence[Hashable],
    *,
    shared: bool = False,
    confidence: float = 0.95,
) -> PowerLaws:
    """Power laws of groups of points, with their own exponents or (`shared`) with one.

    Raises NotIdentified where no group (own exponents: where any group) has two different x.
    """
    check_confidence(confidence)
    lx, ly = _logs(x, "x"), _logs(y, "y")
    if len({len(lx), len(ly), len(group)}) != 1:
        raise ValueError(f"{len(lx)} x, {len(ly)} y and {len(group)} groups; give one of each for each point")
    names, own = np.unique([str(name) for name in group], return_inverse=True)
    points = {str(name): own == i for i, name in enumerate(names)}
    flat = [name for name, at in points.items() if np.ptp(lx[at]) == 0]
    if flat and (not shared or len(flat) == len(points)):
        of = "" if flat == ["all"] else f"{', '.join(flat)}: "
        raise NotIdentified(
            f"{of}all points have the same x, so no exponent can be fitted; add points at another x"
        )
    common = slopes(lx, ly, own)[0] if shared else None
    exponents, coefficients, intervals, levels = {}, {}, {}, {}
    residuals, off = np.empty((2, len(ly)))
    for name, at in points.items():
        value = slopes(lx[at], ly[at], own[at])[0] if common is None else common
        intercept = ly[at].mean() - value * lx[at].mean()
        exponents[name], coefficients[name] = float(value), float(np.exp(intercept))
        residuals[at] = ly[at] - (intercept + value * lx[at])
        off[at] = ly[at] - ly[at].mean()
    pooled = _spread(lx, residuals, own, confidence) if shared else None
    for name, at in points.items():
        half = pooled if shared else _spread(lx[at], residuals[at], own[at], confidence)
        if half is not None:
            intervals[name] = Interval(exponents[name] - half[0], exponents[name] + half[0], confidence)
            width = np.hypot(half[0] * lx[at].mean(), half[1] / np.sqrt(at.sum()))
            level = np.log(coefficients[name])
            ends = np.exp([level - width, min(level + width, 700)])
            levels[name] = Interval(float(ends[0]), float(ends[1]), confidence)
    variance = float(off @ off)
    return PowerLaws(
        shared=shared,
        exponents=exponents,
        coefficients=coefficients,
        intervals=intervals,
        coefficient_intervals=levels,
        sharing=sharing(lx, ly, own) if len(points) > 1 else None,
        residuals=residuals,
        r2=1 - float(residuals @ residuals) / variance if variance > 0 else 1.0,
        n=len(lx),
    )


def slopes(x: Array, y: Array, group: npt.NDArray[np.int64]) -> Array:
    """The common slope of y on x within groups; y of shape (..., n), of which NaN are left out."""
    there = np.isfinite(y)
    top, bottom = np.zeros((2, *y.shape[:-1]))
    for one in np.unique(group):
        at = group == one
        here = there[..., at]
        count = np.maximum(here.sum(-1, keepdims=True), 1)
        xs = np.where(here, x[at], 0.0)
        ys = np.where(here, y[..., at], 0.0)
        xs = np.where(here, xs - xs.sum(-1, keepdims=True) / count, 0.0)
        top = top + (xs * ys).sum(-1)
        bottom = bottom + (xs * xs).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.atleast_1d(np.where(bottom > 0, top / bottom, np.nan))


def sharing(x: Array, y: Array, group: npt.NDArray[np.int64]) -> Sharing:
    """Test whether the lines of the groups may have one slope; groups with a single x do not count."""
    groups = [group == one for one in np.unique(group)]
    groups = [at for at in groups if np.ptp(x[at]) > 0]
    used = np.any(groups, axis=0) if groups else np.zeros(len(x), bool)
    between, within = len(groups) - 1, int(used.sum()) - 2 * len(groups)
    if between < 1 or within < 1:
        return Sharing(f=np.nan, df=(max(between, 0), max(within, 0)), p=np.nan)
    common = slopes(x[used], y[used], group[used])[0]
    apart = together = 0.0
    for at in groups:
        u, v = x[at] - x[at].mean(), y[at] - y[at].mean()
        own = (u @ v) / (u @ u)
        apart += float(((v - own * u) ** 2).sum())
        together += float((own - common) ** 2 * (u @ u))
    # Residuals of exact data are rounding: no ratio of two roundings may reject.
    floor = 1e-24 * float((y[used] ** 2).sum())
    f = (together / between) / (max(apart, floor) / within) if together > floor else 0.0
    return Sharing(f=f, df=(between, within), p=float(stats.f.sf(f, between, within)))


def power(coefficient: float, exponent: float, x: npt.ArrayLike) -> npt.ArrayLike:
    """coefficient x^exponent through logs, so that large x do not overflow."""
    values = np.exp(np.log(coefficient) + exponent * np.log(np.asarray(x, float)))
    return float(values) if values.ndim == 0 else values


def check_confidence(confidence: float, bootstrap: int = 0) -> None:
    """A confidence lies between 0 and 1, and draws are enough for an interval, or none."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence} is not a probability between 0 and 1; 0.95 is usual")
    if bootstrap and bootstrap < FEWEST_DRAWS:
        raise ValueError(
            f"bootstrap = {bootstrap} draws make no interval; give {FEWEST_DRAWS} or more, 1000 is usual, "
            "or 0 for no intervals"
        )


def _spread(
    x: Array, residuals: Array, group: npt.NDArray[np.int64], confidence: float
) -> tuple[float, float] | None:
    """Half widths of the interval of a slope and of one point's level; None without degrees of freedom."""
    groups = np.unique(group)
    df = len(x) - len(groups) - 1
    if df < 1:
        return None
    scatter = sum(float(((x[group == one] - x[group == one].mean()) ** 2).sum()) for one in groups)
    t = float(stats.t.ppf((1 + confidence) / 2, df))
    sigma = float(np.sqrt(residuals @ residuals / df))
    return t * sigma / float(np.sqrt(scatter)), t * sigma


def _logs(values: npt.ArrayLike, name: str) -> Array:
    array = np.atleast_1d(np.asarray(values, float))
    wrong = np.flatnonzero(~(np.isfinite(array) & (array > 0)))
    if len(wrong):
        raise ValueError(
            f"{name}[{wrong[0]}] = {array[wrong[0]]} is not a finite number above 0, so it has no logarithm; "
            "leave the point out"
        )
    return np.log(array)
