"""The over-training law: one exponent for size and data, so that five small runs predict long training.

L(C, M) = E + (p M^eta + q M^-eta) C^-eta at C training FLOPs and M = D / N tokens a parameter (Gadre et al.,
arXiv 2403.08540). With C = 6 N D = 6 M N^2 and b = -2 eta that is E + a N^b + c 6^(b/2) (M N)^b: the law of
`scaling.laws.law` with alpha = beta, so what lies off the optimum costs the same factor at every scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

from scaling.laws.law import TRAINING, Array, Law, Numbers
from scaling.laws.runs.cleaning import NotIdentified, Status, clean

# Where the exponent b is searched for.
STEEPEST, FLATTEST = -2.0, -0.01


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
        """-b / 2, the exponent of compute at fixed tokens a parameter."""
        return -self.b / 2

    @property
    def law(self) -> Law:
        """The same as a law of N and D."""
        return Law(E=self.E, A=self.a, B=self.c * TRAINING ** (self.b / 2), alpha=-self.b, beta=-self.b)

    def loss(self, n: Numbers, tokens_per_param: Numbers) -> Numbers:
        """The loss of n parameters trained on so many tokens each, in nats per token."""
        return self.law.loss(n, np.asarray(n, float) * tokens_per_param)


def fit_overtraining_law(frame: pd.DataFrame) -> OverTrainingLaw:
    """Least squares of the loss (not of its logarithm, as published) over the runs of a table.

    For a given b the law is linear, so the search has one dimension. NotIdentified for fewer than five runs,
    or where all have one size or one D / N, or none of the exponents gives a law that falls with both.
    """
    runs = clean(frame)
    n, d, loss = (runs[name].to_numpy(float) for name in ("params", "tokens", "loss"))
    sizes, ratios = len(np.unique(n)), len(np.unique(np.round(np.log(d / n), 2)))
    if len(runs) < 5 or sizes < 3 or ratios < 2:
        raise NotIdentified(
            f"{len(runs)} runs of {sizes} sizes and {ratios} tokens per parameter cannot determine four "
            "coefficients; give at least five runs, of three sizes, two of them at other tokens per parameter"
        )
    grid = np.linspace(STEEPEST, FLATTEST, 200)
    sums = [_linear(b, n, d, loss)[1] for b in grid]
    best = int(np.argmin(sums))
    if not np.isfinite(sums[best]):
        raise NotIdentified(
            "in no such law does the loss fall with both params and tokens; check the losses, add runs"
        )
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    found = minimize_scalar(
        lambda b: _linear(b, n, d, loss)[1], bounds=bounds, method="bounded", options={"xatol": 1e-10}
    )
    b = float(found.x)
    (e, a, c), value = _linear(b, n, d, loss)
    at_bound = e <= 0 or best in (0, len(grid) - 1)
    status = Status.AT_BOUND if at_bound else Status.CONVERGED if found.success else Status.FAILED
    return OverTrainingLaw(
        E=float(e), a=float(a), b=b, c=float(c / TRAINING ** (b / 2)), status=status, value=value, n=len(runs)
    )


def _linear(b: float, n: Array, d: Array, loss: Array) -> tuple[Array, float]:
    """E, a and the coefficient of D^b that fit best, and their sum of squares; inf where not a law."""
    centre = np.array([np.log(n).mean(), np.log(d).mean()])
    columns = np.exp(b * (np.stack([np.log(n), np.log(d)]) - centre[:, None]))
    design = np.column_stack([np.ones(len(n)), *columns])
    solved = np.linalg.lstsq(design, loss, rcond=None)[0]
    if solved[0] < 0:
        solved = np.array([0.0, *np.linalg.lstsq(design[:, 1:], loss, rcond=None)[0]])
    residual = design @ solved - loss
    coefficients = solved * np.array([1.0, *np.exp(-b * centre)])
    return coefficients, float(residual @ residual) if (solved[1:] > 0).all() else float("inf")
