"""Correlations of few points: exact p-values against brute force and scipy, and the rates of error."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from scaling.scores.correlation import Array, correlate, fisher, holm, leave_out_error, needed

# Perplexity and mean score of the overview figure of arXiv:2403.17844 (digitised).
PPL = [11.04, 9.91, 8.65, 8.41, 8.23]
SCORE = [66.1, 73.2, 76.6, 77.4, 78.2]
STATISTICS = {
    "pearson": lambda x, y: stats.pearsonr(x, y)[0],
    "spearman": lambda x, y: stats.spearmanr(x, y)[0],
    "kendall": lambda x, y: stats.kendalltau(x, y)[0],
}


def tied(n: int, seed: int) -> tuple[Array, Array]:
    """Values with ties in x, in y and in both."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, n).astype(float)
    x[:2], y = (0, 3), rng.integers(0, 3, n).astype(float)
    y[:2] = (2, 0)
    return x, y


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("expect", ["negative", "positive"])
def test_p_values_are_shares_of_all_pairings_ties_included(name: str, expect: str) -> None:
    for seed in range(3):
        x, y = tied(5, seed)
        statistic, sign = STATISTICS[name], 1 if expect == "positive" else -1
        found = getattr(correlate(x, y, expect=expect, bootstrap=0), name)
        null = np.array([statistic(x, y[list(order)]) for order in itertools.permutations(range(5))])
        value = statistic(x, y)
        assert found.value == pytest.approx(value, abs=1e-12)
        assert found.p == pytest.approx(np.mean(sign * null >= sign * value - 1e-9), abs=1e-12)
        assert found.p_two_sided == pytest.approx(np.mean(abs(null) >= abs(value) - 1e-9), abs=1e-12)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_p_values_are_those_of_scipys_permutation_test(name: str) -> None:
    x, y = tied(6, 5)
    scipys = stats.permutation_test(
        (x,),
        lambda z: STATISTICS[name](z, y),
        permutation_type="pairings",
        alternative="less",
        n_resamples=math.inf,
    )
    assert getattr(correlate(x, y, bootstrap=0), name).p == pytest.approx(scipys.pvalue, abs=1e-12)


def test_many_rows_are_sampled_and_the_sampled_p_is_near_the_exact_one() -> None:
    x, y = tied(9, 1)
    exact = correlate(x, y, bootstrap=0)
    assert exact.method == "exact" and exact.pairings == math.factorial(9)
    twice_x, twice_y = np.concatenate([x, x[:3]]), np.concatenate([y, y[:3]])
    sampled = correlate(twice_x, twice_y, bootstrap=0, pairings=4999)
    assert sampled.method == "monte carlo" and sampled.pairings == 4999
    asymptotic = stats.kendalltau(twice_x, twice_y, alternative="less").pvalue
    assert sampled.kendall.p == pytest.approx(asymptotic, abs=0.03)


def test_a_sampled_p_is_never_zero() -> None:
    x = np.arange(30.0)
    found = correlate(x, -x, bootstrap=0, pairings=199)
    assert found.spearman.p == 1 / 200


def test_a_false_alarm_is_as_rare_as_the_level_says() -> None:
    rng = np.random.default_rng(0)
    for n, times in ((6, 300), (12, 300)):
        p = [
            correlate(rng.normal(size=n), rng.normal(size=n), bootstrap=0, pairings=199).spearman.p
            for _ in range(times)
        ]
        # Three standard deviations of a share of .05 over `times` draws.
        assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / times)
        assert np.mean(np.array(p) <= 0.5) >= 0.5 - 3 * math.sqrt(0.25 / times) - 0.05


@pytest.mark.parametrize(
    ("x", "y", "smallest"),
    [
        ([1, 2, 3, 4, 5], [5, 4, 3, 2, 1], 1 / 120),
        ([1, 2, 3], [1, 2, 3], 1 / 6),
        ([1, 2, 3, 3, 3], [5, 4, 3, 2, 1], 6 / 120),
        ([1, 1, 3, 3], [1, 1, 2, 2], 4 / 24),
    ],
)
def test_the_smallest_p_is_that_of_the_best_order_of_these_values(
    x: list[float], y: list[float], smallest: float
) -> None:
    assert correlate(x, y, bootstrap=0).smallest_p == pytest.approx(smallest, rel=1e-12)


def test_the_smallest_p_is_the_p_of_values_in_their_best_order() -> None:
    for seed in range(6):
        x, y = tied(7, seed)
        best = correlate(np.sort(x), np.sort(y)[::-1], bootstrap=0)
        assert correlate(x, y, bootstrap=0).smallest_p == pytest.approx(best.spearman.p, rel=1e-9)


def test_the_mad_figure_in_the_mean() -> None:
    found = correlate(SCORE, PPL)
    assert found.pearson.value == pytest.approx(-0.981, abs=0.005)
    assert found.spearman.value == pytest.approx(-1, abs=1e-12)
    assert found.spearman.p == pytest.approx(1 / 120)
    assert (found.fisher.low, found.fisher.high) == pytest.approx((-1.00, -0.74), abs=0.006)


def test_fishers_interval_is_scipys() -> None:
    x, y = tied(12, 3)
    r = stats.pearsonr(x, y)
    assert (lambda i: (i.low, i.high))(fisher(r[0], 12)) == pytest.approx(tuple(r.confidence_interval()))
    assert (fisher(-0.9, 3).low, fisher(-0.9, 3).high) == (-1, 1)
    assert (fisher(1.0, 5).low, fisher(1.0, 5).high) == (1, 1)


def test_the_bootstrap_interval_holds_the_true_correlation_about_as_often_as_it_says() -> None:
    rng, rho, inside = np.random.default_rng(1), -0.6, 0
    for draw in range(150):
        x = rng.normal(size=40)
        y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=40)
        found = correlate(x, y, bootstrap=300, pairings=1, seed=draw).pearson.interval
        inside += found.low <= rho <= found.high
    # Nominal .95; the percentile interval of 40 rows is known to be a little short.
    assert 0.87 <= inside / 150 <= 0.99


def test_needed_rows_give_the_promised_power() -> None:
    assert needed(0.5) == 30
    assert needed(-0.98) == 5 and needed(1.0) == 4
    assert needed(0.2) > needed(0.4)


def test_holm_is_the_textbook_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_leave_one_out_is_a_refit_without_the_row() -> None:
    x, y = np.array(SCORE), np.array(PPL)
    errors = []
    for i in range(5):
        slope, start = np.polyfit(np.delete(x, i), np.delete(y, i), 1)
        errors.append(start + slope * x[i] - y[i])
    assert leave_out_error(x, y) == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-9)
    means = [np.delete(y, i).mean() - y[i] for i in range(5)]
    assert leave_out_error(None, y) == pytest.approx(np.sqrt(np.mean(np.square(means))), rel=1e-12)


def test_leaving_a_group_out_leaves_all_of_it_out() -> None:
    x, y = [0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 5.0, 6.0]
    # From (0, 0), (1, 1) the others are 3 too low; from (2, 5), (3, 6) 3 too high.
    assert leave_out_error(x, y, ["a", "a", "b", "b"]) == pytest.approx(3.0)
    assert math.isnan(leave_out_error(x, y, ["a"] * 4))


def test_a_predictor_that_does_not_vary_among_the_others_predicts_their_mean() -> None:
    # Without the third row x is 1: its prediction is 2, the mean. The others lie on lines through the third.
    error = leave_out_error([1.0, 1.0, 2.0], [1.0, 3.0, 9.0])
    assert error == pytest.approx(math.sqrt((2**2 + 2**2 + 7**2) / 3))


def test_order_of_rows_and_scale_do_not_matter() -> None:
    x, y = tied(8, 2)
    found = correlate(x, y, bootstrap=0)
    order = np.random.default_rng(3).permutation(8)
    for other in (correlate(x[order], y[order], bootstrap=0), correlate(7 * x - 3, y / 100, bootstrap=0)):
        for name in STATISTICS:
            mine, its = getattr(found, name), getattr(other, name)
            assert (mine.value, mine.p, mine.p_two_sided) == pytest.approx(
                (its.value, its.p, its.p_two_sided), abs=1e-12
            )


def test_a_seed_makes_it_repeat() -> None:
    x, y = tied(14, 4)
    assert correlate(x, y, seed=1, pairings=99) == correlate(x, y, seed=1, pairings=99)
    assert correlate(x, y, seed=1, pairings=99) != correlate(x, y, seed=2, pairings=99)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1, 2], [1, 2], "2 rows"),
        ([1, 2, 3], [1, 2], "3 values and y 2"),
        ([1, 1, 1], [1, 2, 3], "x is 1 in every row"),
        ([1, 2, 3], [2, 2, 2], "y is 2 in every row"),
        ([1, math.nan, 3], [1, 2, 3], r"x\[1\] is nan"),
    ],
)
def test_what_has_no_correlation_is_refused(x: list[float], y: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        correlate(x, y)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="expect is 'less'"):
        correlate(SCORE, PPL, expect="less")
    with pytest.raises(ValueError, match="confidence = 95"):
        correlate(SCORE, PPL, confidence=95)
    with pytest.raises(ValueError, match="pairings is 0"):
        correlate(SCORE, PPL, pairings=0)


def test_the_order_of_the_rows_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 14))
    assert correlate(x, y) == correlate(x[::-1], y[::-1])
