"""Fit the law of loss against size and data to a table of runs (approach 3 of arXiv 2203.15556).

The objective is a sum over the runs, never a mean, of a loss of r = ln(prediction) - ln(loss): Huber with a
stated threshold, least absolute deviations, or half the square. A variable-projection grid gives the starts,
a Newton iteration on the objective itself the optimum, a bootstrap the intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import fdtri

from scaling.law import REPEAT_DECAY, Array, Interval, Law, effective_tokens
from scaling.runs import NotIdentified, Status, clean, rows_text
from scaling.solver import LIMITS, SQUARES, Points, descend, huber, residuals, starts

COEFFICIENTS = ("E", "A", "B", "alpha", "beta")
OBJECTIVES = ("huber", "lad", "log-mse")
RESAMPLES = ("pairs", "budget", "run")
REPEATS = ("refuse", "effective")
FEWEST = 5
# Of chance that a constant loss would be told from a law, where it is the truth.
CONSTANT = 0.01


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """The compute-optimal model at `flops`; intervals by name (params, tokens, tokens_per_param, loss).

    `beyond` is flops over those of the largest run: above 1 the law is extrapolated.
    """

    flops: float
    params: float
    tokens: float
    tokens_per_param: float
    loss: float
    beyond: float
    intervals: dict[str, Interval]

    def __str__(self) -> str:
        def span(name: str) -> str:
            found = self.intervals.get(name)
            return f" [{found.low:.3g}, {found.high:.3g}]" if found else ""

        text = (
            f"C = {self.flops:.3g}: N* = {self.params:.3g}{span('params')}, "
            f"D* = {self.tokens:.3g}{span('tokens')}, D/N = {self.tokens_per_param:.3g}"
            f"{span('tokens_per_param')}, loss {self.loss:.4g}{span('loss')}"
        )
        return text + (f"; extrapolated {self.beyond:.3g} times in compute" if self.beyond > 1 else "")


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedLaw(Law):
    """A law with what is known of it: `status`, `intervals`, `warnings`, and the draws they come from.

    value        the objective at the optimum, a sum over the runs; `delta` is its threshold on log loss
    condition    of the Jacobian, logs centred and columns scaled
    draws        coefficients of each bootstrap resample that converged
    residuals    ln(prediction) - ln(loss), by row of the table
    convention   how C, and where tokens repeat D, are counted
    largest      FLOPs of the largest run
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

    def at(self, c: float, confidence: float | None = None) -> Allocation:
        """The optimal allocation at c FLOPs, with percentile intervals where there are draws."""
        level = self.confidence if confidence is None else confidence
        intervals = {}
        if len(self.draws):
            laws = [Law(**dict(zip(COEFFICIENTS, row, strict=True))) for row in self.draws.to_numpy()]
            found = np.array([_allocation(law, c) for law in laws])
            intervals = {
                name: percentile(found[:, i], level)
                for i, name in enumerate(("params", "tokens", "tokens_per_param", "loss"))
            }
        params, tokens, ratio, loss = _allocation(self, c)
        return Allocation(
            flops=float(c),
            params=params,
            tokens=tokens,
            tokens_per_param=ratio,
            loss=loss,
            beyond=float(c) / self.largest,
            intervals=intervals,
        )


def fit(
    frame: pd.DataFrame,
    *,
    objective: Literal["huber", "lad", "log-mse"] = "huber",
    delta: float = 1e-3,
    bootstrap: int = 1000,
    resample: Literal["pairs", "budget", "run"] = "pairs",
    confidence: float = 0.95,
    seed: int = 0,
    repeats: Literal["refuse", "effective"] = "refuse",
    decay: float = REPEAT_DECAY,
) -> FittedLaw:
    """The law that minimises the objective over the runs of one architecture.

    delta      threshold of the Huber objective, on log loss
    bootstrap  resamples, 0 for none
    resample   what is drawn: single runs, whole isoFLOP groups, or all rows that share a label (column run
               or model)
    repeats    "effective" fits runs that repeat data (tokens above unique_tokens) with their effective
               tokens (arXiv 2305.16264, `decay` is R*); else they are refused

    ValueError where the table is at fault, NotIdentified where these runs cannot determine a law.
    """
    _known("objective", objective, OBJECTIVES)
    _known("resample", resample, RESAMPLES)
    _known("repeats", repeats, REPEATS)
    if not delta > 0:
        raise ValueError(f"delta = {delta} must be above 0; it is a log residual, say 1e-3")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence} must lie between 0 and 1, say 0.95")
    runs = clean(frame)
    _one_architecture(runs)
    warnings = _set_aside(runs)
    runs, convention = _repeated(runs, repeats, decay)
    _enough(runs)
    points = Points.of(*(runs[name].to_numpy(float) for name in ("params", "tokens", "loss")))
    threshold = {"huber": delta, "lad": 0.0, "log-mse": SQUARES}[objective]
    theta, value, converged = optimum(points, np.ones(len(runs)), threshold)
    _more_than_a_constant(points, value, threshold)
    status, bounds = _status(theta, converged)
    coefficients = dict(zip(COEFFICIENTS, map(float, points.coefficients(theta[None])[0]), strict=True))
    return FittedLaw(
        **coefficients,
        status=status,
        objective=objective,
        delta=delta if objective == "huber" else None,
        value=value,
        n=len(runs),
        condition=float("nan"),
        confidence=confidence,
        intervals={},
        draws=pd.DataFrame(columns=list(COEFFICIENTS), dtype=float),
        residuals=pd.Series(residuals(theta[None], points)[0], runs.index, name="residual"),
        convention=convention,
        warnings=(*warnings, *bounds),
        largest=float(runs["flops"].max()),
    )


def optimum(points: Points, weights: Array, delta: float) -> tuple[Array, float, bool]:
    """The unknowns (5,) with the lowest objective over several starts, its value, and whether it converged."""
    theta = starts(points, weights)
    if not len(theta):
        raise NotIdentified(
            "in no power law of these runs does the loss fall with both params and tokens; add runs that vary "
            "one while the other stays, over a factor of 10 or more"
        )
    stages = (delta,) if delta else (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
    for stage in stages:
        theta, value, converged = descend(theta, points, weights, stage)
    if not delta:
        value = np.abs(residuals(theta, points)) @ weights
    best = int(value.argmin())
    return theta[best], float(value[best]), bool(converged[best])


def percentile(values: Array, level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)


def _allocation(law: Law, c: float) -> tuple[float, float, float, float]:
    functions: tuple[Callable, ...] = (law.n_opt, law.d_opt, law.tokens_per_param, law.loss_opt)
    return tuple(float(function(c)) for function in functions)  # type: ignore[return-value]


def _known(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        close = get_close_matches(str(value), choices, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"{name} {value!r} is unknown; {hint}choose from {', '.join(choices)}")


def _one_architecture(runs: pd.DataFrame) -> None:
    names = sorted(set(runs["arch"]))
    if len(names) > 1:
        raise ValueError(
            f"column 'arch' holds {len(names)} architectures ({', '.join(names[:4])}); a law is fitted to one: "
            "select its rows, or drop the column to fit all as one"
        )


def _set_aside(runs: pd.DataFrame) -> list[str]:
    aside = runs.attrs["set_aside"]
    return [f"{rows_text(aside)} left out: status is not ok"] if aside else []


def _repeated(runs: pd.DataFrame, repeats: str, decay: float) -> tuple[pd.DataFrame, str]:
    """Runs with effective tokens where asked, and the convention that was followed."""
    convention = str(runs.attrs["convention"])
    if "unique_tokens" not in runs:
        if repeats == "effective":
            raise ValueError(
                "repeats = 'effective' needs a column unique_tokens; add it, counts without repeats"
            )
        return runs, convention
    unique = clean(runs[["unique_tokens"]], need=("unique_tokens",))["unique_tokens"].to_numpy(float)
    again = [int(row) for row in runs.index[runs["tokens"].to_numpy() > unique]]
    if not again:
        return runs, convention
    if repeats == "refuse":
        raise ValueError(
            f"{rows_text(again)}: tokens exceed unique_tokens, so data was repeated, which the law does not "
            "know; give repeats='effective', or leave these runs out"
        )
    worth = effective_tokens(runs["tokens"].to_numpy(), unique, decay)
    return runs.assign(tokens=worth), f"{convention}; D in effective tokens, R* = {decay:g}"


def _enough(runs: pd.DataFrame) -> None:
    places = len(runs[["params", "tokens"]].drop_duplicates())
    if places < FEWEST:
        raise NotIdentified(
            f"{places} different runs cannot determine {FEWEST} coefficients; add runs of other sizes and tokens"
        )


def _more_than_a_constant(points: Points, value: float, delta: float) -> None:
    """Refuse where a constant explains the losses about as well: an F test of the objectives."""
    n = len(points.x)
    spread = points.log_loss - np.median(points.log_loss)
    flat = float(np.abs(spread).sum() if not delta else huber(spread, delta).sum())
    if n > FEWEST and (flat - value) / 4 <= fdtri(4, n - FEWEST, 1 - CONSTANT) * value / (n - FEWEST):
        raise NotIdentified(
            f"a constant explains these {n} losses about as well as a law does; add runs over a wider range of "
            "compute, or more of them"
        )


def _status(theta: Array, converged: bool) -> tuple[Status, list[str]]:
    warnings = []
    if theta[0] <= 0:
        warnings.append(
            "E is at its bound, 0: these runs are too far from the entropy of the text to show it"
        )
    for name, value in (("alpha", theta[3]), ("beta", theta[4])):
        if not LIMITS[0] < value < LIMITS[1]:
            warnings.append(f"{name} is at its bound, {value:g}: these runs do not determine it")
    if not converged:
        return Status.FAILED, [*warnings, "the search did not converge; do not use these numbers"]
    return (Status.AT_BOUND if warnings else Status.CONVERGED), warnings
