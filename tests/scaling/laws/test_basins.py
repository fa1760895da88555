"""The biases of approach 2: the published worked example, and warnings on exactly the biased designs."""

from __future__ import annotations

import numpy as np
import pytest

from scaling.laws.basins import Packed, basin, fit_exponents
from scaling.laws.isoflops import isoflop
from scaling.laws.law import Law
from tests.scaling.laws.designs import CHINCHILLA, FALLS_FAST, FALLS_SLOWLY, SYMMETRIC, grid

SEVEN = tuple(np.geomspace(1e18, 1e22, 7))
# arXiv:2603.22339: error of D*(1e24) in percent, by (grid width, shift).
EXAMPLE = [
    (FALLS_FAST, {(2, 1): -0.568, (4, 1): -2.253, (16, 1): -8.695, (16, 2): -5.715}),
    (SYMMETRIC, {(2, 1): 0.0, (4, 1): 0.0, (16, 1): 0.0, (16, 2): 0.900}),
    (FALLS_SLOWLY, {(2, 1): 0.572, (4, 1): 2.305, (16, 1): 9.523, (16, 2): 7.089}),
]


def kinds(law: Law, **design: float) -> list[str]:
    frame = grid(law, SEVEN, sizes=11, **design)  # type: ignore[arg-type]
    words = ("wide grids", "grids off the centre", "grids drift")
    return [
        word for text in isoflop(frame, bootstrap=100).warnings for word in words if text.startswith(word)
    ]


@pytest.mark.parametrize(("law", "expected"), EXAMPLE)
def test_the_worked_example_of_the_bias(law: Law, expected: dict[tuple[int, int], float]) -> None:
    for (width, shift), percent in expected.items():
        frame = grid(law, SEVEN, sizes=11, width=width, shift=shift)
        fit = isoflop(frame, bootstrap=100)
        error = 100 * (float(np.asarray(fit.d_opt(1e24))) / float(law.d_opt(1e24)) - 1)
        assert error == pytest.approx(percent, abs=0.02), (width, shift)
        assert fit.exponent == pytest.approx(law.n_exponent, abs=1e-6)
        bias = fit.biases["a"]
        effect = np.expm1(np.log1p(bias.by_width) + np.log1p(bias.by_offset))
        assert 100 * np.expm1(-np.log1p(effect)) == pytest.approx(percent, abs=0.05)


def test_the_warnings_fire_on_exactly_the_biased_designs() -> None:
    assert kinds(SYMMETRIC, width=16) == []
    assert kinds(FALLS_FAST, width=1.5) == []
    assert kinds(FALLS_FAST, width=2) == ["wide grids"]
    assert kinds(SYMMETRIC, width=16, shift=2) == ["grids off the centre"]
    assert kinds(SYMMETRIC, width=4, drift=0.15) == ["grids drift"]
    assert kinds(FALLS_SLOWLY, width=16, shift=0.5) == ["wide grids", "grids off the centre"]


def test_a_drift_is_told_with_the_error_of_the_exponent_that_it_makes() -> None:
    fit = isoflop(grid(SYMMETRIC, SEVEN, sizes=11, drift=0.15), bootstrap=100)
    error = fit.exponent - SYMMETRIC.n_exponent
    assert abs(error) > 5e-4
    assert fit.biases["a"].exponent == pytest.approx(error, rel=0.01)
    assert fit.biases["a"].drift == pytest.approx(0.15, abs=1e-6)
    (text,) = fit.warnings
    assert f"by {error:+.4f}" in text and "C^+0.15" in text and "constant multiple" in text


def test_the_window_that_the_warning_names_removes_most_of_the_bias() -> None:
    frame = grid(FALLS_FAST, SEVEN, sizes=21, width=16)
    (text,) = isoflop(frame, bootstrap=100).warnings
    assert (
        "a factor 16 to either side" in text and "alpha 0.40, beta 0.30" in text and "8.8% too high" in text
    )
    window = float(text.partition("window=")[2].partition(")")[0])
    cut = isoflop(frame, window=window, bootstrap=100)
    assert abs(cut.n_opt(1e20) / FALLS_FAST.n_opt(1e20) - 1) < 0.01  # type: ignore[operator]


def test_noise_alone_is_seldom_taken_for_a_bias() -> None:
    wrong = sum(
        bool(isoflop(grid(SYMMETRIC, noise=0.005, seed=seed), bootstrap=100).biases) for seed in range(20)
    )
    assert wrong <= 2  # about one in a hundred, and a little for the basin's own shape


def test_asymmetry_is_found_in_noise_where_it_matters() -> None:
    fit = isoflop(grid(FALLS_FAST, SEVEN, sizes=11, width=16, noise=0.003), bootstrap=100)
    assert fit.biases["a"].by_width == pytest.approx(0.095, abs=0.03)


def test_a_law_known_otherwise_tells_the_bias_that_noise_hides() -> None:
    frame = grid(FALLS_FAST, noise=0.02)
    assert not isoflop(frame, bootstrap=100).biases
    fit = isoflop(frame, bootstrap=100, law=FALLS_FAST)
    assert fit.biases["a"].by_width > 0.01


def test_the_shape_of_the_basin_is_recovered() -> None:
    frame = grid(CHINCHILLA, SEVEN, sizes=9, width=8)
    groups = [part for _, part in frame.groupby((6 * frame["params"] * frame["tokens"]).round(-10))]
    xs, ys = [np.log(g["params"].to_numpy()) for g in groups], [g["loss"].to_numpy() for g in groups]
    found = fit_exponents(xs, ys)
    assert found is not None
    assert found == pytest.approx((CHINCHILLA.alpha, CHINCHILLA.beta), rel=1e-3)
    (optima,), (heights,), (losses,) = Packed.of(xs, ys).optima(*np.array(found)[:, None])
    np.testing.assert_allclose(np.exp(optima), CHINCHILLA.n_opt(np.array(SEVEN)), rtol=1e-4)
    np.testing.assert_allclose(losses, CHINCHILLA.loss_opt(np.array(SEVEN)), rtol=1e-6)
    n, c = 2 * float(CHINCHILLA.n_opt(1e18)), 1e18
    rise = CHINCHILLA.loss(n, c / (6 * n)) - CHINCHILLA.loss_opt(c)
    assert heights[0] * basin(*found, np.log(2)) == pytest.approx(rise, rel=1e-3)


def test_the_basin_is_flat_at_its_optimum() -> None:
    u = np.array([-1e-4, 0.0, 1e-4])
    assert basin(0.4, 0.3, u)[1] == 0
    np.testing.assert_allclose(basin(0.4, 0.3, u)[[0, 2]], 0.4 * 0.3 * 0.7 / 2 * 1e-8, rtol=1e-4)
