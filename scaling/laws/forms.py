"""The forms a law of loss may take, as data: parameters with limits and starts, value, exact derivatives.

A new form is an entry of `FORMS`: the solver, the bootstrap, the audit and the command line read only that.
All forms are L = E + (A N^-alpha + B D^-beta)^gamma with parameters tied to each other, left out or held
(limits that coincide), so the allocation of compute is in each the algebra of `scaling.laws.law.Law`.

Derivatives are by the solver's unknowns: E, ln A', ln B', alpha, beta and gamma, where A' and B' belong to
x = ln N and y = ln D less their means.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np

from scaling.laws.law import COEFFICIENTS, Array


@dataclass(frozen=True)
class Parameter:
    """Limits of an unknown, and the longest step of a search: further, the model means nothing there."""

    low: float
    high: float
    reach: float


# The solver has A and B by their logarithms: a step of 3 is a factor of e^3.
PARAMETERS = {
    "E": Parameter(0.0, np.inf, np.inf),
    "A": Parameter(-np.inf, np.inf, 3.0),
    "B": Parameter(-np.inf, np.inf, 3.0),
    "alpha": Parameter(0.01, 2.0, 1.0),
    "beta": Parameter(0.01, 2.0, 1.0),
    "gamma": Parameter(0.2, 5.0, 0.5),
}


@dataclass(frozen=True, kw_only=True)
class Form:
    """A law of loss as a formula, its source, and what of its parameters is free.

    parameters  in the order of the solver's unknowns
    ties        parameters that equal another
    gammas      where searches start in gamma; the others start from a grid of exponents
    limits      of parameters that have others than usual; a parameter with low = high is held
    """

    formula: str
    source: str
    parameters: tuple[str, ...] = COEFFICIENTS
    ties: Mapping[str, str] = field(default_factory=dict)
    gammas: tuple[float, ...] = ()
    limits: Mapping[str, Parameter] = field(default_factory=dict)

    @property
    def free(self) -> tuple[str, ...]:
        """The parameters that a fit determines."""
        held = {name for name, limit in self.limits.items() if limit.low == limit.high}
        return tuple(name for name in self.parameters if name not in self.ties and name not in held)

    @property
    def shareable(self) -> tuple[str, ...]:
        """The parameters that architectures may have in common."""
        return tuple(name for name in self.parameters if name not in ("A", "B"))

    def limit(self, name: str) -> Parameter:
        return self.limits.get(name, PARAMETERS[name])


# A sum of terms is at least this, so that it has a logarithm.
TINY = 1e-300

STANDARD = "standard"
FORMS = {
    STANDARD: Form(formula="E + A N^-alpha + B D^-beta", source="arXiv 2203.15556"),
    "over-training": Form(
        formula="E + A N^-alpha + B D^-alpha", source="arXiv 2403.08540", ties={"beta": "alpha"}
    ),
    "joint-exponent": Form(
        formula="E + (A N^-alpha + B D^-beta)^gamma",
        source="arXiv 2510.02228",
        parameters=(*COEFFICIENTS, "gamma"),
        gammas=(0.5, 1.0, 2.0),
    ),
}


def form_of(name: str) -> Form:
    """The form of that name; an unknown name is refused with the nearest."""
    return FORMS[known("form", name, FORMS, cutoff=0.4)]


def known(name: str, value: str, choices: Collection[str], cutoff: float = 0.6) -> str:
    """The value; refused where it is not among the choices, with the nearest that is."""
    if value not in choices:
        close = get_close_matches(str(value), choices, n=1, cutoff=cutoff)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"{name} {value!r} is unknown; {hint}choose from {', '.join(choices)}")
    return value


def value(theta: Array, x: Array, y: Array, *, relative: bool = True) -> tuple[Array, Array, Array]:
    """The prediction (k, n) at rows of unknowns (k, p), its derivatives (k, p, n), and what gamma raises.

    relative  derivatives of its logarithm
    """
    jacobian = np.empty((len(theta), theta.shape[1], len(x)))
    part_n = np.exp(theta[:, 1:2] - theta[:, 3:4] * x)
    part_d = np.exp(theta[:, 2:3] - theta[:, 4:5] * y)
    if theta.shape[1] == 5:
        predicted = total = theta[:, :1] + part_n + part_d
    else:
        total, gamma = np.maximum(part_n + part_d, TINY), theta[:, 5:]
        raised = total**gamma
        predicted = theta[:, :1] + raised
        slope = gamma * raised / total
        part_n *= slope
        part_d *= slope
        jacobian[:, 5] = raised * np.log(total)
    np.divide(1.0, predicted if relative else 1.0, out=jacobian[:, 0])
    jacobian[:, 5:] *= jacobian[:, :1]
    np.multiply(part_n, jacobian[:, 0], out=jacobian[:, 1])
    np.multiply(part_d, jacobian[:, 0], out=jacobian[:, 2])
    np.multiply(jacobian[:, 1], -x, out=jacobian[:, 3])
    np.multiply(jacobian[:, 2], -y, out=jacobian[:, 4])
    return predicted, jacobian, total


def curvature(
    theta: Array, x: Array, y: Array, total: Array, jacobian: Array, pull: Array, gradient: Array
) -> Array:
    """The second derivatives of the prediction (k, p, p), summed over the runs with weights pull (k, n).

    total and jacobian are those of `value`, and the derivatives are relative where those are; gradient (k, p)
    is jacobian @ pull.
    """
    found = np.zeros((len(theta), theta.shape[1], theta.shape[1]))
    # Each power law curves in its own two unknowns.
    pulled = jacobian[:, 3:5] * pull[:, None]
    curves = np.stack([pulled[:, 0] @ -x, pulled[:, 1] @ -y], axis=1)
    for i in (0, 1):
        found[:, 1 + i, 1 + i] = gradient[:, 1 + i]
        found[:, 1 + i, 3 + i] = found[:, 3 + i, 1 + i] = gradient[:, 3 + i]
        found[:, 3 + i, 3 + i] = curves[:, i]
    if theta.shape[1] == 5:
        return found
    gamma, inner, logs = theta[:, 5:], jacobian[:, 1:5], np.log(total)
    curl = pull * (1 - 1 / gamma) / np.maximum(total**gamma * jacobian[:, 0], TINY)
    found[:, 1:5, 1:5] += np.matmul(inner * curl[:, None], inner.swapaxes(1, 2))
    cross = np.matmul(inner, (pull * (1 / gamma + logs))[:, :, None])[:, :, 0]
    found[:, 1:5, 5] = found[:, 5, 1:5] = cross
    found[:, 5, 5] = np.einsum("kn,kn->k", jacobian[:, 5], pull * logs)
    return found
