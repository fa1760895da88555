"""The over-training law: recovered from five runs, equal to the additive law with one exponent."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaling.laws.gadre import OverTrainingLaw, fit_overtraining_law
from scaling.laws.runs.cleaning import NotIdentified, Status

TRUTH = OverTrainingLaw(E=1.84, a=166.0, b=-0.27, c=367.0, status=Status.CONVERGED, value=0.0, n=0)


def five(noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    n, ratio = np.array([1e7, 8e7, 1.5e8, 4e8, 1e7]), np.array([20.0, 20, 20, 20, 320])
    loss = np.asarray(TRUTH.loss(n, ratio)) + noise * np.random.default_rng(seed).standard_normal(5)
    return pd.DataFrame({"params": n, "tokens": n * ratio, "loss": loss})


def test_five_runs_recover_the_law_and_forecast_a_long_training() -> None:
    law = fit_overtraining_law(five())
    assert law.status is Status.CONVERGED and law.n == 5 and law.value < 1e-12
    assert (law.E, law.a, law.b, law.c) == pytest.approx((1.84, 166, -0.27, 367), rel=1e-4)
    assert law.eta == pytest.approx(0.135, rel=1e-4)
    assert law.loss(7e9, 640) == pytest.approx(TRUTH.loss(7e9, 640), rel=1e-5)
    noisy = [fit_overtraining_law(five(0.005, seed)) for seed in range(10)]
    assert max(float(np.abs(found.loss(1e9, 640) / TRUTH.loss(1e9, 640) - 1)) for found in noisy) < 0.05


def test_it_is_the_published_form() -> None:
    n, m = 1.4e9, 640.0
    c = 6 * m * n**2
    p, q = 166.0 * 6**TRUTH.eta, 367.0
    assert TRUTH.loss(n, m) == pytest.approx(1.84 + (p * m**TRUTH.eta + q * m**-TRUTH.eta) * c**-TRUTH.eta)


def test_no_exponent_nearby_fits_better() -> None:
    frame = five(0.01, 3)
    law = fit_overtraining_law(frame)
    loss, n, d = (frame[name].to_numpy() for name in ("loss", "params", "tokens"))
    for b in law.b + np.array([-0.01, -1e-4, 1e-4, 0.01]):
        design = np.column_stack([np.ones(5), n**b, d**b])
        assert np.linalg.lstsq(design, loss, rcond=None)[1] >= law.value * (1 - 1e-9)


def test_data_without_a_floor_end_at_the_bound() -> None:
    frame = five()
    law = fit_overtraining_law(frame.assign(loss=frame["loss"] - 1.9))
    assert law.E == 0 and law.status is Status.AT_BOUND


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [0, 4, 0, 4], [0, 1, 2]])
def test_too_few_runs_are_refused(rows: list[int]) -> None:
    frame = five().iloc[rows].assign(seed=range(len(rows)))
    with pytest.raises(NotIdentified, match="cannot determine four coefficients"):
        fit_overtraining_law(frame)


def test_a_loss_that_rises_with_size_is_refused() -> None:
    frame = five()
    with pytest.raises(NotIdentified, match="does the loss fall with both"):
        fit_overtraining_law(frame.assign(loss=[2.0, 2.5, 3.0, 3.5, 1.9]))
