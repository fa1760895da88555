"""The solver: derivatives, weights, the global optimum and the vertex of least absolute deviations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

import scaling
from scaling.laws.law import Law
from scaling.laws.objective import SQUARES
from scaling.laws.solver import descend, starts
from tests.scaling.laws.designs import CORRECTED, differences, like_chinchilla, problem_of


@pytest.mark.parametrize("delta", [1e-3, 1e-2, SQUARES])
def test_gradient_and_hessian_are_those_of_finite_differences(delta: float) -> None:
    problem = problem_of(like_chinchilla())
    weights = np.random.default_rng(0).integers(0, 4, (1, 240)).astype(float)
    theta = np.array([1.7, -1.1, -0.8, 0.4, 0.3])
    here = problem.system(theta[None], weights, delta)
    slope, bend = differences(problem, theta, weights, delta)
    newton = here.newton[0]
    assert np.linalg.norm(here.gradient[0] - slope) < 1e-5 * np.abs(here.gradient).max()
    np.testing.assert_allclose(newton, newton.T, rtol=1e-12)
    np.testing.assert_allclose(newton, bend, atol=1e-6 * np.abs(newton).max())


@pytest.mark.parametrize(("objective", "delta"), [("huber", 1e-3), ("huber", 1e-2), ("log-mse", SQUARES)])
def test_no_start_of_another_solver_finds_a_lower_objective(objective: Any, delta: float) -> None:
    frame = like_chinchilla()
    law = scaling.fit(frame, objective=objective, delta=min(delta, 1), bootstrap=0)
    problem, generator = problem_of(frame), np.random.default_rng(2)

    def peer(t: np.ndarray) -> tuple[float, np.ndarray]:
        found = problem.system(t[None], np.ones((1, len(frame))), delta)
        return float(found.value[0]) * 1e3, found.gradient[0] * 1e3

    values = []
    for _ in range(20):
        start = generator.uniform([0.3, -3, -3, 0.05, 0.05], [2.2, 0.5, 0.5, 1.2, 1.2])
        bounds = [(0, None), (None, None), (None, None), (0.01, 2), (0.01, 2)]
        values.append(minimize(peer, start, jac=True, method="L-BFGS-B", bounds=bounds, tol=1e-14).fun / 1e3)
    assert law.value <= min(values) * (1 + 1e-9)
    assert law.value == pytest.approx(min(values), rel=1e-4)


def test_every_start_ends_at_one_optimum() -> None:
    problem = problem_of(like_chinchilla())
    generator = np.random.default_rng(3)
    far = generator.uniform([0.1, -3, -3, 0.05, 0.05], [2.3, 0.5, 0.5, 1.5, 1.5], (200, 5))
    _, values, converged = descend(far, problem, np.ones(240), 1e-3)
    _, own, _ = descend(starts(problem, np.ones(240)), problem, np.ones(240), 1e-3)
    assert converged.mean() > 0.95
    assert own.min() <= values.min() * (1 + 1e-9)


def test_a_run_given_twice_counts_as_weight_two() -> None:
    frame = like_chinchilla()
    extra = pd.concat([frame.assign(seed=0), frame.iloc[:30].assign(seed=1)], ignore_index=True)
    law = scaling.fit(extra, bootstrap=0)
    problem = problem_of(frame)
    weights = np.where(np.arange(240) < 30, 2.0, 1.0)
    theta, value, _ = descend(starts(problem, weights), problem, weights, 1e-3)
    assert value.min() == pytest.approx(law.value, rel=1e-9)
    assert theta[value.argmin(), 3] == pytest.approx(law.alpha, rel=1e-6)


def test_least_absolute_deviations_end_at_a_vertex_below_every_huber_fit() -> None:
    frame = like_chinchilla()
    lad = scaling.fit(frame, objective="lad", bootstrap=0)
    size = np.sort(np.abs(lad.residuals.to_numpy()))
    assert size[4] < 1e-12 < 1e-7 < size[5], "five residuals are zero"
    assert lad.value == pytest.approx(size.sum(), rel=1e-12)
    near = scaling.fit(frame, delta=1e-6, bootstrap=0).residuals.abs().sum()
    far = scaling.fit(frame, bootstrap=0).residuals.abs().sum()
    assert lad.value <= near * (1 + 1e-12) and near == pytest.approx(lad.value, rel=1e-5)
    assert lad.value < far * (1 - 1e-6)
    problem = problem_of(frame)
    theta = problem.unknowns(lad)
    for scale in (1e-6, 1e-4, 1e-2):
        near_by = theta + scale * np.random.default_rng(0).standard_normal((300, 5))
        sums = np.abs(problem.residuals(near_by)[0]).sum(1)
        assert (sums > lad.value).all(), "no point nearby is lower"


def test_the_starts_survive_a_ray() -> None:
    n = np.geomspace(1e7, 1e10, 20)
    problem = problem_of(pd.DataFrame({"params": n, "tokens": 20 * n, "loss": CORRECTED.loss(n, 20 * n)}))
    found = starts(problem, np.ones(20))
    assert np.isfinite(found).all()
    theta, value, _ = descend(found, problem, np.ones(20), 1e-3)
    assert np.isfinite(value).all() and np.isfinite(theta).all()


def test_starts_heed_the_weights() -> None:
    frame = like_chinchilla()
    frame.loc[:29, "loss"] *= np.linspace(1, 1.3, 30)
    weights = np.where(np.arange(240) < 30, 5.0, 1.0)
    repeated = frame.loc[np.repeat(np.arange(240), weights.astype(int))]
    kept, again = problem_of(frame), problem_of(repeated)
    by_weight, by_row = starts(kept, weights), starts(again, np.ones(len(repeated)))
    np.testing.assert_allclose(kept.coefficients(by_weight)[0], again.coefficients(by_row)[0], rtol=1e-6)
    assert not np.allclose(starts(kept, np.ones(240)), by_weight, rtol=1e-3)


def test_searches_that_end_at_a_limit_converge_there() -> None:
    """The loss of a law with no floor and small exponents has a long flat valley that leads to E = 0."""
    generator = np.random.default_rng(0)
    for _ in range(60):
        alpha, beta = generator.uniform(0.05, 0.4, 2)
        law = Law(E=0.0, A=3e9**alpha, B=5e9**beta, alpha=alpha, beta=beta)
        n, d = np.exp(generator.uniform(np.log([1e8, 1e9]), np.log([1e10, 1e11]), (24, 2))).T
        loss = law.loss(n, d) * np.exp(0.005 * generator.standard_normal(24))
        problem = problem_of(pd.DataFrame({"params": n, "tokens": d, "loss": loss}))
        theta, _, converged = descend(starts(problem, np.ones(24)), problem, np.ones(24), SQUARES)
        assert converged.all()
        assert ((theta[:, 0] == 0) | (theta[:, 0] > 1e-6)).all(), "at the limit, or away from it"
