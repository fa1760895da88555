"""Fit the law of loss against size and data to a table of runs (approach 3 of arXiv 2203.15556).

The objective is a sum over the runs, never a mean, of a loss of r = ln(loss) - ln(prediction): Huber with a
stated threshold, least absolute deviations, or half the square. A variable-projection grid gives the starts,
a Newton iteration on the objective itself the optimum, a bootstrap the intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import fdtri

from scaling.laws.diagnose import REFUSE, WARN, at_bounds, check_design, condition, log_residuals
from scaling.laws.law import REPEAT_DECAY, TRAINING, Array, Interval, Law, effective_tokens
from scaling.laws.powerlaw import check_confidence
from scaling.laws.resample import FEW_CLUSTERS, chosen, clusters, in_order, multiplicities, percentile, refit
from scaling.laws.runs.cleaning import NotIdentified, Status, clean, rows_text
from scaling.laws.solver import SQUARES, Points, descend, huber, linear, starts, vertex

COEFFICIENTS = ("E", "A", "B", "alpha", "beta")
OBJECTIVES = ("huber", "lad", "log-mse")
RESAMPLES = ("pairs", "budget", "run")
REPEATS = ("refuse", "effective")
# So many epochs of a text are about as good as new text (arXiv 2305.16264).
MOST_EPOCHS = 4.0
ALLOCATED = ("params", "tokens", "tokens_per_param", "loss")
# Least absolute deviations are approached by Huber objectives.
LAD = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
# For resamples, which start at the optimum and whose scatter is far above the difference.
LAD_AGAIN = (1e-3, 1e-4, 1e-5)
# Flops within this share of 6 N D are the same account.
ACCOUNTED = 0.1
# The chance that a law is taken for more than a constant where a constant is the truth.
CONSTANT = 0.01


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """The compute-optimal model at `flops`; intervals by name (params, tokens, tokens_per_param, loss).

    `beyond` is flops over 6 N D of the largest run: above 1 the law is extrapolated.
    """

    flops: float
    params: float
    tokens: float
    tokens_per_param: float
    loss: float
    beyond: float
    intervals: dict[str, Interval]

    def __str__(self) -> str:
        def span(name: str, digits: int = 3) -> str:
            found = self.intervals.get(name)
            return f" [{found.low:.{digits}g}, {found.high:.{digits}g}]" if found else ""

        text = (
            f"C = {self.flops:.3g}: N* = {self.params:.3g}{span('params')}, "
            f"D* = {self.tokens:.3g}{span('tokens')}, D/N = {self.tokens_per_param:.3g}"
            f"{span('tokens_per_param')}, loss {self.loss:.4g}{span('loss', 4)}"
        )
        return text + (f"; extrapolated {self.beyond:.3g} times in compute" if self.beyond > 1.001 else "")


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedLaw(Law):
    """A law with what is known of it: `status`, `intervals`, `warnings`, and the draws they come from.

    value        the objective at the optimum, a sum over the runs; `delta` is its threshold on log loss
    condition    of the Jacobian, logs centred and columns scaled
    draws        coefficients of each bootstrap resample that converged
    residuals    ln(loss) - ln(prediction), by row of the table
    convention   how C, and where they repeat tokens, are counted
    largest      6 N D of the largest run
    resample     what the bootstrap drew: "pairs", "budget" or "run"; "" without one
    """

    status: Status
    objective: str
    delta: float | None
    value: float
    n: int
    condition: float
    confidence: float
    intervals: dict[str, Interval]
    draws: pd.DataFrame
    residuals: pd.Series
    convention: str
    warnings: tuple[str, ...]
    largest: float
    resample: str

    def at(self, c: float, confidence: float | None = None) -> Allocation:
        """The optimal allocation at c FLOPs, with percentile intervals where there are draws."""
        level = self.confidence if confidence is None else confidence
        point = allocations(np.array([[getattr(self, name) for name in COEFFICIENTS]]), c)[:, 0]
        drawn = allocations(self.draws.to_numpy(), c)
        intervals = (
            {name: percentile(row, level) for name, row in zip(ALLOCATED, drawn, strict=True)}
            if len(self.draws)
            else {}
        )
        values = dict(zip(ALLOCATED, map(float, point), strict=True))
        return Allocation(flops=float(c), beyond=float(c) / self.largest, intervals=intervals, **values)


def fit(
    frame: pd.DataFrame,
    *,
    objective: Literal["huber", "lad", "log-mse"] = "huber",
    delta: float = 1e-3,
    bootstrap: int = 1000,
    resample: Literal["pairs", "budget", "run"] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    repeats: Literal["refuse", "effective"] = "refuse",
    decay: float = REPEAT_DECAY,
) -> FittedLaw:
    """The law that minimises the objective over the runs of one architecture.

    delta      threshold of the Huber objective, on log loss
    bootstrap  resamples, at least 100, or 0 for no intervals
    resample   what is drawn: single rows, whole isoFLOP groups, or all rows of a training run (column run or
               model). None: whole runs where several rows, of one size, share a label; else single rows
    repeats    runs that read their text (column unique_tokens) up to four times count all tokens; those that
               read it more often are refused, or with "effective" fitted with their effective tokens, as
               are then all that repeat (arXiv 2305.16264, `decay` is R*)

    ValueError where the table is at fault, NotIdentified where these runs cannot determine a law.
    """
    known("objective", objective, OBJECTIVES)
    if resample is not None:
        known("resample", resample, RESAMPLES)
    known("repeats", repeats, REPEATS)
    if not delta > 0:
        raise ValueError(f"delta = {delta} must be above 0; it is a log residual, say 1e-3")
    check_confidence(confidence, bootstrap)
    runs = clean(frame)
    _one_architecture(runs)
    warnings = list(runs.attrs["notes"])
    trained = TRAINING * runs["params"].to_numpy(float) * runs["tokens"].to_numpy(float)
    warnings += _accounting(runs["flops"].to_numpy(float) / trained)
    runs, convention = repeated(runs, repeats, decay)
    warnings += check_design(runs)
    rows, runs = runs.index, in_order(runs)
    n, d, loss = (runs[name].to_numpy(float) for name in ("params", "tokens", "loss"))
    points = Points.of(n, d, loss)
    stages = {"huber": (delta,), "lad": LAD, "log-mse": (SQUARES,)}[objective]
    theta, value, converged = optimum(points, np.ones(len(runs)), stages)
    _more_than_a_constant(points, value, objective, stages)
    law = Law(**_named(points.coefficients(theta[None])[0]))
    number = condition(law, n, d)
    warnings += _conditioned(number)
    bounds = at_bounds(law, runs)
    status = Status.AT_BOUND if bounds else Status.CONVERGED
    if not converged:
        status = Status.FAILED
        warnings.append("the search did not converge; do not use these numbers")
    draws, drawn_as = np.empty((0, 5)), ""
    if bootstrap:
        drawn_as = chosen(runs, resample)
        groups = clusters(runs, drawn_as)
        drawn = multiplicities(groups, bootstrap, seed)
        found, fitted = refit(theta, points, drawn, LAD_AGAIN if objective == "lad" else stages, REFUSE)
        warnings += _resampled(fitted, int(groups.max()) + 1, drawn_as)
        draws = points.coefficients(found[fitted])
    return FittedLaw(
        **_named(points.coefficients(theta[None])[0]),
        status=status,
        objective=objective,
        delta=delta if objective == "huber" else None,
        value=value,
        n=len(runs),
        condition=number,
        confidence=confidence,
        intervals=coefficient_intervals(draws, confidence),
        draws=pd.DataFrame(draws, columns=list(COEFFICIENTS)),
        residuals=pd.Series(log_residuals(law, runs), runs.index, name="residual").reindex(rows),
        convention=convention,
        warnings=(*warnings, *bounds),
        largest=float(trained.max()),
        resample=drawn_as,
    )


def optimum(points: Points, weights: Array, stages: Sequence[float]) -> tuple[Array, float, bool]:
    """The unknowns (5,) with the lowest objective over several starts, its value, and whether it converged.

    stages: thresholds of the Huber objective, each from the optimum of the last. LAD ends at a vertex.
    """
    theta = starts(points, weights)
    if not len(theta):
        raise NotIdentified(
            "in no power law of these runs does the loss fall with both params and tokens; add runs that "
            "vary one while the other stays, over a factor of 10 or more"
        )
    for delta in stages:
        theta, value, converged = descend(theta, points, weights, delta)
    best = int(value.argmin())
    if stages != LAD:
        return theta[best], float(value[best]), bool(converged[best])
    exact = vertex(theta[best], points, weights)
    return exact, float(np.abs(linear(exact[None], points)[0][0]) @ weights), bool(converged[best])


def allocations(coefficients: Array, c: float) -> Array:
    """N*, D*, D*/N* and the loss there (4, k), of rows of coefficients (k, 5)."""
    e, a, b, alpha, beta = coefficients.T
    log_g = (np.log(alpha * a) - np.log(beta * b)) / (alpha + beta)
    n = np.exp(log_g + beta / (alpha + beta) * np.log(c / TRAINING))
    d = c / TRAINING / n
    return np.stack([n, d, d / n, e + a * n**-alpha + b * d**-beta])


def _named(row: Array) -> dict[str, float]:
    return dict(zip(COEFFICIENTS, map(float, row), strict=True))


def coefficient_intervals(draws: Array, level: float) -> dict[str, Interval]:
    """Percentile intervals of rows of coefficients (k, 5) and of the exponents of N* and D*."""
    if not len(draws):
        return {}
    found = {name: percentile(draws[:, i], level) for i, name in enumerate(COEFFICIENTS)}
    share = draws[:, 4] / (draws[:, 3] + draws[:, 4])
    return {**found, "n_exponent": percentile(share, level), "d_exponent": percentile(1 - share, level)}


def known(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is not among the choices, with the nearest that is."""
    if value not in choices:
        close = get_close_matches(str(value), choices, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"{name} {value!r} is unknown; {hint}choose from {', '.join(choices)}")


def _one_architecture(runs: pd.DataFrame) -> None:
    names = sorted(runs["arch"].unique())
    if len(names) > 1:
        raise ValueError(
            f"column 'arch' holds {len(names)} architectures ({', '.join(names[:4])}); a law is fitted to "
            "one: select its rows, or drop the column to fit all as one"
        )


def _accounting(ratio: Array) -> list[str]:
    middle = float(np.median(ratio))
    if abs(middle - 1) <= ACCOUNTED:
        return []
    return [
        f"flops are {6 * middle:.3g} N D in the median, but N* and D* hold for C = 6 N D: give "
        "`at` the compute in that convention"
    ]


def repeated(runs: pd.DataFrame, repeats: str, decay: float) -> tuple[pd.DataFrame, str]:
    """Runs with effective tokens where asked, and the convention that was followed."""
    convention = str(runs.attrs["convention"])
    if "unique_tokens" not in runs:
        if repeats == "effective":
            raise ValueError("repeats = 'effective' needs a column unique_tokens: counts without repeats")
        return runs, convention
    unique = pd.to_numeric(runs["unique_tokens"], errors="coerce").to_numpy(float)
    again = list(runs.index[runs["tokens"].to_numpy() > unique])
    if not again:
        return runs, convention
    epochs = runs["tokens"].to_numpy() / unique
    if repeats == "refuse" and epochs.max() > MOST_EPOCHS:
        often = list(runs.index[epochs > MOST_EPOCHS])
        raise ValueError(
            f"{rows_text(often)}: tokens exceed {MOST_EPOCHS:g} times unique_tokens, so data was repeated "
            "more often than is nearly as good as new; give repeats='effective' (--repeats effective), or "
            f"leave these runs out (--where 'tokens <= {MOST_EPOCHS:g} * unique_tokens')"
        )
    if repeats == "refuse":
        return runs, f"{convention}; {len(again)} runs read their text up to {epochs.max():.2g} times"
    worth = effective_tokens(runs["tokens"].to_numpy(), unique, decay)
    return runs.assign(tokens=worth), f"{convention}; D in effective tokens, R* = {decay:g}"


def _more_than_a_constant(points: Points, value: float, objective: str, stages: Sequence[float]) -> None:
    """Refuse where a constant explains the losses about as well: an F test of the objectives."""
    n = len(points.x)
    spread = points.log_loss - np.median(points.log_loss)
    flat = float(np.abs(spread).sum() if objective == "lad" else huber(spread, stages[-1]).sum())
    if n > 5 and (flat - value) / 4 <= fdtri(4, n - 5, 1 - CONSTANT) * value / (n - 5):
        raise NotIdentified(
            f"a constant explains these {n} losses about as well as a law does; add runs over a wider range "
            "of compute, or more of them"
        )


def _conditioned(number: float) -> list[str]:
    if number > REFUSE:
        raise NotIdentified(
            f"the fit has a condition number of {number:.2g}, above {REFUSE:.0e}: its coefficients are "
            "arbitrary; add runs at other tokens per parameter and other budgets"
        )
    return [f"the fit has a condition number of {number:.0f}, above {WARN:.0f}"] if number > WARN else []


def _resampled(fitted: npt.NDArray[np.bool_], groups: int, resample: str) -> list[str]:
    lost = int((~fitted).sum())
    if lost > len(fitted) / 2:
        raise NotIdentified(
            f"{lost} of {len(fitted)} bootstrap resamples determine no law, so this one rests on a few runs; "
            "add runs, or give bootstrap=0 for the point alone"
        )
    found = [f"{lost} of {len(fitted)} bootstrap resamples determine no law: intervals lack them"] * (
        lost > 0
    )
    if resample != "pairs" and groups < FEW_CLUSTERS:
        found.append(f"{groups} clusters were drawn; with fewer than {FEW_CLUSTERS} intervals are too short")
    return found
