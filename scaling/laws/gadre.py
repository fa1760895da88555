"""The over-training law as published: one exponent for size and data, from as few as five small runs.

L(C, M) = E + (p M^eta + q M^-eta) C^-eta at C training FLOPs and M = D / N tokens per parameter (Gadre et
al., arXiv 2403.08540). With C = 6 N D = 6 M N^2 and b = -2 eta that is E + a N^b + c 6^(b/2) (M N)^b: the
form "over-training" of `scaling.fit`, so what lies off the optimum costs the same factor at every scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.laws.diagnose import at_limit
from scaling.laws.forms import FORMS
from scaling.laws.law import TRAINING, Law, Numbers
from scaling.laws.objective import SQUARES, Points, Problem
from scaling.laws.runs.cleaning import NotIdentified, Status, Table, clean
from scaling.laws.solver import optimum

# A term that owes the loss no more than this, in nats, is none.
NOTHING = 1e-9


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
