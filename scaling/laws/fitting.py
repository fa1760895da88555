"""Fit the law of loss against size and data to a table of runs (approach 3 of arXiv 2203.15556).

The objective is a sum over the runs, never a mean, of a loss of r = ln(loss) - ln(prediction): Huber with a
stated threshold, least absolute deviations, or half the square. A variable-projection grid gives the starts,
a Newton iteration on the objective itself the optimum, a bootstrap the intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import fdtri

from scaling.laws.diagnose import REFUSE, WARN, at_bounds, check_design, condition, log_residuals
from scaling.laws.fitted import FittedLaw, parameter_intervals
from scaling.laws.forms import STANDARD, form_of, known
from scaling.laws.law import REPEAT_DECAY, TRAINING, Array, Law, effective_tokens
from scaling.laws.objective import Points, Problem, huber
from scaling.laws.powerlaw import check_confidence
from scaling.laws.resample import FEW_CLUSTERS, chosen, clusters, in_order, multiplicities, refit
from scaling.laws.runs.cleaning import NotIdentified, Runs, Status, Table, clean, rows_text
from scaling.laws.search import LAD_AGAIN, optimum, stages

OBJECTIVES = ("huber", "lad", "log-mse")
RESAMPLES = ("pairs", "budget", "run")
REPEATS = ("refuse", "effective")
# So many epochs of a text are about as good as new text (arXiv 2305.16264).
MOST_EPOCHS = 4.0
# Flops within this share of 6 N D are the same account.
ACCOUNTED = 0.1
# The chance that a law is taken for more than a constant where a constant is the truth.
CONSTANT = 0.01


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
    if resample is not None:
        known("resample", resample, RESAMPLES)
    known("repeats", repeats, REPEATS)
    check_delta(delta)
    check_confidence(confidence, bootstrap)
    table = clean(frame)
    runs, warnings = table.frame, list(table.notes)
    _one_architecture(runs)
    trained = TRAINING * runs["params"].to_numpy(float) * runs["tokens"].to_numpy(float)
    warnings += _accounting(runs["flops"].to_numpy(float) / trained)
    table = repeated(table, repeats, decay)
    runs = table.frame
    warnings += check_design(runs, shape)
    rows, runs = runs.index, in_order(runs)
    problem = Problem.of([Points.of(runs)], shape)
    thresholds = stages(objective, delta)
    theta, value, converged = optimum(problem, thresholds)
    _more_than_a_constant(problem, value, objective, thresholds)
    values = dict(zip(shape.parameters, map(float, problem.coefficients(theta[None])[0][0]), strict=True))
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
        residuals=pd.Series(log_residuals(law, runs), runs.index, name="residual").reindex(rows),
        convention=table.convention,
        warnings=(*warnings, *bounds),
        largest=float(trained.max()),
        resample=drawn_as,
    )


def check_delta(delta: float) -> None:
    if not delta > 0:
        raise ValueError(f"delta = {delta} must be above 0; it is a log residual, say 1e-3")


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


def repeated(table: Runs, repeats: str, decay: float) -> Runs:
    """Runs with effective tokens where asked, and the convention that was followed."""
    runs, convention = table.frame, table.convention
    if "unique_tokens" not in runs:
        if repeats == "effective":
            raise ValueError("repeats = 'effective' needs a column unique_tokens: counts without repeats")
        return table
    unique = pd.to_numeric(runs["unique_tokens"], errors="coerce").to_numpy(float)
    again = list(runs.index[runs["tokens"].to_numpy() > unique])
    if not again:
        return table
    epochs = runs["tokens"].to_numpy() / unique
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
    worth = effective_tokens(runs["tokens"].to_numpy(), unique, decay)
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
