"""Lines in logs: exact values, exact intervals, and the test whether groups share a slope."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from scaling.laws.powerlaw import power_law, power_laws, sharing, slopes
from scaling.laws.runs.cleaning import NotIdentified
from tests.scaling.laws.public import needs_data, runs_of

PUBLISHED = {
    "rw|base|long|kaplan|kaplan|train": 0.8338,
    "rw|base|long|kaplan|standard|val": 0.7009,
    "rw|base|short|kaplan|standard|val": 0.6035,
    "rw|base|short|chinchilla|standard|val": 0.5714,
    "rw|tuned|short|const|standard|val": 0.4970,
}


def test_a_power_law_is_found_exactly_and_evaluated() -> None:
    x = np.geomspace(1e18, 1e25, 5)
    fit = power_law(x, 0.3 * x**0.54)
    assert (fit.exponent, fit.coefficient, fit.r2) == pytest.approx((0.54, 0.3, 1.0), rel=1e-9)
    assert fit.at(1e30) == pytest.approx(0.3 * 1e30**0.54)
    assert np.asarray(fit.at([1e18, 1e19])).shape == (2,)


def test_the_interval_is_that_of_ordinary_regression() -> None:
    rng = np.random.default_rng(1)
    x = np.geomspace(1, 1e4, 9)
    y = x**0.5 * np.exp(0.1 * rng.standard_normal(9))
    fit, known = power_law(x, y, confidence=0.9), stats.linregress(np.log(x), np.log(y))
    half = stats.t.ppf(0.95, 7) * known.stderr
    assert fit.interval is not None
    assert (fit.interval.low, fit.interval.high) == pytest.approx((known.slope - half, known.slope + half))
    level = stats.t.ppf(0.95, 7) * known.intercept_stderr
    assert np.log(fit.coefficient_intervals["all"].high) == pytest.approx(known.intercept + level)
    assert fit.r2 == pytest.approx(known.rvalue**2)


def test_two_points_have_an_exponent_and_no_interval() -> None:
    fit = power_law([1, 10], [2, 20])
    assert fit.exponent == pytest.approx(1) and fit.interval is None


def test_points_at_one_x_are_refused() -> None:
    with pytest.raises(NotIdentified, match="all points have the same x.*add points"):
        power_law([3, 3, 3], [1, 2, 3])


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_what_has_no_logarithm_is_named(bad: float) -> None:
    with pytest.raises(ValueError, match=r"y\[1\] = .* is not a finite number above 0"):
        power_law([1, 2, 3], [1, bad, 3])


def test_a_shared_slope_is_that_of_a_regression_with_an_intercept_for_each_group() -> None:
    rng = np.random.default_rng(2)
    group = np.repeat(["a", "b", "c"], [4, 6, 3])
    x = np.exp(rng.uniform(0, 5, 13))
    y = x**-0.28 * np.exp(0.05 * rng.standard_normal(13))
    design = np.column_stack([np.log(x), *(group == name for name in "abc")]).astype(float)
    weights, rss, *_ = np.linalg.lstsq(design, np.log(y), rcond=None)
    fit = power_laws(x, y, group.tolist(), shared=True)
    assert fit.exponents == pytest.approx(dict.fromkeys("abc", weights[0]))
    assert np.log(fit.coefficients["b"]) == pytest.approx(weights[2])
    covariance = rss[0] / 9 * np.linalg.inv(design.T @ design)
    t = stats.t.ppf(0.975, 9)
    assert fit.intervals["a"].high - weights[0] == pytest.approx(t * covariance[0, 0] ** 0.5)
    high = np.log(fit.coefficient_intervals["c"].high)
    assert high - weights[3] == pytest.approx(t * covariance[3, 3] ** 0.5)


def test_the_test_of_sharing_rejects_at_its_level_and_finds_a_difference() -> None:
    rng = np.random.default_rng(3)
    x, group = np.tile(np.linspace(0, 4, 5), 3), np.repeat([0, 1, 2], 5)
    noise = 0.1 * rng.standard_normal((400, 15))
    rejected = sum(sharing(x, 0.5 * x + group + some, group).p < 0.05 for some in noise)
    # 20 of 400 expected; the bounds are those that chance leaves once in 1000.
    assert stats.binom.ppf(0.0005, 400, 0.05) <= rejected <= stats.binom.ppf(0.9995, 400, 0.05)
    assert sharing(x, (0.5 + 0.2 * group) * x + noise[0], group).allowed is False


def test_exact_lines_share_their_slope_whatever_rounding_does() -> None:
    x, group = np.tile(np.linspace(30, 50, 5), 2), np.repeat([0, 1], 5)
    assert sharing(x, 0.1 * x + group / 3, group).allowed is True
    assert sharing(x, x * (1 + group), group).allowed is False


def test_without_degrees_of_freedom_the_test_of_sharing_does_not_tell() -> None:
    assert sharing(np.array([0.0, 1, 0, 1]), np.array([0.0, 1, 0, 2]), np.array([0, 0, 1, 1])).allowed is None


def test_slopes_leave_out_what_is_missing() -> None:
    y = np.array([[0.0, 1.0, 2.0, 9.0], [0.0, 1.0, 2.0, np.nan], [np.nan, np.nan, 1.0, np.nan]])
    found = slopes(np.arange(4.0), y, np.zeros(4, int))
    assert found[0] == pytest.approx(2.8) and found[1] == pytest.approx(1) and np.isnan(found[2])


@needs_data
@pytest.mark.parametrize(("model", "exponent"), PUBLISHED.items())
def test_exponents_published_for_refinedweb(model: str, exponent: float) -> None:
    table = runs_of("porian_optimal_rw.csv").dropna(subset="params")
    table = table[table["model"] == model]
    assert power_law(table["flops"], table["params"]).exponent == pytest.approx(exponent, abs=5e-4)
