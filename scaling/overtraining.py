"""What it costs to train off the optimum: the loss above L*(C) against the ratio D / D*(C), by architecture.

At constant compute C, a law's loss is, with r = D / D*,

    L - L*(C) = H(C) (beta r^alpha + alpha r^-beta - alpha - beta),   H(C) = h C^-eta

alpha and beta, one pair for all budgets, and H of each budget are fitted to the isoFLOP runs by least
squares; the form is that of `scaling.bias`, and no parabola enters.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt
import pandas as pd

from scaling.bias import TRIED, Packed, basin, best_exponents
from scaling.law import Interval
from scaling.optima import grouped, interval, lost, optima
from scaling.parabola import noise
from scaling.powerlaw import check_confidence, slopes
from scaling.runs import NotIdentified

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """Loss above the optimum, in nats a token; `beyond` where the ratio lies outside those trained."""

    loss: float
    interval: Interval
    beyond: bool


@dataclass(frozen=True, kw_only=True)
class Basin:
    """The fit of one architecture, and draws of it: exponents (draw, 2), and ln h and -eta (draw, 2)."""

    alpha: float
    beta: float
    line: Array
    exponents: Array = field(repr=False)
    lines: Array = field(repr=False)
    lowest: float
    highest: float
    budgets: int
    n: int


@dataclass(frozen=True, kw_only=True)
class OverTraining:
    """The penalty by architecture.

    points  one row a run: arch, budget, flops, ratio = D / D*, penalty, fitted (nats a token)
    at      the FLOPs that `penalty` takes where none are given: the mean (of logs) of the common budgets
    """

    basins: dict[str, Basin]
    points: pd.DataFrame = field(repr=False)
    at: float
    warnings: tuple[str, ...]
    confidence: float

    def penalty(self, arch: str, ratio: float, *, at: float | None = None) -> Penalty:
        """The loss above L*(at) of a model trained, at that compute, on `ratio` times the optimal tokens."""
        if arch not in self.basins:
            close = get_close_matches(arch, self.basins, n=1) or list(self.basins)
            raise ValueError(f"arch = {arch!r} has no runs here; did you mean {close[0]!r}?")
        if not ratio > 0:
            raise ValueError(
                f"ratio = {ratio} of tokens to the optimal tokens is not above 0; 1 is the optimum"
            )
        found, c = self.basins[arch], np.log(self.at if at is None else at)
        u = -np.log(ratio)
        value = np.exp(found.line @ [1, c]) * basin(found.alpha, found.beta, u)
        drawn = np.exp(found.lines @ [1, c]) * basin(found.exponents[:, 0], found.exponents[:, 1], u)
        return Penalty(
            loss=float(value),
            interval=interval(drawn, self.confidence),
            beyond=not found.lowest * (1 - 1e-9) <= ratio <= found.highest * (1 + 1e-9),
        )


def overtraining(
    frame: pd.DataFrame,
    *,
    budgets: Sequence[float] | None = None,
    within: float = 0.1,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> OverTraining:
    """The penalty off the optimum, of each architecture of a table of isoFLOP runs.

    Budgets count that `isoflop` would use. Residuals are drawn as there, and each draw is fitted anew.
    Raises NotIdentified where an architecture has no budget in common with the others, or too few runs: three
    a budget and three more.
    """
    check_confidence(confidence)
    table, notes = grouped(frame, budgets=budgets, within=within)
    used: dict[str, pd.DataFrame] = {}
    for arch, mine in table.groupby("arch"):
        found, *_ = optima(mine, window=None, keep=(), bootstrap=0, confidence=confidence, seed=seed)
        notes += [f"{arch}: {text}" for text in lost(found)]
        used[str(arch)] = mine[mine["budget"].isin(found.loc[found["used"], "budget"])]
    common = set.intersection(*(set(mine["budget"]) for mine in used.values()))
    if not common:
        raise NotIdentified(
            "no usable budget is common to all architectures: "
            + "; ".join(f"{arch} has {_list(mine['budget'])}" for arch, mine in used.items())
            + "; train each at one budget of the others, with four sizes around the optimum"
        )
    basins, parts = {}, []
    for arch, mine in used.items():
        rng = np.random.default_rng([seed, zlib.crc32(arch.encode())])
        basins[arch], points = _basin(arch, mine, bootstrap, rng)
        parts.append(points)
        bad = float(np.isnan(basins[arch].lines).any(-1).mean())
        if bad > 0.05:
            notes.append(
                f"{arch}: {100 * bad:.0f}% of the draws have no optimum; its intervals are too short"
            )
    return OverTraining(
        basins=basins,
        points=pd.concat(parts, ignore_index=True),
        at=float(np.exp(np.mean(np.log(sorted(common))))),
        warnings=tuple(notes),
        confidence=confidence,
    )


def _basin(arch: str, mine: pd.DataFrame, count: int, rng: np.random.Generator) -> tuple[Basin, pd.DataFrame]:
    groups = [group for _, group in mine.groupby("budget")]
    df = len(mine) - 3 * len(groups) - 2
    if df < 1:
        raise NotIdentified(
            f"{arch} has {len(mine)} runs at {len(groups)} budgets, and the penalty needs three a budget and "
            "three more; train further sizes"
        )
    xs = [np.log(group["params"].to_numpy()) for group in groups]
    ys = [group["loss"].to_numpy() for group in groups]
    c = np.log([group["compute"].iloc[0] for group in groups])
    runs = Packed.of(xs, ys)
    alpha, beta = best_exponents(runs)
    best, heights, floors = _optimum(runs, np.array([alpha]), np.array([beta]))
    line = _line(c, np.log(heights))[0]
    fitted = [h * basin(alpha, beta, x - b) for x, b, h in zip(xs, best[0], heights[0], strict=True)]
    jacobian = _jacobian(runs, alpha, beta)
    inside = runs.there.astype(bool)
    q = np.linalg.qr(jacobian)[0]
    smooth = np.concatenate([f + e for f, e in zip(fitted, floors[0], strict=True)])
    (extra,) = noise([q], [np.concatenate(ys)], count, rng)
    y = np.zeros((count, *runs.y.shape))
    y[:, inside] = smooth + extra
    drawn = Packed(u=runs.u, y=y, there=runs.there, centres=runs.centres)
    exponents = _exponents(drawn, np.array([alpha, beta]) + extra @ np.linalg.pinv(jacobian)[-2:].T)
    _, high, _ = _optimum(drawn, *exponents.T)
    with np.errstate(invalid="ignore"):
        lines = _line(c, np.log(high))
    ratio = np.exp(np.concatenate([b - x for x, b in zip(xs, best[0], strict=True)]))
    points = pd.DataFrame(
        {
            "arch": arch,
            "budget": np.concatenate([group["budget"] for group in groups]),
            "flops": np.concatenate([group["flops"] for group in groups]),
            "ratio": ratio,
            "penalty": np.concatenate([y - e for y, e in zip(ys, floors[0], strict=True)]),
            "fitted": np.concatenate(fitted),
        }
    )
    found = Basin(
        alpha=alpha,
        beta=beta,
        line=line,
        exponents=exponents,
        lines=lines,
        lowest=float(ratio.min()),
        highest=float(ratio.max()),
        budgets=len(groups),
        n=len(mine),
    )
    return found, points


def _exponents(drawn: Packed, steps: Array) -> Array:
    """The best exponents of each draw: a Gauss-Newton step, or a cell of TRIED where that is better."""
    best = steps.clip(TRIED[0], TRIED[-1])
    least = drawn.squares(*best.T)
    for alpha in TRIED[::2]:
        for beta in TRIED[::2]:
            squares = drawn.squares(np.array([alpha]), np.array([beta]))
            better = squares < least
            best[better], least = (alpha, beta), np.minimum(squares, least)
    return best


def _optimum(runs: Packed, alpha: Array, beta: Array) -> tuple[Array, Array, Array]:
    """ln N*, H and L* by pair of exponents and budget; NaN where there is no optimum."""
    p, q, rest = runs.solve(alpha, beta)
    a, b = alpha[:, None], beta[:, None]
    good = (p > 0) & (q > 0)
    p, q = np.where(good, p, np.nan), np.where(good, q, np.nan)
    best = np.log(a * p / (b * q)) / (a + b)
    height = p * np.exp(-a * best) / b
    return runs.centres + best, height, rest + height * (a + b)


def _jacobian(runs: Packed, alpha: float, beta: float) -> Array:
    """Derivatives of the losses by E, p, q of each budget, alpha and beta: (run, 3 budgets + 2)."""
    p, q, _ = runs.solve(np.array([alpha]), np.array([beta]))
    fall, rise = np.exp(-alpha * runs.u), np.exp(beta * runs.u)
    rows, size = [], len(runs.centres)
    for i in range(size):
        at = runs.there[i].astype(bool)
        own = np.zeros((int(at.sum()), 3 * size + 2))
        own[:, 3 * i : 3 * i + 3] = np.stack([np.ones(len(own)), fall[i, at], rise[i, at]], axis=1)
        own[:, -2] = -p[0, i] * runs.u[i, at] * fall[i, at]
        own[:, -1] = q[0, i] * runs.u[i, at] * rise[i, at]
        rows.append(own)
    return np.concatenate(rows)


def _line(c: Array, y: Array) -> Array:
    """Intercept and slope of y (draw, budget) on c; of a single budget its level."""
    slope = slopes(c, y, np.zeros(len(c), int)) if len(c) > 1 else np.zeros(len(y))
    return np.stack([y.mean(-1) - slope * c.mean(), slope], axis=-1)


def _list(values: pd.Series) -> str:
    return ", ".join(f"{value:.3g}" for value in sorted(set(values))) or "none"
