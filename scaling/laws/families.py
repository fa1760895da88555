"""Laws of several architectures that share what they may, compared at equal compute and at equal loss.

L_k(N, D) = E_k + A_k N^-alpha_k + B_k D^-beta_k, with some of E, alpha and beta equal for all k. Irreducible
loss belongs to the text, so on one corpus E is naturally shared; exponents often agree within error, and
sharing them narrows every interval. Whether the runs allow it is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pandas as pd

from scaling.laws.diagnose import REFUSE, WARN, at_bounds
from scaling.laws.fitting import allocations, coefficient_intervals, known, repeated
from scaling.laws.law import REPEAT_DECAY, TRAINING, Array, Interval, Law
from scaling.laws.powerlaw import check_confidence
from scaling.laws.resample import chosen, clusters, in_order, multiplicities, refit
from scaling.laws.runs.cleaning import NotIdentified, Status, clean
from scaling.laws.sharing import SharingTest, by_architecture, own_design, points_of, shareable, sharing_test
from scaling.laws.solver import SQUARES, scaled_condition
from scaling.laws.tied import NAMES, Tied, optimum

OBJECTIVES = ("huber", "log-mse")


@dataclass(frozen=True, kw_only=True, eq=False)
class Families:
    """A law for each architecture, fitted together.

    laws, intervals, draws  by architecture; row i of all draws is one resample
    value                   the objective at the optimum, a sum over all runs
    condition               of the joint Jacobian, logs centred and columns scaled
    sharing                 the test of what is shared; None where nothing is, or no separate laws can be
    largest                 FLOPs of each architecture's largest run
    """

    laws: dict[str, Law]
    shared: tuple[str, ...]
    status: Status
    objective: str
    delta: float | None
    value: float
    n: int
    condition: float
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
                rows.append(
                    {
                        "arch": name,
                        "flops": float(flops),
                        "params": float(law.n_opt(flops)),
                        "tokens": float(law.d_opt(flops)),
                        "loss": float(law.loss_opt(flops)),
                        "low": low,
                        "high": high,
                        "beyond": float(flops) / self.largest[name],
                    }
                )
        return pd.DataFrame(rows)

    def multipliers(self, c: npt.ArrayLike, *, reference: str) -> pd.DataFrame:
        """The compute that each architecture needs for the loss that `reference` has at c, over c.

        From L*_k(c') = L*_reference(c); below 1 an architecture is cheaper, inf where it never gets there.
        Columns: arch, flops, loss (of the reference), multiplier, low, high, beyond (c' over the FLOPs of the
        architecture's largest run, or c over those of the reference's, whichever is more).
        """
        known("reference", reference, tuple(self.laws))
        base, base_draws = _row(self.laws[reference]), self.draws[reference].to_numpy(float)
        rows = []
        for name, law in self.laws.items():
            for flops in np.atleast_1d(np.asarray(c, float)):
                loss = allocations(base, flops)[3]
                ratio = float(_flops_for(_row(law), loss)[0] / flops)
                drawn = (
                    _flops_for(self.draws[name].to_numpy(float), allocations(base_draws, flops)[3]) / flops
                )
                low, high = self._interval(drawn)
                rows.append(
                    {
                        "arch": name,
                        "flops": float(flops),
                        "loss": float(loss[0]),
                        "multiplier": ratio,
                        "low": low,
                        "high": high,
                        "beyond": max(flops / self.largest[reference], ratio * flops / self.largest[name]),
                    }
                )
        return pd.DataFrame(rows)

    def _interval(self, values: Array) -> tuple[float, float]:
        """Percentiles, of which the upper may be inf; NaN without draws."""
        if not len(values):
            return float("nan"), float("nan")
        ends = [(1 - self.confidence) / 2, (1 + self.confidence) / 2]
        low, high = np.quantile(values, ends, method="inverted_cdf")
        return float(low), float(high)


def fit_families(
    frame: pd.DataFrame,
    *,
    shared: str | Sequence[str] = ("alpha", "beta"),
    objective: Literal["huber", "log-mse"] = "huber",
    delta: float = 1e-3,
    bootstrap: int = 1000,
    resample: Literal["pairs", "budget", "run"] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    repeats: Literal["refuse", "effective"] = "refuse",
    decay: float = REPEAT_DECAY,
) -> Families:
    """A law for each value of `arch`, with what is `shared` equal in all: any of E, alpha, beta, or none.

    The rest as in `fit`; resamples are drawn within each architecture. ValueError where the table is at
    fault; NotIdentified where an architecture's runs cannot determine what is its own. Where both exponents
    are shared it is enough that one architecture's runs identify a law alone, and the others' fix their own.
    """
    names = shareable(shared)
    known("objective", objective, OBJECTIVES)
    if not delta > 0:
        raise ValueError(f"delta = {delta} must be above 0; it is a log residual, say 1e-3")
    check_confidence(confidence, bootstrap)
    runs = clean(frame)
    warnings = list(runs.attrs["notes"])
    runs, convention = repeated(runs, repeats, decay)
    groups = {name: in_order(group) for name, group in by_architecture(runs).items()}
    warnings += _designs(groups, names)
    tied = Tied.of([points_of(group) for group in groups.values()], names)
    threshold = delta if objective == "huber" else SQUARES
    theta, value, converged = optimum(tied, threshold)
    number = float(scaled_condition(theta[None], tied, np.ones((1, tied.n)))[0])
    if number > REFUSE:
        raise NotIdentified(
            f"the joint fit has a condition number of {number:.2g}, above {REFUSE:.0e}: its coefficients "
            "are arbitrary; add runs at other tokens per parameter and other budgets"
        )
    if number > WARN:
        warnings.append(f"the joint fit has a condition number of {number:.0f}, above {WARN:.0f}")
    laws = {
        name: Law(**dict(zip(NAMES, map(float, rows[0]), strict=True)))
        for name, rows in zip(groups, tied.coefficients(theta[None]), strict=True)
    }
    bounds = [f"{name}: {words}" for name, law in laws.items() for words in at_bounds(law, groups[name])]
    status = Status.AT_BOUND if bounds else Status.CONVERGED
    if not converged:
        status = Status.FAILED
        warnings.append("the search did not converge; do not use these numbers")
    found = np.empty((0, len(theta)))
    if bootstrap:
        weights = _resamples(groups, resample, bootstrap, seed)
        found, fitted = refit(theta, tied, weights, (threshold,), REFUSE)
        found = found[fitted]
        if len(found) < bootstrap:
            warnings.append(
                f"{bootstrap - len(found)} of {bootstrap} bootstrap resamples determine no laws: intervals "
                "lack them"
            )
    draws = dict(zip(groups, tied.coefficients(found), strict=True))
    sharing, words = _tested(runs, names)
    return Families(
        laws=laws,
        shared=names,
        status=status,
        objective=objective,
        delta=delta if objective == "huber" else None,
        value=value,
        n=tied.n,
        condition=number,
        confidence=confidence,
        intervals={name: coefficient_intervals(rows, confidence) for name, rows in draws.items()},
        draws={name: pd.DataFrame(rows, columns=list(NAMES)) for name, rows in draws.items()},
        sharing=sharing,
        convention=convention,
        warnings=(*warnings, *words, *bounds),
        largest={name: float(group["flops"].max()) for name, group in groups.items()},
    )


def _designs(groups: dict[str, pd.DataFrame], shared: tuple[str, ...]) -> list[str]:
    """Warnings of the designs; of shared exponents it is enough that one architecture fixes them."""
    found, refused = [], []
    for name, group in groups.items():
        try:
            found += own_design(name, group)
        except NotIdentified as error:
            refused.append(error)
            own = len(NAMES) - len(shared)
            places = len(group[["params", "tokens"]].drop_duplicates())
            if places < own:
                raise NotIdentified(
                    f"{name}: {places} different runs cannot fix its own {own} parameters; add runs"
                ) from None
            found.append(f"{error}; its exponents are those of the others")
    if refused and (not {"alpha", "beta"} <= set(shared) or len(refused) == len(groups)):
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


def _tested(runs: pd.DataFrame, shared: tuple[str, ...]) -> tuple[SharingTest | None, list[str]]:
    if not shared:
        return None, []
    try:
        found = sharing_test(runs.drop(columns="unique_tokens", errors="ignore"), shared=shared)
    except NotIdentified as error:
        return None, [f"sharing is not tested: {error}"]
    return found, [str(found)] if found.is_rejected else []


def _flops_for(coefficients: Array, loss: Array) -> Array:
    """C at which the compute-optimal loss of rows of coefficients (k, 5) is `loss` (k,); inf where none is.

    L*(C) = E + K (C / 6)^-gamma, with gamma = alpha beta / (alpha + beta).
    """
    e, alpha, beta = coefficients[:, 0], coefficients[:, 3], coefficients[:, 4]
    at_one = allocations(coefficients, TRAINING)[3] - e
    gap = np.maximum(loss - e, 0.0)
    with np.errstate(divide="ignore", over="ignore"):
        return TRAINING * (at_one / gap) ** ((alpha + beta) / (alpha * beta))


def _row(law: Law) -> Array:
    return np.array([[law.E, law.A, law.B, law.alpha, law.beta]])
