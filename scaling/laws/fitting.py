"""Fit the law of loss against size and data to a table of runs (approach 3 of arXiv 2203.15556).

The objective is a sum over the runs, never a mean, of a loss of r = ln(loss) - ln(prediction): Huber with a
stated threshold, least absolute deviations, or half the square. A variable-projection grid gives the starts,
a Newton iteration on the objective itself the optimum, a bootstrap the intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import fdtri

from scaling.laws.diagnose import REFUSE, WARN, at_bounds, check_design, condition, log_residuals
from scaling.laws.forms import FORMS, STANDARD, form_of, known
from scaling.laws.law import (
    COEFFICIENTS,
    REPEAT_DECAY,
    TRAINING,
    Array,
    Interval,
    Law,
    effective_tokens,
    joined,
)
from scaling.laws.objective import Mask, Points, Problem, huber
from scaling.laws.powerlaw import check_confidence
from scaling.laws.resample import (
    FEW_CLUSTERS,
    chosen,
    clusters,
    in_order,
    multiplicities,
    percentile,
    refit,
)
from scaling.laws.runs.cleaning import NotIdentified, Runs, Status, Table, clean
from scaling.laws.runs.columns import rows_text
from scaling.laws.solver import LAD_AGAIN, optimum, stages

OBJECTIVES = ("huber", "lad", "log-mse")
RESAMPLES = ("pairs", "budget", "run")
REPEATS = ("refuse", "effective")
ALLOCATED = ("params", "tokens", "tokens_per_param", "loss")
# So many epochs of a text are about as good as new text (arXiv 2305.16264).
MOST_EPOCHS = 4.0
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

    form         its name in `scaling.laws.forms.FORMS`
    value        the objective at the optimum, a sum over the runs; `delta` is its threshold on log loss
    condition    of the Jacobian, logs centred and columns scaled
    draws        parameters of each bootstrap resample that converged
    residuals    ln(prediction) - ln(loss), by row of the table
    convention   how C, and where they repeat tokens, are counted
    largest      6 N D of the largest run
    resample     what the bootstrap drew: "pairs", "budget" or "run"; "" without one
    """

    form: str
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

    @property
    def formula(self) -> str:
        """The form of the law in N and D."""
        return FORMS[self.form].formula

    @property
    def values(self) -> dict[str, float]:
        """The parameters of the form and the exponents of N* and D*, by name."""
        names = (*FORMS[self.form].parameters, "n_exponent", "d_exponent")
        return {name: getattr(self, name) for name in names}

    def at(self, c: float, confidence: float | None = None) -> Allocation:
        """The optimal allocation at c FLOPs, with percentile intervals where there are draws."""
        level = self.confidence if confidence is None else confidence
        values = dict(zip(ALLOCATED, map(float, allocations(row(self, self.form), c)[:, 0]), strict=True))
        intervals = {}
        if len(self.draws):
            drawn = zip(ALLOCATED, allocations(self.draws.to_numpy(), c), strict=True)
            intervals = {name: percentile(found, level) for name, found in drawn}
        return Allocation(flops=float(c), beyond=float(c) / self.largest, intervals=intervals, **values)


def fit(
    frame: Table,
    *,
    form: str = STANDARD,
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

    form       "standard" E + A N^-alpha + B D^-beta; "over-training", which has beta = alpha; or
               "joint-exponent" E + (A N^-alpha + B D^-beta)^gamma. `scaling.laws.forms` has their sources
    objective  "huber" on log loss; "lad", its absolute deviations; "log-mse", its squares
    delta      threshold of the Huber objective, on log loss
    bootstrap  resamples, at least 100, or 0 for no intervals
    resample   what is drawn: single rows, whole isoFLOP groups, or all rows of a training run (column run or
               model). None: whole runs where several rows, of one size, share a label; else single rows
    confidence level of the intervals
    seed       of the resamples
    repeats    runs that read their text (column unique_tokens) up to four times count all tokens; those that
               read it more often are refused, or with "effective" fitted with their effective tokens, as
               are then all that repeat (arXiv 2305.16264, `decay` is R*)

    ValueError where the table is at fault, NotIdentified where these runs cannot determine a law.
    """
    shape = form_of(form)
    known("objective", objective, OBJECTIVES)
    known("resample", resample or "pairs", RESAMPLES)
    check_numbers(delta, confidence, bootstrap)
    table = clean(frame)
    warnings = [*table.notes, *_faults(table.frame)]
    largest = (TRAINING * table.frame["params"] * table.frame["tokens"]).max()
    table = repeated(table, repeats, decay)
    warnings += check_design(table.frame, shape)
    runs = in_order(table.frame)
    problem = Problem.of([Points.of(runs)], shape)
    thresholds = stages(objective, delta)
    theta, value, converged = optimum(problem, thresholds)
    _more_than_a_constant(problem, value, objective, thresholds)
    (values,) = problem.values(theta)
    law = Law(**values)
    number = condition(law, runs["params"], runs["tokens"], shape)
    warnings += conditioned(number, "the fit")
    bounds = at_bounds(law, runs, shape)
    status, failed = ended(bounds, converged)
    warnings += failed
    draws, drawn_as = np.empty((0, len(values))), ""
    if bootstrap:
        drawn_as = chosen(runs, resample)
        groups = clusters(runs, drawn_as)
        drawn = multiplicities(groups, bootstrap, seed)
        again = LAD_AGAIN if objective == "lad" else thresholds
        found, fitted = refit(theta, problem, drawn, again, REFUSE)
        warnings += _resampled(fitted, int(groups.max()) + 1, drawn_as)
        draws = problem.coefficients(found[fitted])[0]
    return FittedLaw(
        **values,
        form=form,
        status=status,
        objective=objective,
        delta=delta if objective == "huber" else None,
        value=value,
        n=len(runs),
        condition=number,
        confidence=confidence,
        intervals=parameter_intervals(draws, confidence),
        draws=pd.DataFrame(draws, columns=list(values)),
        residuals=pd.Series(log_residuals(law, runs), runs.index, name="residual").reindex(table.frame.index),
        convention=table.convention,
        warnings=(*warnings, *bounds),
        largest=float(largest),
        resample=drawn_as,
    )


def check_numbers(delta: float, confidence: float, bootstrap: int) -> None:
    if not delta > 0:
        raise ValueError(f"delta = {delta} must be above 0; it is a log residual, say 1e-3")
    check_confidence(confidence, bootstrap)


def ended(bounds: Sequence[str], converged: bool) -> tuple[Status, list[str]]:
    """How a fit ended, and the warning where that is in failure."""
    if not converged:
        return Status.FAILED, ["the search did not converge; do not use these numbers"]
    return Status.AT_BOUND if bounds else Status.CONVERGED, []


def conditioned(number: float, what: str) -> list[str]:
    """A warning where a condition number is large; NotIdentified where it is too large."""
    if number > REFUSE:
        raise NotIdentified(
            f"{what} has a condition number of {number:.2g}, above {REFUSE:.0e}: its coefficients are "
            "arbitrary; add runs at other tokens per parameter and other budgets"
        )
    return [f"{what} has a condition number of {number:.0f}, above {WARN:.0f}"] if number > WARN else []


def _faults(runs: pd.DataFrame) -> list[str]:
    """Refuse several architectures; a warning where C is not 6 N D."""
    names = sorted(runs["arch"].unique())
    if len(names) > 1:
        raise ValueError(
            f"column 'arch' holds {len(names)} architectures ({', '.join(names[:4])}); a law is fitted to "
            "one: select its rows, or drop the column to fit all as one"
        )
    middle = float(np.median(runs["flops"] / (TRAINING * runs["params"] * runs["tokens"])))
    if abs(middle - 1) <= ACCOUNTED:
        return []
    return [
        f"flops are {6 * middle:.3g} N D in the median, but N* and D* hold for C = 6 N D: give "
        "`at` the compute in that convention"
    ]


def repeated(table: Runs, repeats: str, decay: float) -> Runs:
    """Runs with effective tokens where asked, and the convention that was followed."""
    known("repeats", repeats, REPEATS)
    runs, convention = table.frame, table.convention
    if "unique_tokens" not in runs:
        if repeats == "effective":
            raise ValueError("repeats = 'effective' needs a column unique_tokens: counts without repeats")
        return table
    tokens = runs["tokens"].to_numpy()
    unique = pd.to_numeric(runs["unique_tokens"], errors="coerce").to_numpy(float)
    unique = np.where(np.isnan(unique), tokens, unique)  # Where nothing is said, nothing was repeated.
    again = list(runs.index[tokens > unique])
    if not again:
        return table
    epochs = tokens / unique
    if repeats == "refuse" and epochs.max() > MOST_EPOCHS:
        often = list(runs.index[epochs > MOST_EPOCHS])
        raise ValueError(
            f"{rows_text(often)}: tokens exceed {MOST_EPOCHS:g} times unique_tokens, so data was repeated "
            "more often than is nearly as good as new; give repeats='effective' (--repeats effective), or "
            f"leave these runs out (--where 'tokens <= {MOST_EPOCHS:g} * unique_tokens')"
        )
    if repeats == "refuse":
        said = f"{convention}; {len(again)} runs read their text up to {epochs.max():.2g} times"
        return replace(table, convention=said)
    worth = effective_tokens(tokens, unique, decay)
    said = f"{convention}; D in effective tokens, R* = {decay:g}"
    return replace(table, frame=runs.assign(tokens=worth), convention=said)


def _more_than_a_constant(
    problem: Problem, value: float, objective: str, thresholds: Sequence[float]
) -> None:
    """Refuse where a constant explains the losses about as well: an F test of the objectives."""
    n, log_loss = problem.n, problem.points[0].log_loss
    spread = log_loss - np.median(log_loss)
    flat = float(np.abs(spread).sum() if objective == "lad" else huber(spread, thresholds[-1]).sum())
    more, rest = len(problem.form.free) - 1, n - len(problem.form.free)
    if rest > 0 and (flat - value) / more <= fdtri(more, rest, 1 - CONSTANT) * value / rest:
        raise NotIdentified(
            f"a constant explains these {n} losses about as well as a law does; add runs over a wider range "
            "of compute, or more of them"
        )


def _resampled(fitted: Mask, groups: int, resample: str) -> list[str]:
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


@np.errstate(over="ignore", divide="ignore")
def allocations(parameters: Array, c: float) -> Array:
    """N*, D*, D*/N* and the loss there (4, k), of rows of parameters (k, p)."""
    e, a, b, alpha, beta, *gamma = parameters.T
    log_g = (np.log(alpha * a) - np.log(beta * b)) / (alpha + beta)
    n = np.exp(log_g + beta / (alpha + beta) * np.log(c / TRAINING))
    d = c / TRAINING / n
    return np.stack([n, d, d / n, joined(e, a * n**-alpha, b * d**-beta, *gamma)])


def row(law: Law, form: str) -> Array:
    """The parameters of a law as a row (1, p)."""
    return np.array([[getattr(law, name) for name in FORMS[form].parameters]])


def parameter_intervals(draws: Array, level: float) -> dict[str, Interval]:
    """Percentile intervals of rows of parameters (k, p) and of the exponents of N* and D*."""
    if not len(draws):
        return {}
    names = (*COEFFICIENTS, "gamma")[: draws.shape[1]]
    found = {name: percentile(draws[:, i], level) for i, name in enumerate(names)}
    share = draws[:, 4] / (draws[:, 3] + draws[:, 4])
    return {**found, "n_exponent": percentile(share, level), "d_exponent": percentile(1 - share, level)}
