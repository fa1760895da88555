"""How far an answer can be trusted: what single runs move, what the largest budgets say, how far it reaches.

A small error of predicted loss does not mean a small error of the allocation, so each table here carries
both. The verdicts of `audit` are sentences with a number and a remedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from scaling.laws.diagnose import log_residuals, screen
from scaling.laws.findings import Finding, verdicts
from scaling.laws.fitting import Allocation, FittedLaw, allocations, fit, repeated
from scaling.laws.forms import FORMS
from scaling.laws.law import REPEAT_DECAY, Array
from scaling.laws.objective import Mask, Points, Problem
from scaling.laws.resample import refitted
from scaling.laws.runs.cleaning import NotIdentified, Runs, Status, Table, budgets, clean
from scaling.laws.solver import LAD_AGAIN, left_out, stages

# Found budgets beyond this number are a scatter of compute, which is cut at shares of the runs instead.
MOST_BUDGETS = 12
SHARES = (0.5, 0.7, 0.9)
# Of more runs than the first, only so many are refitted without each: those that move the answer most.
ALL_REFITTED, REFITTED = 500, 64
# Shares of the runs that the default cuts leave out, from the least D/N up.
CUTS = (0.0, 0.05, 0.1, 0.2)


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """A fit with everything that was held against it; `findings` are the verdicts, the gravest first.

    allocation  at the target compute, with intervals and `beyond`
    screened, influence, together, cuts, held_out  the tables of `screen` and of the functions below
    """

    law: FittedLaw
    allocation: Allocation
    screened: pd.DataFrame
    influence: pd.DataFrame
    together: pd.DataFrame
    cuts: pd.DataFrame
    held_out: pd.DataFrame
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        delta = f"({self.law.delta:g})" if self.law.delta else ""
        head = f"{self.law.n} runs, {self.law.objective}{delta} on log loss, {self.law.convention}"
        return "\n".join([head, str(self.allocation), *map(str, self.findings)])


@np.errstate(over="ignore", divide="ignore")
def influence(frame: Table, law: FittedLaw, *, at: float) -> pd.DataFrame:
    """What leaving out each run does to D/N at `at` FLOPs and to the exponents; the most influential first.

    Columns: arch, params, tokens, loss; tokens_per_param without the run and its `ratio` to that with all;
    changes of n_exponent, alpha, beta, E; `refitted`, `converged`. Each is a fit of its own, started from
    `law`. Of more than 500 runs that holds for the 64 that move D/N most by one Newton step without them; the
    others have that step. Runs that are wrong in company hide each other: see `influential_set`.
    frame: the table that `law` was fitted to. Index: its rows.
    """
    runs, problem, theta = _fitted(frame, law)
    found, refits, converged = _without_each(theta, problem, np.ones(len(runs)), law, at)
    found = problem.coefficients(found)[0]
    ratio = allocations(found, at)[2]
    table = runs[["arch", "params", "tokens", "loss"]].assign(
        tokens_per_param=ratio,
        ratio=ratio / law.tokens_per_param(at),
        n_exponent=found[:, 4] / found[:, 3:5].sum(1) - law.n_exponent,
        alpha=found[:, 3] - law.alpha,
        beta=found[:, 4] - law.beta,
        E=found[:, 0] - law.E,
        refitted=refits,
        converged=converged,
    )
    return table.iloc[np.argsort(-np.abs(np.log(table["ratio"].to_numpy())), kind="stable")]


@np.errstate(over="ignore", divide="ignore")
def influential_set(frame: Table, law: FittedLaw, *, at: float, size: int = 5) -> pd.DataFrame:
    """Runs that, left out one after the other, move D/N at `at` FLOPs furthest; in the order they go.

    Each is the one whose leaving, after those before it, brings D/N furthest from that of all runs: a greedy
    search for the set that decides the answer (compare arXiv 2011.14999), among the runs that `influence`
    would refit. Columns: arch, params, tokens, loss; tokens_per_param without this run and those above it;
    `ratio` to that with all runs.
    """
    runs, problem, theta = _fitted(frame, law)
    most = len(runs) - len(theta)
    if not 0 < size <= most:
        raise ValueError(
            f"size = {size} of {len(runs)} runs; choose from 1 to {most}, so that {len(theta)} are left"
        )
    weights, gone, ratios = np.ones(len(runs)), [], []
    for _ in range(size):
        found, refits, _ = _without_each(theta, problem, weights, law, at)
        ratio = allocations(problem.coefficients(found)[0], at)[2] / law.tokens_per_param(at)
        furthest = int(np.where(refits, np.abs(np.log(ratio)), -1.0).argmax())
        theta = found[furthest]
        weights[furthest] = 0.0
        gone.append(furthest)
        ratios.append(float(ratio[furthest]))
    table = runs.iloc[gone][["arch", "params", "tokens", "loss"]]
    return table.assign(tokens_per_param=np.array(ratios) * law.tokens_per_param(at), ratio=ratios)


def minimum_ratio_cuts(
    frame: Table, *, at: float, cuts: Sequence[float] | None = None, **method: Any
) -> pd.DataFrame:
    """The fit to the runs with D/N above each cut: n, n_exponent, E, tokens_per_param at `at` FLOPs, status.

    Runs of few tokens per parameter pull hard on the allocation. If the answer wanders from cut to cut, the
    law does not hold there, or the data cannot tell. Without `cuts`, none, 5, 10 and 20 % of the runs go.
    method: form, objective and delta of `fit`.
    """
    table = clean(frame)
    runs = table.frame
    ratios = (runs["tokens"] / runs["params"]).to_numpy(float)
    if cuts is None:
        cuts = [0.0, *np.quantile(ratios, CUTS[1:])]
    rows: list[list[Any]] = []
    for cut in cuts:
        law, status = _attempt(table, ratios > cut, method)
        said = [law.n_exponent, law.E, float(law.tokens_per_param(at))] if law else [np.nan] * 3
        rows.append([float(cut), int((ratios > cut).sum()), *said, status])
    return pd.DataFrame(rows, columns=["above", "n", "n_exponent", "E", "tokens_per_param", "status"])


def hold_out(
    frame: Table, *, below: Sequence[float] | None = None, at: float | None = None, **method: Any
) -> pd.DataFrame:
    """Fit the runs below a compute, predict those at or above it; a row for each of `below`.

    Columns: below, n_train, n_test; `reach`, the largest compute over that of the training runs; `mape` and
    `bias` in percent of the loss (bias above 0: predicted too high), and `chance`, what the scatter of the
    training runs makes of the bias in 95 of 100 cases; tokens_per_param at `at` FLOPs (the largest run's
    unless given) by the training runs alone; status. Where they do not identify a law the row says so and
    holds no numbers. Without `below` the largest budget is left out, then two, then three. method: form,
    objective and delta of `fit`.
    """
    table = clean(frame)
    runs = table.frame
    flops = runs["flops"].to_numpy(float)
    target = float(flops.max()) if at is None else at
    parts = _parts(runs) if below is None else [(float(limit), flops < limit) for limit in below]
    rows: list[list[Any]] = []
    for limit, small in parts:
        if small.all() or not small.any():
            side = "below" if small.all() else "at or above"
            raise ValueError(
                f"below = {limit:g}: all {len(runs)} runs are {side} it; choose a compute between "
                f"{flops.min():.3g} and {flops.max():.3g}"
            )
        train, test = runs[small], runs[~small]
        law, status = _attempt(table, small, method)
        said = [np.nan] * 4
        if law:
            error = np.expm1(log_residuals(law, test)) * 100
            ratio = float(law.tokens_per_param(target))
            said = [float(np.abs(error).mean()), float(error.mean()), _chance(law, train, test), ratio]
        rows.append([limit, len(train), len(test), float(flops.max() / flops[small].max()), *said, status])
    names = ["mape", "bias", "chance", "tokens_per_param", "status"]
    return pd.DataFrame(rows, columns=["below", "n_train", "n_test", "reach", *names])


def audit(
    frame: Table,
    *,
    at: float,
    law: FittedLaw | None = None,
    repeats: Literal["refuse", "effective"] = "refuse",
    decay: float = REPEAT_DECAY,
) -> Audit:
    """Hold everything against the answer that the runs of one architecture give at `at` FLOPs.

    law             a fit to this very table, whose objective all refits take; without it `fit` as it stands
    repeats, decay  as that fit had them

    ValueError and NotIdentified as of `fit`.
    """
    if law is None:
        law = fit(frame, repeats=repeats, decay=decay)
    table = repeated(clean(frame), repeats, decay)
    runs = table.frame.drop(columns="unique_tokens", errors="ignore")
    table = table.only(runs)
    method: dict[str, Any] = {"form": law.form, "objective": law.objective, "delta": law.delta or 1e-3}
    allocation = law.at(at)
    tables = {
        "screened": screen(runs, log_residuals(law, runs)),
        "influence": influence(table, law, at=at),
        "together": influential_set(table, law, at=at, size=min(5, len(runs) - len(FORMS[law.form].free))),
        "cuts": minimum_ratio_cuts(table, at=at, **method),
        "held_out": hold_out(table, at=at, **method),
    }
    return Audit(law=law, allocation=allocation, findings=verdicts(runs, law, allocation, **tables), **tables)


def _chance(law: FittedLaw, train: pd.DataFrame, test: pd.DataFrame) -> float:
    """Of the mean error of the predicted losses, in percent: twice its standard error, by least squares.

    Absolute deviations, to which Huber objectives are close, err by a factor sqrt(pi / 2) more.
    """
    points, form = Points.of(train), FORMS[law.form]
    problem = Problem.of([points], form)
    theta = problem.unknowns(law)[None]
    columns = problem.residuals(theta)[1][0]
    mean = Problem.of([Points.of(test, points.centre)], form).residuals(theta)[1][0].mean(1)
    scatter = float(np.sqrt((law.residuals**2).sum() / max(len(train) - theta.size, 1)))
    spread = np.pi / 2 * mean @ np.linalg.pinv(columns @ columns.T) @ mean + 1 / len(test)
    return 200 * scatter * float(np.sqrt(spread))


def _attempt(table: Runs, kept: Mask, method: dict[str, Any]) -> tuple[FittedLaw | None, str]:
    """A fit to the rows that are kept, and how it ended."""
    if not kept.any():
        return None, f"{Status.NOT_IDENTIFIED}: no runs are left"
    try:
        law = fit(table.only(table.frame[kept]), bootstrap=0, **method)
    except NotIdentified as error:
        return None, f"{Status.NOT_IDENTIFIED}: {error}"
    return law, str(law.status)


def _parts(runs: pd.DataFrame) -> list[tuple[float, Mask]]:
    """A compute, and which runs lie below it: all but the largest budget, but two, but three.

    Budgets are whole groups of runs, ordered by their own FLOPs, whatever unit the column counts them in. Of
    a scatter the upper shares of the runs are left out.
    """
    logs = np.log(runs["flops"])
    middle = np.exp(logs.groupby(budgets(runs)).transform("mean").to_numpy(float))
    levels = np.unique(middle)
    if len(levels) < 2:
        raise NotIdentified(
            "all runs lie at one budget, so none is left to be predicted; add a larger budget"
        )
    if len(levels) > MOST_BUDGETS:
        flops = runs["flops"].to_numpy(float)
        return [(float(limit), flops < limit) for limit in np.quantile(flops, SHARES)]
    between = np.sqrt(levels[:-1] * levels[1:])
    return [(float(limit), middle < limit) for limit in between[-3:]]


def _fitted(frame: Table, law: FittedLaw) -> tuple[pd.DataFrame, Problem, Array]:
    """The runs of a law, the problem that it solves, and its unknowns (p,)."""
    runs = clean(frame).frame
    if len(runs) != law.n:
        raise ValueError(f"the table has {len(runs)} runs, the law was fitted to {law.n}; give that table")
    runs.index = law.residuals.index
    problem = Problem.of([Points.of(runs)], FORMS[law.form])
    return runs, problem, problem.unknowns(law)


def _without_each(
    theta: Array, problem: Problem, weights: Array, law: FittedLaw, at: float
) -> tuple[Array, Mask, Mask]:
    """The unknowns (n, p) without each run in turn, from those of all, and which are refits that converged.

    The others have one Newton step: exact for a quadratic objective, close where one run is little of all.
    """
    thresholds = stages(law.objective, law.delta or 1.0)
    left = np.flatnonzero(weights)
    found = np.tile(theta, (len(weights), 1))
    if len(weights) > ALL_REFITTED:
        found = left_out(theta, problem, weights, thresholds[0] if law.objective != "lad" else LAD_AGAIN[0])
        ratio = allocations(problem.coefficients(found[left])[0], at)[2] / law.tokens_per_param(at)
        moved = np.abs(np.log(ratio))
        left = left[np.argsort(-moved, kind="stable")[:REFITTED]]
    each = np.tile(weights, (len(left), 1))
    each[np.arange(len(left)), left] = 0.0
    refits, converged = np.zeros(len(weights), bool), np.zeros(len(weights), bool)
    refits[left] = True
    found[left], converged[left] = refitted(theta, problem, each, thresholds)
    return found, refits, converged
