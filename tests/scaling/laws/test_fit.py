"""The fit recovers what was simulated, reaches the global optimum, and walks into none of the known traps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import scaling
from scaling.laws.law import Law, effective_tokens
from scaling.laws.objective import huber
from scaling.laws.runs.cleaning import NotIdentified, Status
from tests.scaling.laws.designs import CORRECTED, isoflops, like_chinchilla

SYMMETRIC = Law(E=2.0, A=400.0, B=400.0, alpha=0.31, beta=0.31)
ASYMMETRIC = Law(E=0.7, A=20.0, B=5e4, alpha=0.2, beta=0.5)


@pytest.mark.parametrize("objective", ["huber", "lad", "log-mse"])
def test_a_law_without_noise_is_recovered_to_many_digits(objective: Any) -> None:
    generator = np.random.default_rng(1)
    for _ in range(12):
        alpha, beta = generator.uniform(0.15, 0.8, 2)
        a, b = generator.uniform(0.1, 0.9, 2) * (3e9**alpha, 5e9**beta)
        truth = Law(E=generator.uniform(0.3, 3), A=a, B=b, alpha=alpha, beta=beta)
        frame = isoflops(truth, budgets=int(generator.integers(3, 9)), width=generator.uniform(2, 10))
        law = scaling.fit(frame, objective=objective, bootstrap=0)
        assert law.status is Status.CONVERGED
        for name in ("E", "A", "B", "alpha", "beta"):
            assert getattr(law, name) == pytest.approx(getattr(truth, name), rel=1e-7)
        assert law.d_opt(1e26) == pytest.approx(truth.d_opt(1e26), rel=1e-7)


@pytest.mark.parametrize(
    "truth", [CORRECTED, SYMMETRIC, ASYMMETRIC], ids=["chinchilla", "symmetric", "asymmetric"]
)
def test_with_noise_the_errors_shrink_with_the_noise_and_with_the_runs(truth: Law) -> None:
    def error(noise: float, budgets: int) -> float:
        frames = [isoflops(truth, noise=noise, seed=seed, budgets=budgets) for seed in range(16)]
        fits = [scaling.fit(frame, bootstrap=0) for frame in frames]
        return float(np.sqrt(np.mean([(law.n_exponent - truth.n_exponent) ** 2 for law in fits])))

    usual = error(0.004, 5)
    assert usual < 0.03
    assert error(0.0004, 5) < 0.25 * usual
    assert error(0.004, 50) < 0.6 * usual


def test_the_objective_is_a_sum() -> None:
    frame = like_chinchilla()
    law = scaling.fit(frame, bootstrap=0)
    assert law.value == pytest.approx(huber(law.residuals.to_numpy(), 1e-3).sum(), rel=1e-9)
    twice = pd.concat([frame.assign(seed=0), frame.assign(seed=1)], ignore_index=True)
    again = scaling.fit(twice, bootstrap=0)
    assert again.value == pytest.approx(2 * law.value, rel=1e-9)
    assert again.alpha == pytest.approx(law.alpha, rel=1e-5)


def test_a_large_delta_is_least_squares_and_the_default_is_not() -> None:
    frame = like_chinchilla()
    squares = scaling.fit(frame, objective="log-mse", bootstrap=0)
    wide = scaling.fit(frame, delta=1.0, bootstrap=0)
    usual = scaling.fit(frame, bootstrap=0)
    assert wide.alpha == pytest.approx(squares.alpha, rel=1e-9) and wide.value == pytest.approx(squares.value)
    assert abs(usual.alpha - squares.alpha) > 1e-4
    assert (usual.delta, wide.delta, squares.delta) == (1e-3, 1.0, None)


def test_units_change_the_coefficients_by_the_known_factor_and_nothing_else() -> None:
    frame = like_chinchilla()
    law = scaling.fit(frame, bootstrap=0)
    finer = scaling.fit(frame.assign(params=frame["params"] * 1e3, tokens=frame["tokens"] * 1e3), bootstrap=0)
    assert finer.value == pytest.approx(law.value, rel=1e-9)
    assert finer.A == pytest.approx(law.A * 1e3**law.alpha, rel=1e-5)
    assert finer.B == pytest.approx(law.B * 1e3**law.beta, rel=1e-5)
    assert (finer.E, finer.alpha, finer.beta) == pytest.approx((law.E, law.alpha, law.beta), rel=1e-6)
    bits = scaling.fit(frame.assign(loss=frame["loss"] / np.log(2)), bootstrap=0)
    assert bits.value == pytest.approx(law.value, rel=1e-9)
    for name in ("E", "A", "B"):
        assert getattr(bits, name) == pytest.approx(getattr(law, name) / np.log(2), rel=1e-5)
    assert (bits.alpha, bits.beta) == pytest.approx((law.alpha, law.beta), rel=1e-6)


def test_the_order_of_rows_and_integer_columns_do_not_matter() -> None:
    frame = like_chinchilla().round({"params": 0, "tokens": 0})
    law = scaling.fit(frame, bootstrap=0)
    shuffled = frame.sample(frac=1, random_state=1).astype({"params": np.int64, "tokens": np.int64})
    assert (shuffled["params"] * shuffled["tokens"] * 6 < 0).any(), "int64 would overflow"
    again = scaling.fit(shuffled, bootstrap=0)
    assert again.value == pytest.approx(law.value, rel=1e-10)
    assert again.B == pytest.approx(law.B, rel=1e-6)
    assert again.largest == pytest.approx(law.largest, rel=1e-12)


def test_one_ray_is_refused() -> None:
    n = np.geomspace(1e7, 1e10, 20)
    frame = pd.DataFrame({"params": n, "tokens": 20 * n, "loss": CORRECTED.loss(n, 20 * n)})
    with pytest.raises(NotIdentified, match="D = 20 N.*add runs at D/N below 10 and above 40"):
        scaling.fit(frame, bootstrap=0)
    scattered = frame.assign(tokens=frame["tokens"] * np.random.default_rng(0).uniform(0.95, 1.05, 20))
    with pytest.raises(NotIdentified, match="nearly on D = "):
        scaling.fit(scattered, bootstrap=0)


def test_one_budget_is_refused() -> None:
    with pytest.raises(NotIdentified, match=r"one budget, 6 N D = 1.00e\+18"):
        scaling.fit(isoflops(CORRECTED, budgets=1, sizes=12), bootstrap=0)


def test_a_good_forecast_of_the_loss_does_not_make_a_good_allocation() -> None:
    errors, ratios = [], []
    larger = isoflops(CORRECTED, low=1e21, span=10, budgets=2)
    for seed in range(12):
        law = scaling.fit(isoflops(CORRECTED, noise=0.005, seed=seed, budgets=4, span=30), bootstrap=0)
        predicted = law.loss(larger["params"].to_numpy(), larger["tokens"].to_numpy())
        errors.append(np.abs(predicted / larger["loss"] - 1).mean())
        ratios.append(law.tokens_per_param(5.76e23) / CORRECTED.tokens_per_param(5.76e23))
    assert np.median(errors) < 0.01 and max(errors) < 0.03
    assert max(ratios) > 2, "within three percent in loss, and twice as many tokens per parameter"


def hostile(kind: str, generator: np.random.Generator) -> pd.DataFrame:
    frame = isoflops(CORRECTED, width=8.0)
    n, d = frame["params"].to_numpy(), frame["tokens"].to_numpy()
    losses = {
        "constant": np.full(len(n), 3.0),
        "noise": 3 + 0.05 * generator.standard_normal(len(n)),
        "rising with N": 1 + (n / 1e9) ** 0.2 + (d / 1e10) ** -0.3,
        "rising with both": 1 + (n / 1e9) ** 0.1 + (d / 1e10) ** 0.1,
    }
    return frame.assign(loss=losses[kind])


@pytest.mark.parametrize("kind", ["constant", "noise", "rising with N", "rising with both"])
def test_runs_that_follow_no_law_are_refused(kind: str) -> None:
    generator = np.random.default_rng(4)
    for _ in range(1 if kind == "constant" else 8):
        with pytest.raises(NotIdentified):
            scaling.fit(hostile(kind, generator), bootstrap=0)


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_a_handful_of_runs_is_refused(count: int) -> None:
    with pytest.raises(NotIdentified):
        scaling.fit(isoflops(CORRECTED, noise=1e-3).sample(count, random_state=0), bootstrap=0)


def test_a_law_without_a_floor_ends_at_the_bound_and_says_so() -> None:
    frame = isoflops(CORRECTED, noise=1e-4, width=8.0)
    frame["loss"] -= 1.05 * CORRECTED.E
    law = scaling.fit(frame, bootstrap=0)
    assert law.E == 0 and law.status is Status.AT_BOUND
    assert any(warning.startswith("E is 0") for warning in law.warnings)


def test_an_exponent_at_its_limit_is_said() -> None:
    steep = Law(E=2.0, A=0.3 * 1e9**2.6, B=0.3 * 1e10**0.3, alpha=2.6, beta=0.3)
    n, d = (grid.ravel() for grid in np.meshgrid(np.geomspace(5e8, 4e9, 7), np.geomspace(1e9, 1e11, 7)))
    law = scaling.fit(pd.DataFrame({"params": n, "tokens": d, "loss": steep.loss(n, d)}), bootstrap=0)
    assert law.status is Status.AT_BOUND
    assert any(warning.startswith("alpha is 2") for warning in law.warnings)


def test_data_read_up_to_four_times_count_as_new() -> None:
    frame = isoflops(CORRECTED, noise=0.0)
    law = scaling.fit(frame.assign(unique_tokens=0.26 * frame["tokens"].max()), bootstrap=0)
    assert law.beta == pytest.approx(CORRECTED.beta, rel=1e-7)
    assert "read their text up to 3.8 times" in law.convention


def test_data_read_more_often_are_refused_unless_their_effective_tokens_are_asked_for() -> None:
    frame = isoflops(CORRECTED, noise=0.0)
    unique = 0.2 * frame["tokens"].max()
    worth = effective_tokens(frame["tokens"].to_numpy(), unique)
    frame = frame.assign(unique_tokens=unique, loss=CORRECTED.loss(frame["params"].to_numpy(), worth))
    with pytest.raises(ValueError, match=r"row.* data was repeated.*repeats='effective'"):
        scaling.fit(frame, bootstrap=0)
    law = scaling.fit(frame, repeats="effective", bootstrap=0)
    assert law.beta == pytest.approx(CORRECTED.beta, rel=1e-7)
    assert "effective tokens, R* = 15.39" in law.convention
    fresh = scaling.fit(frame.assign(unique_tokens=1e15), bootstrap=0)
    assert "effective" not in fresh.convention and fresh.beta != pytest.approx(law.beta, rel=1e-3)
    for wrong in (1, 0, -3, "many"):
        counts = pd.Series([1e15] * len(frame), dtype=object)
        counts[3] = wrong
        with pytest.raises(ValueError, match=rf"row 4, column 'unique_tokens': {wrong}(\.0)? is not a count"):
            scaling.fit(frame.assign(unique_tokens=counts), repeats="effective")
    blank = frame.assign(unique_tokens=[""] + [1e15] * (len(frame) - 1))
    assert scaling.fit(blank, bootstrap=0).value == fresh.value
    # A row of which nothing is said was not repeated; the others are judged all the same.
    blank = frame.assign(unique_tokens=[""] + [unique] * (len(frame) - 1))
    with pytest.raises(ValueError, match=r"row.* data was repeated.*repeats='effective'"):
        scaling.fit(blank, bootstrap=0)
    assert frame["tokens"][0] < unique
    assert scaling.fit(blank, repeats="effective", bootstrap=0).value == law.value
    with pytest.raises(ValueError, match="needs a column unique_tokens"):
        scaling.fit(frame.drop(columns="unique_tokens"), repeats="effective")


def test_diverged_runs_and_other_accounts_of_flops_are_reported() -> None:
    frame = like_chinchilla().assign(status="ok")
    frame.loc[[3, 7], ["status", "loss"]] = "diverged", 9.0
    frame["flops"] = 2 * frame["params"] * frame["tokens"]
    law = scaling.fit(frame, bootstrap=0)
    assert law.n == 238 and "rows 4, 8 set aside: status 'diverged' is not ok" in law.warnings
    assert any("flops are 2 N D in the median" in warning for warning in law.warnings)
    assert law.convention == "C as given"


def test_unknown_words_get_the_nearest_and_odd_numbers_the_rule() -> None:
    frame = isoflops(CORRECTED)
    with pytest.raises(ValueError, match="objective 'hubert' is unknown; did you mean 'huber'"):
        scaling.fit(frame, objective="hubert")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="delta = 0 must be above 0"):
        scaling.fit(frame, delta=0)
    with pytest.raises(ValueError, match="confidence = 95 is not a probability"):
        scaling.fit(frame, confidence=95)
    with pytest.raises(ValueError, match="bootstrap = -1"):
        scaling.fit(frame, bootstrap=-1)
    with pytest.raises(ValueError, match="2 architectures"):
        scaling.fit(frame.assign(arch=["a"] * 20 + ["b"] * 15))
