"""Approach 1, and the three approaches side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaling.laws.envelopes import envelope
from scaling.laws.law import Law
from scaling.laws.runs.cleaning import NotIdentified
from scaling.report.results.allocation import side_by_side
from tests.scaling.laws.designs import CHINCHILLA, FALLS_FAST, grid


def curves(law: Law = CHINCHILLA, sizes: int = 25, rows: int = 60) -> pd.DataFrame:
    """Each size is trained from a thirtieth of its optimal tokens to thirty times them."""
    parts = []
    for i, c in enumerate(np.geomspace(1e18, 1e22, sizes)):
        n, d = float(law.n_opt(c)), float(law.d_opt(c)) * np.geomspace(1 / 30, 30, rows)
        parts.append(pd.DataFrame({"run": i, "params": n, "tokens": d, "loss": law.loss(n, d)}))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("law", [CHINCHILLA, FALLS_FAST])
def test_the_exponents_of_a_law_are_recovered(law: Law) -> None:
    found = envelope(curves(law), bootstrap=200)
    assert found.exponent == pytest.approx(law.n_exponent, abs=0.01)
    assert found.tokens_exponent == pytest.approx(law.d_exponent, abs=0.01)
    assert found.n_opt(1e20) == pytest.approx(law.n_opt(1e20), rel=0.05)
    assert found.d_opt(1e20) == pytest.approx(law.d_opt(1e20), rel=0.05)
    end = found.intervals["exponent"]
    assert end.low < law.n_exponent < end.high and end.high - end.low < 0.1
    np.testing.assert_allclose(
        found.points["loss"], law.loss_opt(found.points["flops"].to_numpy()), rtol=5e-3
    )
    assert found.n == 25


def test_where_the_smallest_or_largest_size_is_best_the_envelope_is_cut_off() -> None:
    frame = curves()
    found = envelope(frame, bootstrap=100)
    assert found.points["params"].min() > frame["params"].min()
    assert found.points["params"].max() < frame["params"].max()


def test_few_crude_curves_and_permuted_rows() -> None:
    frame = curves(sizes=8, rows=12)
    one, other = envelope(frame, bootstrap=100), envelope(frame.sample(frac=1, random_state=0), bootstrap=100)
    assert one.exponent == other.exponent and one.intervals == other.intervals
    assert one.exponent == pytest.approx(CHINCHILLA.n_exponent, abs=0.05)


def test_end_points_are_not_curves() -> None:
    with pytest.raises(NotIdentified, match="no column run tells.*use isoflop"):
        envelope(grid())
    with pytest.raises(NotIdentified, match="each run is one row"):
        envelope(grid().assign(run=range(28)))


def test_curves_that_do_not_cross_are_not_identified() -> None:
    frame = curves(sizes=25)
    with pytest.raises(NotIdentified, match="of 2 runs passes over 0 sizes.*curves cross"):
        envelope(frame[frame["run"] < 2])


def test_bad_curves_are_named() -> None:
    with pytest.raises(ValueError, match="run '0' has 25 sizes"):
        envelope(curves().assign(run="0"))
    with pytest.raises(ValueError, match="there are 2 architectures"):
        envelope(pd.concat([curves().assign(arch="a"), curves().assign(arch="b")]))


def test_three_approaches_agree_on_a_law_and_stand_side_by_side() -> None:
    frame = curves()
    points = grid(width=1.5).drop(columns="arch")
    points["run"] = [f"point {row}" for row in points.index]
    found = side_by_side(
        pd.concat([frame, points.assign(run=points["run"])]),
        at=1e21,
        budgets=[1e18, 1e19, 1e20, 1e21],
        bootstrap=100,
    ).set_index("approach")
    assert found.index.tolist() == ["envelope", "isoflop", "law"]
    np.testing.assert_allclose(found["n_exponent"], CHINCHILLA.n_exponent, atol=0.01)
    np.testing.assert_allclose(found["n_opt"], CHINCHILLA.n_opt(1e21), rtol=0.05)
    np.testing.assert_allclose(found["d_over_n"], found["d_opt"] / found["n_opt"])
    assert (found["n_low"] <= found["n_high"]).all() and (found["flops"] == 1e21).all()


def test_the_law_is_fitted_to_the_ends_of_the_curves() -> None:
    frame = curves(sizes=12, rows=8)
    last = frame.groupby("run")["tokens"].transform("max") == frame["tokens"]
    shape = np.resize([0.1, 0.3, 1.0], len(frame))  # ends off one ray, early rows off the law
    frame["tokens"] *= shape[frame["run"]]
    frame["loss"] = np.where(last, CHINCHILLA.loss(frame["params"], frame["tokens"]), 9.0)
    found = side_by_side(frame, bootstrap=100).set_index("approach")
    assert found.loc["law", "n_exponent"] == pytest.approx(CHINCHILLA.n_exponent, abs=1e-3)


def test_an_approach_that_the_runs_cannot_serve_says_why() -> None:
    found = side_by_side(grid(), bootstrap=100).set_index("approach")
    assert np.isnan(found.loc["envelope", "n_exponent"])
    assert "use isoflop" in found.loc["envelope", "note"]
    assert found.loc["law", "n_exponent"] == pytest.approx(CHINCHILLA.n_exponent, abs=1e-3)
    with pytest.raises(NotIdentified, match="envelope: .*isoflop: .*law: "):
        side_by_side(grid(budgets=[1e18]), bootstrap=100)
