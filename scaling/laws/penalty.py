"""What it costs to train off the optimum: the loss above L*(C) against the ratio D / D*(C), by architecture.

At constant compute C, a law's loss is, with r = D / D*,

    L - L*(C) = H(C) (beta r^alpha + alpha r^-beta - alpha - beta),   H(C) = h C^-eta

alpha and beta are one pair for all budgets, and each budget has its H; its form is in `scaling.laws.basins`,
and no parabola enters. Runs often leave open whether alpha = beta, and the best pair is then mostly chance:
all pairs count, each by how well its law fits. Draws are of the posterior of (alpha, beta), flat before the
runs, and of H given them, and the pair that stands for all is the mean of their logarithms.

`fit_overtraining_law` fits the law as published (Gadre et al., arXiv 2403.08540), with one exponent for size
and data, from as few as five small runs. At C training FLOPs and M = D / N tokens per parameter it is
L(C, M) = E + (p M^eta + q M^-eta) C^-eta. With C = 6 N D = 6 M N^2 and b = -2 eta that is
E + a N^b + c 6^(b/2) (M N)^b: the form "over-training" of `scaling.fit`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np
import pandas as pd

from scaling.laws.basins import EXACT, Packed, basin
from scaling.laws.diagnose import at_limit
from scaling.laws.forms import FORMS
from scaling.laws.law import TRAINING, Array, Interval, Law, Numbers
from scaling.laws.objective import SQUARES, Points, Problem
from scaling.laws.optima import by_architecture, grouped, interval
from scaling.laws.powerlaw import check_confidence, slopes
from scaling.laws.runs.cleaning import NotIdentified, Status, Table, clean
from scaling.laws.solver import optimum

# Tokens over the optimal ones, D / D*, at which tables state the penalty.
RATIOS = (0.25, 0.5, 2.0, 4.0, 16.0)
# Exponents that count; published ones lie between 0.15 and 0.7.
LIMITS = (0.04, 1.0)
# Of the sampling of exponents: draws per round, degrees of freedom of t, rounds at most, and the least number
# of draws that may carry the weight.
SAMPLE, TAILS, ROUNDS, FEWEST = 2000, 4, 60, 100
# A term that owes the loss no more than this, in nats, is none.
NOTHING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """Loss above the optimum, in nats per token; `beyond` where the ratio lies outside those trained."""

    loss: float
    interval: Interval
    beyond: bool


@dataclass(frozen=True, kw_only=True)
class Basin:
    """The fit of one architecture, and draws of it: exponents (draw, 2), and ln h and -eta (draw, 2).

    alpha and beta are means (of logs) over the exponents that the runs leave open.
    """

    alpha: float
    beta: float
    line: Array
    exponents: Array = field(repr=False)
    lines: Array = field(repr=False)
    lowest: float
    highest: float


@dataclass(frozen=True, kw_only=True)
class OverTraining:
    """The penalty by architecture.

    points  one row per run: arch, budget, flops, ratio = D / D*, penalty, fitted (nats per token)
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
    frame: Table,
    *,
    budgets: Sequence[float] | None = None,
    within: float = 0.1,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> OverTraining:
    """The penalty off the optimum, of each architecture of a table of isoFLOP runs.

    Budgets count that `isoflop` would use. `bootstrap` draws come from the posterior (top of this file), with
    one scatter for all budgets of an architecture.
    Raises NotIdentified where an architecture has no budget in common with the others, or too few runs: three
    a budget and three more.
    """
    check_confidence(confidence, bootstrap)
    table = grouped(frame, budgets=budgets, within=within)
    notes = list(table.notes)
    used: dict[str, pd.DataFrame] = {}
    for arch, found in by_architecture(table).items():
        notes += [f"{arch}: {text}" for text in found.lost]
        used[arch] = found.runs[found.runs["budget"].isin(found.used["budget"])]
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
        failed = np.isnan(basins[arch].lines).any(-1)
        if bootstrap and (bad := float(failed.mean())) > 0.05:
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
    groups = mine.groupby("budget")
    if len(mine) - 3 * len(groups) - 2 < 1:
        raise NotIdentified(
            f"{arch} has runs {len(mine)}, budgets {len(groups)}, and the penalty needs three runs per "
            "budget and three more; train further sizes"
        )
    x, y, c = np.log(mine["params"].to_numpy()), mine["loss"].to_numpy(), np.log(groups["compute"].first())
    which, ends = groups.ngroup().to_numpy(), groups.size().cumsum()[:-1]
    runs = Packed.of(np.split(x, ends), np.split(y, ends))
    (alpha, beta), exponents = _exponents(runs, count, rng)
    (best,), (heights,), (floors,) = runs.optima(np.array([alpha]), np.array([beta]))
    with np.errstate(invalid="ignore"):
        lines = _line(c.to_numpy(), np.log(runs.heights(exponents[:, 0], exponents[:, 1], rng)))
    away = x - best[which]
    points = mine[["arch", "budget", "flops"]].assign(
        ratio=np.exp(-away),
        penalty=y - floors[which],
        fitted=heights[which] * basin(alpha, beta, away),
    )
    found = Basin(
        alpha=alpha,
        beta=beta,
        line=_line(c.to_numpy(), np.log(heights)[None])[0],
        exponents=exponents,
        lines=lines,
        lowest=float(points["ratio"].min()),
        highest=float(points["ratio"].max()),
    )
    return found, points


def _exponents(runs: Packed, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """The exponents (2,) as means of logs over the posterior, and draws (count, 2) of them.

    The posterior goes as the residual sum of squares to the -(n - 3 budgets) / 2, as of a normal error of
    unknown size, and is flat within LIMITS. It is sampled with weights from Student's t, whose centre and
    spread follow the weighted draws, or the best of them while few would carry all the weight.
    """
    n = int(runs.there.sum())
    least = n * (EXACT * float(runs.y[runs.there > 0].mean())) ** 2
    low, high = np.log(LIMITS)
    centre, spread = np.full(2, (low + high) / 2), np.eye(2) * (high - low) ** 2 / 12
    size, settled = max(count, SAMPLE), 0
    for _ in range(ROUNDS):
        z = rng.standard_normal((size, 2)) / np.sqrt(rng.chisquare(TAILS, (size, 1)) / TAILS)
        logs = centre + z @ np.linalg.cholesky(spread).T
        inside = ((logs >= low) & (logs <= high)).all(1)
        pairs = np.exp(logs.clip(low, high))
        fits = logs.sum(1) - (n - 3 * len(runs.centres)) / 2 * np.log(runs.squares(*pairs.T) + least)
        fits = np.where(inside, fits, -np.inf)
        if not np.isfinite(fits).any():
            raise NotIdentified(
                "in no law have the losses of every budget an optimum; add sizes to either side"
            )
        weights = fits + (TAILS + 2) / 2 * np.log1p((z**2).sum(1) / TAILS)
        weights = np.exp(weights - weights.max())
        weights /= weights.sum()
        carried = weights @ weights <= 1 / FEWEST
        if not carried:
            best = np.isfinite(fits) & (fits >= np.partition(fits, -FEWEST)[-FEWEST])
            weights = best / best.sum()
        centre = weights @ logs
        off = logs - centre
        spread = (off * weights[:, None]).T @ off + 1e-18 * np.eye(2)
        settled += carried
        if settled == 2:
            break
    return np.exp(centre), pairs[rng.choice(size, size=count, p=weights)]


def _line(c: Array, y: Array) -> Array:
    """Intercept and slope of y (draw, budget) on c; of a single budget its level."""
    slope = slopes(c, y, np.zeros(len(c), int)) if len(c) > 1 else np.zeros(len(y))
    return np.stack([y.mean(-1) - slope * c.mean(), slope], axis=-1)


def _list(values: pd.Series) -> str:
    return ", ".join(f"{value:.3g}" for value in sorted(set(values))) or "none"


@dataclass(frozen=True, kw_only=True)
class OverTrainingLaw:
    """E + a N^b + c 6^(b/2) (M N)^b, in nats per token; `value` is the sum of squares over `n` runs."""

    E: float
    a: float
    b: float
    c: float
    status: Status
    value: float
    n: int

    @property
    def eta(self) -> float:
        """-b / 2, the exponent of compute at fixed tokens per parameter."""
        return -self.b / 2

    @property
    def law(self) -> Law:
        """The same as a law of N and D."""
        return Law(E=self.E, A=self.a, B=self.c * TRAINING ** (self.b / 2), alpha=-self.b, beta=-self.b)

    def loss(self, n: Numbers, tokens_per_param: Numbers) -> Numbers:
        """The loss of n parameters trained on so many tokens each, in nats per token."""
        return self.law.loss(n, np.asarray(n, float) * tokens_per_param)


def fit_overtraining_law(frame: Table) -> OverTrainingLaw:
    """Least squares of the loss (not of its logarithm, as `scaling.fit`) over the runs of a table.

    NotIdentified for fewer than five runs, or where all have one size or one D / N, or no such law falls with
    both.
    """
    runs = clean(frame).frame
    n, d = (runs[name].to_numpy(float) for name in ("params", "tokens"))
    sizes, ratios = len(np.unique(n)), len(np.unique(np.round(np.log(d / n), 2)))
    if len(runs) < 5 or sizes < 3 or ratios < 2:
        raise NotIdentified(
            f"{len(runs)} runs of {sizes} sizes and {ratios} tokens per parameter cannot determine four "
            "coefficients; give at least five runs, of three sizes, two of them at other tokens per parameter"
        )
    problem = Problem.of([Points.of(runs)], FORMS["over-training"], relative=False)
    theta, value, converged = optimum(problem, (SQUARES,))
    e, a, b, exponent, _ = problem.values(theta)[0].values()
    if min((a * n**-exponent).max(), (b * d**-exponent).max()) <= NOTHING:
        raise NotIdentified(
            "in no such law does the loss fall with both params and tokens; check the losses, add runs"
        )
    at_bound = e <= 0 or at_limit("alpha", exponent, problem.form)
    return OverTrainingLaw(
        E=e,
        a=a,
        b=-exponent,
        c=b * TRAINING ** (exponent / 2),
        status=Status.AT_BOUND if at_bound else Status.CONVERGED if converged else Status.FAILED,
        value=2 * value,
        n=len(runs),
    )
