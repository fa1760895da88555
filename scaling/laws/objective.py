"""The objective of a fit: a sum of Huber losses of residuals, for many weightings of the same runs at once.

Unknowns, a row for each weighting: of each law E, ln A', ln B', alpha, beta (and gamma), where A' and B'
belong to ln N and ln D less their means: uncentred, the Hessian's condition is above 1e11 (arXiv 2603.22339).
Parameters are tied, of several laws or within one, where they have the same slot of the row.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from scaling.laws import forms
from scaling.laws.forms import FORMS, STANDARD, Form
from scaling.laws.law import Array, Law

Mask = npt.NDArray[np.bool_]

# The Huber threshold that no log residual exceeds: half the sum of squares.
SQUARES = 1e6


@dataclass(frozen=True, kw_only=True)
class Points:
    """The runs of one law with centred logs: x of N, y of D, and the log of the loss; each (n,)."""

    x: Array
    y: Array
    log_loss: Array
    centre: tuple[float, float]

    @property
    def n(self) -> int:
        return len(self.x)

    @classmethod
    def of(cls, runs: pd.DataFrame, centre: tuple[float, float] | None = None) -> Points:
        """Of columns params, tokens and loss; centred at their means unless a centre is given."""
        log_n, log_d, log_loss = (np.log(runs[name].to_numpy(float)) for name in ("params", "tokens", "loss"))
        centre = centre or (float(log_n.mean()), float(log_d.mean()))
        return cls(x=log_n - centre[0], y=log_d - centre[1], log_loss=log_loss, centre=centre)


@dataclass(frozen=True, kw_only=True)
class System:
    """The objective at rows of unknowns: value (k,), gradient (k, p), and two Hessians (k, p, p).

    `newton` is exact and may be indefinite. `bound` is positive: that of the reweighted least squares which
    lie above the objective and touch it.
    """

    value: Array
    gradient: Array
    newton: Array
    bound: Array

    def rows(self, keep: Mask) -> System:
        return System(**{name: part[keep] for name, part in vars(self).items()})

    def replaced(self, where: Mask, new: System) -> System:
        def chosen(old: Array, other: Array) -> Array:
            return np.where(where.reshape(-1, *[1] * (old.ndim - 1)), other, old)

        return System(**{name: chosen(part, vars(new)[name]) for name, part in vars(self).items()})


@dataclass(frozen=True)
class Problem:
    """The runs of one or more laws of a form, law after law, with p unknowns; `slots` (laws, parameters).

    relative  residuals are of the log loss; else of the loss, in nats
    """

    form: Form
    points: tuple[Points, ...]
    slots: npt.NDArray[np.intp]
    low: Array
    high: Array
    reach: Array
    relative: bool

    @classmethod
    def of(
        cls,
        points: Sequence[Points],
        form: Form = FORMS[STANDARD],
        shared: Collection[str] = (),
        *,
        relative: bool = True,
    ) -> Problem:
        """shared: parameters that are equal in all laws."""
        slots = np.empty((len(points), len(form.parameters)), np.intp)
        names: list[str] = []
        for j, name in enumerate(form.parameters):
            if name in form.ties:
                slots[:, j] = slots[:, form.parameters.index(form.ties[name])]
                continue
            own = 1 if name in shared else len(points)
            slots[:, j] = len(names) + np.arange(len(points)) % own
            names += [name] * own
        limits = [form.limit(name) for name in names]
        low, high, reach = np.array([[one.low, one.high, one.reach] for one in limits]).T
        return cls(form, tuple(points), slots, low, high, reach, relative)

    @property
    def n(self) -> int:
        return sum(points.n for points in self.points)

    @property
    def is_plain(self) -> bool:
        """Whether the unknowns are the parameters of one law, in their order."""
        return self.slots.size == len(self.low) and len(self.points) == 1

    @property
    def tied_exponents(self) -> Mask:
        """Whether alpha, and whether beta, is tied to another exponent (2,)."""
        exponents = self.slots[:, 3:5]
        return np.all(np.bincount(exponents.ravel())[exponents] > 1, axis=0)

    def coefficients(self, theta: Array) -> list[Array]:
        """For each law its parameters in raw units (rows, parameters), from unknowns (rows, p)."""
        found = []
        for points, slot in zip(self.points, self.slots, strict=True):
            own = theta[:, slot]
            own[:, 1:3] = np.exp(own[:, 1:3] + own[:, 3:5] * np.array(points.centre))
            found.append(own)
        return found

    def values(self, theta: Array) -> list[dict[str, float]]:
        """For each law its parameters by name, from unknowns (p,)."""
        rows = (map(float, rows[0]) for rows in self.coefficients(theta[None]))
        return [dict(zip(self.form.parameters, row, strict=True)) for row in rows]

    def unknowns(self, law: Law) -> Array:
        """The row of unknowns (p,) of a problem of one law."""
        values = np.array([getattr(law, name) for name in self.form.parameters])
        values[1:3] = np.log(values[1:3]) - values[3:5] * np.array(self.points[0].centre)
        theta = np.empty(len(self.low))
        theta[self.slots[0]] = values
        return theta

    def residuals(self, theta: Array) -> tuple[Array, Array]:
        """Prediction less observation (k, n), in logs if relative, and its derivatives (k, p, n)."""
        r, jacobian = np.empty((len(theta), self.n)), np.zeros((len(theta), len(self.low), self.n))
        first = 0
        for points, slot in zip(self.points, self.slots, strict=True):
            here = slice(first, first := first + points.n)
            r[:, here], own, _ = self._residuals(theta[:, slot], points)
            jacobian[:, :, here] = self._places(slot).T @ own
        return r, jacobian

    def system(self, theta: Array, weights: Array, delta: float) -> System:
        """The sum over the runs of weights (k, n) times huber(residual), with its derivatives."""
        if self.is_plain:
            return self._system(theta, self.points[0], weights, delta)
        rows, unknowns = theta.shape
        value, gradient = np.zeros(rows), np.zeros((rows, unknowns))
        newton, bound = np.zeros((rows, unknowns, unknowns)), np.zeros((rows, unknowns, unknowns))
        first = 0
        for points, slot in zip(self.points, self.slots, strict=True):
            part = self._system(theta[:, slot], points, weights[:, first : first + points.n], delta)
            first += points.n
            places = self._places(slot)
            value += part.value
            gradient += part.gradient @ places
            newton += places.T @ part.newton @ places
            bound += places.T @ part.bound @ places
        return System(value=value, gradient=gradient, newton=newton, bound=bound)

    def _places(self, slot: npt.NDArray[np.intp]) -> Array:
        """Ones where a parameter of a law is an unknown (parameters, p): sums over them are exact."""
        return np.eye(len(self.low))[slot]

    def _residuals(self, theta: Array, points: Points) -> tuple[Array, Array, Array]:
        predicted, jacobian, total = forms.value(theta, points.x, points.y, relative=self.relative)
        if self.relative:
            return np.log(predicted) - points.log_loss, jacobian, total
        return predicted - np.exp(points.log_loss), jacobian, total

    def _system(self, theta: Array, points: Points, weights: Array, delta: float) -> System:
        r, jacobian, total = self._residuals(theta, points)
        size = np.abs(r)
        value = np.einsum("kn,kn->k", weights, huber(r, delta))
        pull = weights * np.clip(r, -delta, delta)
        gradient = np.matmul(jacobian, pull[:, :, None])[:, :, 0]
        across = jacobian.swapaxes(1, 2)
        bound = np.matmul(jacobian * (weights * (delta / np.maximum(size, delta)))[:, None], across)
        inside = np.where(size <= delta, weights, 0.0)
        newton = np.matmul(jacobian * (inside - pull if self.relative else inside)[:, None], across)
        newton += forms.curvature(theta, points.x, points.y, total, jacobian, pull, gradient)
        return System(value=value, gradient=gradient, newton=newton, bound=bound)


def huber(r: Array, delta: float) -> Array:
    """r^2 / 2 within delta, delta (|r| - delta / 2) beyond."""
    size = np.abs(r)
    inside = np.minimum(size, delta)
    return inside * (size - 0.5 * inside)
