"""What a fit gives: a law with its status, intervals and draws, and allocations of compute by it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from scaling.laws.forms import FORMS
from scaling.laws.law import COEFFICIENTS, TRAINING, Array, Interval, Law, joined
from scaling.laws.resample import percentile
from scaling.laws.runs.cleaning import Status

ALLOCATED = ("params", "tokens", "tokens_per_param", "loss")


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
