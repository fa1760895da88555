"""The state-optimal law: recovery, intervals, the test of sharing, and what cannot be fitted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scaling.laws.runs.cleaning import NotIdentified
from scaling.laws.state import state_law
from tests.scaling.laws.designs import SYMMETRIC, grid

K = {"attention": 3000.0, "hybrid": 2400.0, "recurrent": 2000.0}


def optima(
    *, exponents: tuple[float, ...] = (-0.28,) * 3, points: int = 5, noise: float = 0.0, seed: int = 0
) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    parts = []
    for (name, k), c in zip(K.items(), exponents, strict=True):
        state = np.geomspace(1e5, 1e7, points)
        ppl = k * state**c * np.exp(noise * rng.standard_normal(points))
        parts.append(pd.DataFrame({"arch": name, "state": state, "ppl": ppl}))
    return pd.concat(parts, ignore_index=True)


def test_the_shared_exponent_and_each_coefficient_are_recovered() -> None:
    law = state_law(optima())
    assert law.exponent == pytest.approx(-0.28, abs=1e-9)
    assert law.coefficients == pytest.approx(K)
    assert law.ppl(1e6, group="hybrid") == pytest.approx(2400 * 1e6**-0.28)
    assert law.sharing is not None and law.sharing.allowed and law.n == 15 and law.r2 == pytest.approx(1)
    assert law.warnings == ()


def test_one_class_has_one_coefficient_and_several_ask_which() -> None:
    law = state_law(optima().query("arch == 'hybrid'"))
    assert law.coefficient == pytest.approx(2400) and law.ppl(1e6) == pytest.approx(2400 * 1e6**-0.28)
    several = state_law(optima())
    with pytest.raises(ValueError, match="there are 3 classes"):
        _ = several.coefficient
    with pytest.raises(ValueError, match="did you mean 'hybrid'"):
        several.ppl(1e6, group="hybird")


def test_intervals_cover_the_exponent_as_often_as_they_say() -> None:
    fits = [state_law(optima(points=3, noise=0.05, seed=seed), confidence=0.9) for seed in range(40)]
    hits = sum(fit.interval is not None and fit.interval.low <= -0.28 <= fit.interval.high for fit in fits)
    assert stats.binom.ppf(0.0005, 40, 0.9) <= hits <= stats.binom.ppf(0.9995, 40, 0.9)


def test_exponents_that_differ_may_not_be_shared() -> None:
    frame = optima(exponents=(-0.2, -0.28, -0.36), noise=0.02)
    law = state_law(frame)
    assert law.sharing is not None and law.sharing.allowed is False and law.sharing.df == (2, 9)
    assert any("do not share an exponent" in text for text in law.warnings)
    own = state_law(frame, shared=False)
    assert own.exponents == pytest.approx({"attention": -0.2, "hybrid": -0.28, "recurrent": -0.36}, abs=0.03)
    with pytest.raises(ValueError, match="each class has its own exponent"):
        _ = own.exponent


def test_classes_group_architectures() -> None:
    frame = optima(points=2).assign(**{"class": "all of them"})
    assert list(state_law(frame).coefficients) == ["all of them"]


def isoflop_runs(noise: float = 0.0) -> pd.DataFrame:
    """Runs whose optimal loss is 5 - 0.1 ln M, with M ~ N^0.5 in each budget and a constant that grows."""
    parts = []
    for budget, loss in ((1e18, 3.6), (1e19, 3.4), (1e20, 3.2)):
        frame = grid(SYMMETRIC, [budget], width=3, noise=noise)
        best = float(SYMMETRIC.n_opt(budget))
        state = np.exp((5 - loss) / 0.1) * (frame["params"] / best) ** 0.5
        u = np.log(frame["params"] / best)
        parts.append(frame.assign(state=state, loss=loss + 0.05 * u**2))
    return pd.concat(parts, ignore_index=True)


def test_optima_are_found_from_runs_and_their_state_between_sizes() -> None:
    law = state_law(isoflop_runs())
    assert law.exponent == pytest.approx(-0.1, abs=1e-9)
    assert law.coefficient == pytest.approx(np.exp(5))
    assert len(law.points) == 3
    moved = isoflop_runs()
    moved = moved[
        moved["params"] * 1.001 < moved.groupby(moved["loss"].index // 7)["params"].transform("max")
    ]
    assert len(moved) == 18 and state_law(moved).coefficient == pytest.approx(np.exp(5))


def test_rows_may_be_called_optima_although_they_share_a_budget() -> None:
    frame = isoflop_runs().iloc[[0, 1, 8, 9]]
    assert state_law(frame, optimal=True).n == 4
    with pytest.raises(NotIdentified, match="no budget has an optimum.*too few sizes"):
        state_law(frame)


def test_an_architecture_with_a_single_budget_serves_its_class() -> None:
    frame = isoflop_runs()
    frame["arch"] = [f"width {row // 7}" for row in range(21)]
    assert state_law(frame.assign(**{"class": "one"})).exponent == pytest.approx(-0.1, abs=1e-9)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (
            optima().assign(state=[0, 0, *[5] * 13]),
            "rows 1, 2, column 'state': 0, a model that carries nothing",
        ),
        (optima().assign(state=[np.nan, *[5] * 14]), "row 1, column 'state': no value; fill it in"),
        (optima().assign(state=-1), "column 'state': -1 is not a finite number above 0"),
        (optima().drop(columns="state"), "column 'state' is missing"),
        (optima().drop(columns="ppl"), "column 'loss' .or 'ppl'. is missing"),
    ],
)
def test_bad_tables_are_named(frame: pd.DataFrame, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        state_law(frame)


def test_one_state_is_not_identified_and_named() -> None:
    with pytest.raises(NotIdentified, match="attention, hybrid, recurrent has.*add optima"):
        state_law(optima().assign(state=1e6))
    frame = optima().drop(index=[1, 2, 3, 4])
    with pytest.raises(NotIdentified, match="attention has one"):
        state_law(frame, shared=False)
    law = state_law(frame)
    assert law.exponent == pytest.approx(-0.28) and law.coefficients["attention"] == pytest.approx(3000)
    assert any("attention has one state" in text for text in law.warnings)


def test_a_law_that_does_not_fall_or_does_not_fit_is_called_so() -> None:
    rng = np.random.default_rng(0)
    law = state_law(optima(points=8).assign(ppl=np.exp(3 + 0.3 * rng.standard_normal(24))))
    assert any("of the variance" in text for text in law.warnings)
    rising = state_law(optima(exponents=(0.1, 0.1, 0.1)))
    assert any("does not fall with the state" in text for text in rising.warnings)


def test_permuted_rows_give_the_same_law() -> None:
    frame = optima(noise=0.05)
    one, other = state_law(frame), state_law(frame.sample(frac=1, random_state=1))
    assert one.exponent == pytest.approx(other.exponent, rel=1e-12)
    assert one.coefficients == pytest.approx(other.coefficients, rel=1e-12)
