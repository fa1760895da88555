"""Laws of several architectures that share what they may, compared at equal compute and at equal loss.

L_k(N, D) = E_k + A_k N^-alpha_k + B_k D^-beta_k, or another form, with some of E and the exponents equal for
all k. Irreducible loss belongs to the text, so on one corpus E is naturally shared; exponents often agree
within error, and sharing them narrows every interval. Whether the runs allow it is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import fdtrc

from scaling.laws.diagnose import REFUSE, at_bounds, check_design
from scaling.laws.fitting import (
    RESAMPLES,
    allocations,
    check_numbers,
    conditioned,
    ended,
    parameter_intervals,
    repeated,
    row,
)
from scaling.laws.forms import STANDARD, Form, form_of, known
from scaling.laws.law import REPEAT_DECAY, TRAINING, Array, Interval, Law
from scaling.laws.objective import SQUARES, Points, Problem
from scaling.laws.resample import chosen, clusters, in_order, multiplicities, refit
from scaling.laws.runs.cleaning import NotIdentified, Runs, Status, Table, clean
from scaling.laws.solver import optimum, scaled_condition, stages

OBJECTIVES = ("huber", "log-mse")
# The chance that sharing is rejected where it holds.
LEVEL = 0.05
# Residuals below this share of a log loss are rounding.
ROUNDING = 1e-10


@dataclass(frozen=True, kw_only=True)
class SharingTest:
    """An F test of shared against separate parameters, both fitted by least squares of log loss.

        F = ((S_shared - S_separate) / q) / (S_separate / (n - p))

    with S sums of squares, q parameters saved and p those of the separate laws; `degrees` are (q, n - p).
    It holds where residuals are independent, normal and of one size, and the laws nearly linear in their
    parameters within the error: of 400 simulated studies with shared laws it rejects 3 to 6 %.
    """

    shared: tuple[str, ...]
    statistic: float
    degrees: tuple[int, int]
    p: float

    @property
    def is_rejected(self) -> bool:
        """Whether separate laws fit better than chance would have it, at 5 %."""
        return self.p < LEVEL

    def __str__(self) -> str:
        verdict = "the runs speak against it" if self.is_rejected else "the runs do not speak against it"
        return (
            f"sharing {', '.join(self.shared)}: F({self.degrees[0]}, {self.degrees[1]}) = "
            f"{self.statistic:.3g}, p = {self.p:.2g}; {verdict}"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Families:
    """A law for each architecture, fitted together.

    laws, intervals, draws  by architecture; row i of all draws is one resample
    value                   the objective at the optimum, a sum over all runs
    sharing                 the test of what is shared; None where nothing is, or no separate laws can be
    largest                 FLOPs of each architecture's largest run
    """

    laws: dict[str, Law]
    form: str
    shared: tuple[str, ...]
    status: Status
    value: float
    n: int
    confidence: float
    intervals: dict[str, dict[str, Interval]]
    draws: dict[str, pd.DataFrame]
    sharing: SharingTest | None
    convention: str
    warnings: tuple[str, ...]
    largest: dict[str, float]

    def frontier(self, c: npt.ArrayLike) -> pd.DataFrame:
        """The compute-optimal loss of each architecture at each of the FLOPs c, with its interval.

        Columns: arch, flops, params, tokens, loss, low, high, beyond (FLOPs over those of its largest run).
        """
        rows = []
        for name, law in self.laws.items():
            for flops in np.atleast_1d(np.asarray(c, float)):
                low, high = self._interval(allocations(self.draws[name].to_numpy(float), flops)[3])
                at = [float(found(flops)) for found in (law.n_opt, law.d_opt, law.loss_opt)]
                rows.append([name, float(flops), *at, low, high, float(flops) / self.largest[name]])
        names = ["arch", "flops", "params", "tokens", "loss", "low", "high", "beyond"]
        return pd.DataFrame(rows, columns=names)

    def multipliers(self, c: npt.ArrayLike, *, reference: str) -> pd.DataFrame:
        """The compute that each architecture needs for the loss that `reference` has at c, over c.

        From L*_k(c') = L*_reference(c); below 1 an architecture is cheaper, inf where it never gets there.
        Columns: arch, flops, loss (of the reference), multiplier, low, high, beyond (c' over the FLOPs of the
        architecture's largest run, or c over those of the reference's, whichever is more).
        """
        known("reference", reference, tuple(self.laws))
        base, base_draws = row(self.laws[reference], self.form), self.draws[reference].to_numpy(float)
        rows = []
        for name, law in self.laws.items():
            for flops in np.atleast_1d(np.asarray(c, float)):
                loss = allocations(base, flops)[3]
                ratio = float(_flops_for(row(law, self.form), loss)[0] / flops)
                losses = allocations(base_draws, flops)[3]
                low, high = self._interval(_flops_for(self.draws[name].to_numpy(float), losses) / flops)
                beyond = max(flops / self.largest[reference], ratio * flops / self.largest[name])
                rows.append([name, float(flops), float(loss[0]), ratio, low, high, beyond])
        names = ["arch", "flops", "loss", "multiplier", "low", "high", "beyond"]
        return pd.DataFrame(rows, columns=names)

    def _interval(self, values: Array) -> tuple[float, float]:
        """Percentiles, of which the upper may be inf; NaN without draws."""
        if not len(values):
            return float("nan"), float("nan")
        ends = [(1 - self.confidence) / 2, (1 + self.confidence) / 2]
        low, high = np.quantile(values, ends, method="inverted_cdf")
        return float(low), float(high)


def fit_families(
    frame: Table,
    *,
    shared: str | Sequence[str] = ("alpha", "beta"),
    form: str = STANDARD,
    objective: Literal["huber", "log-mse"] = "huber",
    delta: float = 1e-3,
    bootstrap: int = 1000,
    resample: Literal["pairs", "budget", "run"] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    repeats: Literal["refuse", "effective"] = "refuse",
    decay: float = REPEAT_DECAY,
) -> Families:
    """A law for each value of `arch`, with what is `shared` equal in all: parameters but A and B, or none.

    The rest as in `fit`; resamples are drawn within each architecture. ValueError where the table is at
    fault; NotIdentified where an architecture's runs cannot determine what is its own. Where both exponents
    are shared it is enough that one architecture's runs identify a law alone, and the others' fix their own.
    """
    shape = form_of(form)
    names = shareable(shared, shape)
    known("objective", objective, OBJECTIVES)
    known("resample", resample or "pairs", RESAMPLES)
    check_numbers(delta, confidence, bootstrap)
    table = clean(frame)
    warnings = list(table.notes)
    table = repeated(table, repeats, decay)
    groups = {name: in_order(group) for name, group in by_architecture(table.frame).items()}
    warnings += _designs(groups, names, shape)
    problem = Problem.of([Points.of(group) for group in groups.values()], shape, names)
    thresholds = stages(objective, delta)
    theta, value, converged = optimum(problem, thresholds)
    number = float(scaled_condition(theta[None], problem, np.ones((1, problem.n)))[0])
    warnings += conditioned(number, "the joint fit")
    laws = {name: Law(**own) for name, own in zip(groups, problem.values(theta), strict=True)}
    bounds = [
        f"{name}: {words}" for name, law in laws.items() for words in at_bounds(law, groups[name], shape)
    ]
    status, failed = ended(bounds, converged)
    warnings += failed
    found = np.empty((0, len(theta)))
    if bootstrap:
        weights = _resamples(groups, resample, bootstrap, seed)
        found, fitted = refit(theta, problem, weights, thresholds, REFUSE)
        found = found[fitted]
        if len(found) < bootstrap:
            warnings.append(
                f"{bootstrap - len(found)} of {bootstrap} bootstrap resamples determine no laws: intervals "
                "lack them"
            )
    draws = dict(zip(groups, problem.coefficients(found), strict=True))
    sharing, words = _tested(table, names, form)
    return Families(
        laws=laws,
        form=form,
        shared=names,
        status=status,
        value=value,
        n=problem.n,
        confidence=confidence,
        intervals={name: parameter_intervals(rows, confidence) for name, rows in draws.items()},
        draws={name: pd.DataFrame(rows, columns=list(shape.parameters)) for name, rows in draws.items()},
        sharing=sharing,
        convention=table.convention,
        warnings=(*warnings, *words, *bounds),
        largest={name: float(group["flops"].max()) for name, group in groups.items()},
    )


def sharing_test(
    frame: Table, *, shared: str | Sequence[str] = ("alpha", "beta"), form: str = STANDARD
) -> SharingTest:
    """Test whether the architectures of a table (column arch) have E, alpha or beta in common.

    ValueError where the table is at fault; NotIdentified where the runs of one architecture cannot determine
    a law of their own, or leave nothing to judge the error by.
    """
    shape = form_of(form)
    names = shareable(shared, shape)
    if not names:
        raise ValueError(
            f"shared is empty, so there is nothing to test; name some of {', '.join(shape.shareable)}"
        )
    groups = by_architecture(clean(frame).frame)
    for name, group in groups.items():
        check_design(group, shape, name)
    points = [Points.of(group) for group in groups.values()]
    together, apart = Problem.of(points, shape, names), Problem.of(points, shape)
    saved, rest = len(apart.low) - len(together.low), apart.n - len(apart.low)
    if rest < 1:
        raise NotIdentified(
            f"{apart.n} runs leave no error to judge by, as separate laws have {len(apart.low)} parameters; "
            f"add {1 - rest} run{'s' * (1 - rest != 1)} or more"
        )
    with_shared, separate = (optimum(problem, (SQUARES,))[1] for problem in (together, apart))
    floor = apart.n * ROUNDING**2
    statistic = max(with_shared - separate, 0.0) / saved / (max(separate, floor) / rest)
    return SharingTest(
        shared=names, statistic=statistic, degrees=(saved, rest), p=float(fdtrc(saved, rest, statistic))
    )


def shareable(shared: str | Sequence[str], form: Form) -> tuple[str, ...]:
    """The free parameters that are shared, in the form's order: for one that is tied, what it is tied to."""
    asked = [
        known("shared", name, form.shareable, 0.4)
        for name in ([shared] if isinstance(shared, str) else shared)
    ]
    return tuple(name for name in form.free if name in {form.ties.get(own, own) for own in asked})


def by_architecture(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The runs of each architecture, in the order in which the table first names them."""
    groups = {str(name): group for name, group in runs.groupby("arch", sort=False)}
    if len(groups) < 2:
        raise ValueError(
            f"column 'arch' names one architecture, {next(iter(groups))!r}; families need two or more: add "
            "another's runs, or use scaling.fit"
        )
    return groups


def _designs(groups: dict[str, pd.DataFrame], shared: tuple[str, ...], form: Form) -> list[str]:
    """Warnings of the designs; of shared exponents it is enough that one architecture fixes them."""
    found: list[str] = []
    refused = []
    for name, group in groups.items():
        try:
            found += check_design(group, form, name)
        except NotIdentified as error:
            refused.append(error)
            own = len(form.free) - len(shared)
            places = len(group[["params", "tokens"]].drop_duplicates())
            if places < own:
                raise NotIdentified(
                    f"{name}: {places} different runs cannot fix its own {own} parameters; add runs"
                ) from None
            found.append(f"{error}; its exponents are those of the others")
    if refused and (not set(form.free) - {"E", "A", "B"} <= set(shared) or len(refused) == len(groups)):
        raise refused[0]
    return found


def _resamples(
    groups: dict[str, pd.DataFrame], resample: str | None, draws: int, seed: int
) -> npt.NDArray[np.uint16]:
    """Multiplicities (draws, n) of all runs, drawn within each architecture."""
    seeds = [np.random.SeedSequence([seed, crc32(name.encode())]).generate_state(1)[0] for name in groups]
    return np.hstack(
        [
            multiplicities(clusters(group, chosen(group, resample)), draws, int(own))
            for group, own in zip(groups.values(), seeds, strict=True)
        ]
    )


def _tested(runs: Runs, shared: tuple[str, ...], form: str) -> tuple[SharingTest | None, list[str]]:
    if not shared:
        return None, []
    counted = runs.only(runs.frame.drop(columns="unique_tokens", errors="ignore"))
    try:
        found = sharing_test(counted, shared=shared, form=form)
    except NotIdentified as error:
        return None, [f"sharing is not tested: {error}"]
    return found, [str(found)] if found.is_rejected else []


def _flops_for(parameters: Array, loss: Array) -> Array:
    """C at which the compute-optimal loss of rows of parameters (k, p) is `loss` (k,); inf where none is.

    L*(C) = E + K (C / 6)^-g, with g = gamma alpha beta / (alpha + beta).
    """
    e, _, _, alpha, beta, *gamma = parameters.T
    at_one = allocations(parameters, TRAINING)[3] - e
    gap = np.maximum(loss - e, 0.0)
    with np.errstate(divide="ignore", over="ignore"):
        return TRAINING * (at_one / gap) ** ((alpha + beta) / (alpha * beta) / (gamma[0] if gamma else 1.0))
