"""The algebra of the law, against brute force."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from scaling.laws.law import Law, effective_tokens
from tests.scaling.laws.designs import CORRECTED

# Hoffmann et al. as printed, with rounded exponents.
PRINTED = Law(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
LAWS = st.builds(
    lambda e, a, b, alpha, beta, gamma: Law(
        E=e, A=a * 1e9**alpha, B=b * 1e10**beta, alpha=alpha, beta=beta, gamma=gamma
    ),
    *(st.floats(0, 3), st.floats(0.05, 1), st.floats(0.05, 1), st.floats(0.1, 0.9), st.floats(0.1, 0.9)),
    st.sampled_from([1.0, 0.6, 1.5]),
)


@settings(max_examples=50, deadline=None)
@given(law=LAWS, log_c=st.floats(17, 26))
def test_the_optimum_is_where_a_search_finds_it(law: Law, log_c: float) -> None:
    c = 10**log_c
    found = minimize_scalar(
        lambda x: law.loss(math.exp(x), c / 6 / math.exp(x)) - law.E, bounds=(0, 55), method="bounded"
    )
    assert found.x == pytest.approx(math.log(law.n_opt(c)), abs=1e-3)
    assert law.loss_opt(c) <= found.fun + law.E + 1e-12
    assert 6 * law.n_opt(c) * law.d_opt(c) == pytest.approx(c, rel=1e-12)
    assert law.tokens_per_param(c) == pytest.approx(law.d_opt(c) / law.n_opt(c), rel=1e-12)
    assert law.n_opt(10 * c) / law.n_opt(c) == pytest.approx(10**law.n_exponent, rel=1e-9)
    assert law.n_exponent + law.d_exponent == pytest.approx(1, rel=1e-12)
    assert law.G * (c / 6) ** law.n_exponent == pytest.approx(law.n_opt(c), rel=1e-12)


def test_published_laws_give_the_published_tokens_per_parameter() -> None:
    assert PRINTED.tokens_per_param(5.76e23) == pytest.approx(92.6, abs=0.1)
    assert CORRECTED.tokens_per_param(5.76e23) == pytest.approx(18.3, abs=0.1)


@settings(max_examples=50, deadline=None)
@given(law=LAWS, log_t=st.floats(6, 15), share=st.floats(0.02, 0.5))
def test_the_inference_optimum_is_the_cheapest_of_a_dense_grid(law: Law, log_t: float, share: float) -> None:
    served, loss = 10**log_t, law.E + share
    n, d = law.inference_optimum(loss, served)
    assert law.loss(n, d) == pytest.approx(loss, rel=1e-10)
    sizes = n * np.exp(np.linspace(-6, 6, 20001))
    tokens = law.tokens_for(sizes, loss)
    cost = 6 * sizes * tokens + 2 * sizes * served
    best = cost.argmin()
    assert 6 * n * d + 2 * n * served <= cost[best] * (1 + 1e-12)
    assert abs(best - 10000) <= 1, "the optimum lies in the middle of the grid"


def test_without_serving_the_inference_optimum_is_that_of_training() -> None:
    n, d = CORRECTED.inference_optimum(2.1, 0)
    assert n == pytest.approx(CORRECTED.n_opt(6 * n * d), rel=1e-9)
    sizes = [CORRECTED.inference_optimum(2.1, served)[0] for served in (0, 1e10, 1e12, 1e14, 1e20)]
    assert sizes == sorted(sizes, reverse=True), "the more is served, the smaller the model"


def test_a_loss_at_or_below_the_floor_has_no_optimum() -> None:
    with pytest.raises(ValueError, match="a loss of 1.5 is not above E = 1.8172"):
        CORRECTED.inference_optimum(1.5, 1e12)
    with pytest.raises(ValueError, match="inference_tokens = -1"):
        CORRECTED.inference_optimum(2.5, -1)


def test_the_overtraining_penalty_is_the_loss_off_the_optimum_at_equal_compute() -> None:
    c, ratio = 1e22, np.array([0.1, 1.0, 3.0, 20.0])
    n = CORRECTED.n_opt(c) / np.sqrt(ratio)
    expected = np.asarray(CORRECTED.loss(n, c / 6 / n) - CORRECTED.loss_opt(c))
    np.testing.assert_allclose(CORRECTED.overtraining_penalty(c, ratio), expected, atol=1e-14)
    assert (expected[[0, 2, 3]] > 0.005).all() and expected[1] == 0


def test_tokens_for_a_loss_bring_it_and_are_infinite_where_none_do() -> None:
    n = np.array([1e8, 1e10, 1e12])
    tokens = np.asarray(CORRECTED.tokens_for(n, 2.2))
    assert np.isinf(tokens[0])
    np.testing.assert_allclose(CORRECTED.loss(n[1:], tokens[1:]), 2.2, rtol=1e-12)


def test_numbers_give_numbers_and_integers_do_not_overflow() -> None:
    assert isinstance(CORRECTED.loss(10**12, 10**14), float)
    assert isinstance(CORRECTED.n_opt(10**24), float)
    counts: Any = np.array([10**12], dtype=np.int64)
    np.testing.assert_array_equal(CORRECTED.loss(counts, counts * 100), [CORRECTED.loss(1e12, 1e14)])


@pytest.mark.parametrize(
    ("name", "value"), [("E", -0.1), ("A", 0.0), ("B", math.nan), ("alpha", -0.3), ("beta", math.inf)]
)
def test_a_law_is_checked_when_it_is_made(name: str, value: float) -> None:
    good = {"E": 1.0, "A": 400.0, "B": 400.0, "alpha": 0.3, "beta": 0.3}
    with pytest.raises(ValueError, match=f"{name} = "):
        Law(**{**good, name: value})


@pytest.mark.parametrize("value", [0, -1e9, math.nan, math.inf])
def test_sizes_must_be_counts(value: float) -> None:
    with pytest.raises(ValueError, match="n must be finite and above 0"):
        CORRECTED.loss(value, 1e9)


def test_repeated_tokens_are_worth_less_and_less() -> None:
    unique = 1e9
    np.testing.assert_allclose(effective_tokens(np.array([1e8, 1e9]), unique), [1e8, 1e9], rtol=1e-15)
    slope = (effective_tokens(1.001e9, unique) - 1e9) / 1e6
    assert slope == pytest.approx(1, abs=1e-4), "the first repeated token is as good as new"
    assert effective_tokens(4e9, unique) / 4e9 == pytest.approx(0.93, abs=0.005)
    assert effective_tokens(1e15, unique) == pytest.approx(unique * (1 + 15.39), rel=1e-9)
    assert effective_tokens((1 + 15.39) * unique, unique) == pytest.approx(
        unique * (1 + 15.39 * (1 - math.exp(-1))), rel=1e-12
    )
    with pytest.raises(ValueError, match="decay = 0"):
        effective_tokens(1e9, 1e9, 0)
