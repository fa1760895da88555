"""Approach 2: the compute-optimal size of each budget from a parabola, then a power law over the budgets.

    L = L* + h/2 (ln N - ln N*)^2 within a budget;  N* = coefficient C^exponent over them

D* comes from its own parabola in ln D, so that no convention of counting FLOPs is assumed. Method:
arXiv:2203.15556, section 3.2; its biases: arXiv:2603.22339 and `scaling.laws.basins`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from scaling.laws.basins import EXACT, Bias, bias
from scaling.laws.law import Array, Interval, Law
from scaling.laws.optima import OUTSIDE, THREE, Optima, by_architecture, grouped, interval, intervals
from scaling.laws.powerlaw import Sharing, check_confidence, power, sharing, slopes
from scaling.laws.runs.cleaning import NotIdentified, Status, Table

KEPT = (THREE, OUTSIDE)


@dataclass(frozen=True, kw_only=True)
class IsoFlop:
    """The optima by architecture and budget, and N* = coefficient C^exponent; likewise D*.

    optima        one row per architecture and budget, with intervals; `flag` says why one is not `used`
    exponent      of N*; of several architectures the one they share, each with its own coefficient
    by_arch       each architecture alone, with its own exponents
    intervals     exponent and tokens_exponent; of one architecture also coefficient and tokens_coefficient
    sharing       F test whether the architectures may share the exponent of N*
    biases        by architecture, where the runs show the shape of their basin
    draws         bootstrap draws (draw, 3) of ln N*, ln D* and L* by (arch, budget)
    lines         by architecture, draws (draw, 4) of both exponents and the logs of both coefficients
    """

    optima: pd.DataFrame
    exponent: float
    tokens_exponent: float
    coefficients: dict[str, float]
    tokens_coefficients: dict[str, float]
    intervals: dict[str, Interval]
    sharing: Sharing | None
    by_arch: dict[str, IsoFlop] = field(repr=False)
    biases: dict[str, Bias] = field(repr=False)
    warnings: tuple[str, ...]
    status: Status
    n: int
    confidence: float
    convention: str
    draws: dict[tuple[str, float], Array] = field(repr=False)
    lines: dict[str, Array] = field(repr=False)

    @property
    def coefficient(self) -> float:
        """Of N*, for a single architecture."""
        return self.coefficients[self._arch(None)]

    @property
    def tokens_coefficient(self) -> float:
        """Of D*, for a single architecture."""
        return self.tokens_coefficients[self._arch(None)]

    def n_opt(self, c: npt.ArrayLike, *, arch: str | None = None) -> npt.ArrayLike:
        """N*(C), parameters."""
        return power(self.coefficients[self._arch(arch)], self.exponent, c)

    def d_opt(self, c: npt.ArrayLike, *, arch: str | None = None) -> npt.ArrayLike:
        """D*(C), tokens."""
        return power(self.tokens_coefficients[self._arch(arch)], self.tokens_exponent, c)

    def n_interval(self, c: float, *, arch: str | None = None) -> Interval:
        """Of N*(C)."""
        return self._interval(0, c, arch)

    def d_interval(self, c: float, *, arch: str | None = None) -> Interval:
        """Of D*(C)."""
        return self._interval(1, c, arch)

    def _interval(self, axis: int, c: float, arch: str | None) -> Interval:
        draws = self.lines[self._arch(arch)]
        return interval(draws[:, 2 + axis] + draws[:, axis] * np.log(c), self.confidence, logs=True)

    def _arch(self, arch: str | None) -> str:
        names = list(self.coefficients)
        if arch is None and len(names) > 1:
            raise ValueError(f"there are {len(names)} architectures; say arch=, one of {', '.join(names)}")
        if arch is not None and arch not in names:
            close = get_close_matches(arch, names, n=1) or names
            raise ValueError(f"arch = {arch!r} has no power law here; did you mean {close[0]!r}?")
        return names[0] if arch is None else arch


def isoflop(
    frame: Table,
    *,
    budgets: Sequence[float] | None = None,
    within: float = 0.1,
    window: float | None = None,
    keep: Sequence[str] = (),
    law: Law | None = None,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> IsoFlop:
    """Approach 2 on runs of at least two budgets with at least four sizes each.

    budgets  nominal FLOPs; each run counts to the nearest, if it lies `within` of it. See `scaling.laws.runs`
    window   use only sizes within this factor of the one with the lowest loss of its budget
    keep     flags of optima to use nevertheless: "three sizes", "vertex outside"
    law      a law whose exponents tell the bias; without it the runs must show them

    Left out with a warning: budgets with fewer than four sizes, a parabola that is not convex, or a vertex
    outside the sizes. The intervals are percentiles of a residual bootstrap (`scaling.laws.optima`), its
    residuals pooled over the budgets of an architecture; they widen where the optima scatter around their
    power law more than the noise of the runs explains. Raises NotIdentified where no architecture has two
    usable budgets.
    """
    check_confidence(confidence, bootstrap)
    wrong = [word for word in keep if word not in KEPT]
    if wrong:
        close = get_close_matches(wrong[0], KEPT, n=1) or KEPT
        raise ValueError(f"keep = {wrong[0]!r} is not a flag that can be kept; did you mean {close[0]!r}?")
    if window is not None and window <= 1:
        raise ValueError(f"window = {window} is a factor of size, so above 1; 4 is usual")
    table = grouped(frame, budgets=budgets, within=within)
    notes = list(table.notes)
    parts = by_architecture(
        table, window=window, keep=keep, bootstrap=bootstrap, confidence=confidence, seed=seed
    )
    poor, found = {}, {}
    for arch, part in parts.items():
        if len(part.used) < 2:
            of = f"of its budgets, {len(part.used)} of {len(part.table)} can be used"
            poor[arch] = "; ".join([of, *part.lost])
        else:
            found[arch] = _alone(part, law, confidence, table.convention)
    if not found:
        reasons = "; ".join(f"{arch}: {reason}" for arch, reason in poor.items())
        raise NotIdentified(
            f"a power law of the optimum needs two budgets ({reasons}); train four or more sizes on both "
            "sides of the optimum at each of two budgets, better three"
        )
    if len(parts) == 1:
        (only,) = found.values()
        return replace(only, warnings=(*notes, *only.warnings))
    notes += [f"{arch} has no power law: {reason}" for arch, reason in poor.items()]
    return _together(found, parts, notes)


def _alone(part: Optima, law: Law | None, confidence: float, convention: str) -> IsoFlop:
    """The power laws of one architecture with at least two usable budgets."""
    used, drawn, notes = part.used, part.used_draws(), part.lost
    c = np.log(used["flops"].to_numpy())
    xs, ys = part.used_points
    freedom = sum(len(y) - 3 for y in ys)
    values, lines = [], []
    for axis, name in enumerate(("params", "tokens")):
        y = np.log(used[name].to_numpy())
        value, factor = _line(c, y), _scatter(c, y, drawn[..., axis], freedom)
        if factor > 1:
            notes.append(
                f"the optimal {name} scatter around their power law {factor:.2g} times as much as the noise "
                "of the runs explains; their interval is widened by that, and the law may be no power law"
            )
        values.append(value)
        lines.append(value + factor * (_line(c, drawn[..., axis]) - value))
    notes += _doubts(used, drawn, confidence)
    found = bias(xs, ys, np.exp(c), None if law is None else (law.alpha, law.beta))
    notes += found.warnings() if found else []
    (n, ln_n), (d, ln_d) = values
    line = np.stack(lines, axis=-1).reshape(len(drawn), 4)
    result = IsoFlop(
        optima=part.table,
        exponent=float(n),
        tokens_exponent=float(d),
        coefficients={part.arch: float(np.exp(ln_n))},
        tokens_coefficients={part.arch: float(np.exp(ln_d))},
        intervals=intervals(line, confidence),
        sharing=None,
        by_arch={},
        biases={part.arch: found} if found else {},
        warnings=tuple(notes),
        status=Status.CONVERGED,
        n=int(used["n"].sum()),
        confidence=confidence,
        convention=convention,
        draws={(part.arch, budget): values for budget, values in part.draws.items()},
        lines={part.arch: line},
    )
    return replace(result, by_arch={part.arch: result})


def _together(found: dict[str, IsoFlop], parts: dict[str, Optima], notes: list[str]) -> IsoFlop:
    """One exponent for all: their own ones, weighted by the squared spread of ln C, as least squares does."""
    first = next(iter(found.values()))
    logs = {arch: np.log(parts[arch].used["flops"].to_numpy()) for arch in found}
    weights = np.array([((c - c.mean()) ** 2).sum() for c in logs.values()])
    weights /= weights.sum()
    shared = np.einsum("g,gij->ij", weights, [one.lines[arch][:, :2] for arch, one in found.items()])
    n = float(weights @ [one.exponent for one in found.values()])
    d = float(weights @ [one.tokens_exponent for one in found.values()])
    lines, coefficients, tokens_coefficients = {}, {}, {}
    for arch, one in found.items():
        centre, own = logs[arch].mean(), one.lines[arch]
        lines[arch] = np.hstack([shared, own[:, 2:] + (own[:, :2] - shared) * centre])
        coefficients[arch] = float(one.coefficient * np.exp((one.exponent - n) * centre))
        tokens_coefficients[arch] = float(one.tokens_coefficient * np.exp((one.tokens_exponent - d) * centre))
    test = None
    if len(found) > 1:
        y = np.concatenate([np.log(parts[arch].used["params"].to_numpy()) for arch in found])
        group = np.repeat(np.arange(len(found)), [len(c) for c in logs.values()])
        test = sharing(np.concatenate(list(logs.values())), y, group)
        if test.allowed is False:
            notes.append(
                f"the architectures do not share an exponent of N* (F = {test.f:.3g}, p = {test.p:.2g}); "
                "use by_arch"
            )
    notes += [f"{arch}: {text}" for arch, one in found.items() for text in one.warnings]
    return replace(
        first,
        optima=pd.concat([part.table for part in parts.values()], ignore_index=True),
        exponent=n,
        tokens_exponent=d,
        coefficients=coefficients,
        tokens_coefficients=tokens_coefficients,
        intervals=intervals(shared, first.confidence),
        sharing=test,
        by_arch=found,
        biases={arch: one.biases[arch] for arch, one in found.items() if one.biases},
        warnings=tuple(notes),
        n=sum(one.n for one in found.values()),
        draws={(arch, budget): made for arch, part in parts.items() for budget, made in part.draws.items()},
        lines=lines,
    )


def _line(x: Array, y: Array) -> Array:
    """Slope and intercept of y (..., n) on x, shape (..., 2); what is NaN is left out."""
    slope = slopes(x, y, np.zeros(len(x), int)).reshape(y.shape[:-1])
    there = np.isfinite(y)
    count = np.maximum(there.sum(-1), 1)
    rest = np.where(there, y - slope[..., None] * x, 0.0).sum(-1) / count
    return np.stack([slope, np.where(np.isfinite(slope), rest, np.nan)], axis=-1)


def _scatter(c: Array, y: Array, drawn: Array, freedom: int) -> float:
    """How much more the optima scatter around their line than their draws say; 1 where that is chance.

    freedom  degrees of freedom of the noise behind the draws, so that chance is that of an F test
    """
    df = len(c) - 2
    slope, rest = _line(c, y)
    residual = y - rest - slope * c
    if df < 1 or not np.isfinite(drawn).any() or np.abs(residual).max() < EXACT:
        return 1.0
    # The middle half of the draws tells their spread even where some have a vertex far away.
    spread = np.diff(np.nanquantile(drawn, [0.25, 0.75], axis=0), axis=0)[0] / 1.349
    ratio = float(residual @ residual / df / np.mean(spread**2))
    return float(np.sqrt(ratio)) if stats.f.sf(ratio, df, freedom) < 0.05 else 1.0


def _doubts(used: pd.DataFrame, drawn: Array, confidence: float) -> list[str]:
    """What makes the intervals less than they seem."""
    notes: list[str] = []
    if not len(drawn):
        return notes
    if len(used) == 2:
        notes.append(
            "two budgets: the interval holds the noise of the runs, not whether the optimum follows a power "
            "law; train a third budget"
        )
    if np.isnan(drawn).all():
        return [*notes, "no interval: parabolas through three sizes leave no residual; train a fourth size"]
    for row, part in zip(used.itertuples(), np.asarray(np.isnan(drawn).any(-1)).T, strict=True):
        if part.mean() > (1 - confidence) / 2:
            notes.append(
                f"the curvature at the budget {row.flops:.3g} is within the noise ({100 * part.mean():.0f}% "
                "of the draws are not convex), so its optimum is open to one side; train sizes farther away"
            )
    return notes
