"""Frontiers: the runs that no cheaper run beats."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaling.laws.frontiers import frontier
from scaling.laws.runs.cleaning import NotIdentified
from tests.scaling.laws.designs import CHINCHILLA, grid


def test_the_frontier_holds_the_runs_that_no_cheaper_run_beats() -> None:
    frame = pd.DataFrame({"arch": "a", "state": [4, 1, 2, 8, 2], "loss": [3.0, 4.0, 3.5, 3.2, 3.6]})
    found = frontier(frame, by="state")
    assert found["state"].tolist() == [1, 2, 4]
    assert found["row"].tolist() == [2, 3, 1]
    np.testing.assert_allclose(found["ppl"], np.exp([4.0, 3.5, 3.0]))


def test_by_compute_it_is_the_best_run_of_each_budget() -> None:
    found = frontier(grid(), by="flops")
    assert len(found) == 4
    np.testing.assert_allclose(found["loss"], CHINCHILLA.loss_opt(found["flops"].to_numpy()), rtol=2e-3)


def test_the_cheapest_of_equal_runs_stands() -> None:
    frame = pd.DataFrame({"params": [1e6, 2e6], "loss": [3.0, 3.0]})
    assert frontier(frame, by="params")["params"].tolist() == [1e6]


def test_exponents_are_own_or_shared() -> None:
    x = np.geomspace(1e5, 1e7, 4)
    parts = [
        pd.DataFrame({"arch": a, "state": x, "ppl": k * x**c})
        for a, k, c in (("a", 300, -0.2), ("b", 200, -0.3))
    ]
    frame = pd.concat(parts, ignore_index=True)
    own = frontier(frame, by="state", shared=False).groupby("arch")["exponent"].first()
    assert own.to_dict() == pytest.approx({"a": -0.2, "b": -0.3})
    shared = frontier(frame, by="state", shared=True)
    assert shared["exponent"].unique() == pytest.approx([-0.25])
    assert np.log(shared["fit"] / shared["ppl"]).groupby(shared["arch"]).mean().abs().max() < 1e-9


def test_a_single_run_has_no_exponent() -> None:
    frame = pd.DataFrame({"arch": list("aab"), "params": [1e6, 2e6, 1e6], "loss": [3.0, 2.9, 3.1]})
    found = frontier(frame, by="params", shared=True)
    assert np.isnan(found["exponent"].iloc[2]) and np.isfinite(found["exponent"].iloc[0])
    with pytest.raises(NotIdentified, match="every frontier over params is a single run"):
        frontier(frame.iloc[[0, 2]], by="params", shared=True)


def test_an_unknown_cost_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'params'"):
        frontier(grid(), by="param")  # type: ignore[arg-type]
