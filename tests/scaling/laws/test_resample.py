"""The bootstrap: what is drawn, that every resample is fitted, and that the intervals cover."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import scaling
from scaling.laws.families import fit_families
from scaling.laws.law import Interval
from scaling.laws.resample import clusters, in_order, multiplicities, percentile, refit
from scaling.laws.runs.cleaning import NotIdentified, clean
from scaling.laws.solver import cells, descend
from tests.scaling.laws.designs import TRUTH, curves, problem_of, simulate

NAMES = ("E", "A", "B", "alpha", "beta", "n_exponent", "d_exponent")


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    laws = [scaling.fit(simulate(0.003, seed), bootstrap=200, confidence=0.9) for seed in range(60)]
    for name in NAMES:
        inside = sum(
            law.intervals[name].low <= getattr(TRUTH, name) <= law.intervals[name].high for law in laws
        )
        # Of 60 sets 54 should. Fewer than 47 has a chance of 1 in 500 at .9, and of nearly a half at .78.
        assert 47 <= inside <= 60, f"{name}: {inside} of 60"
    at = [law.at(1e23).intervals["tokens_per_param"] for law in laws]
    ratio = TRUTH.tokens_per_param(1e23)
    assert 47 <= sum(found.low <= ratio <= found.high for found in at) <= 60


def test_half_as_much_noise_gives_intervals_half_as_wide() -> None:
    def width(noise: float) -> float:
        found = [scaling.fit(simulate(noise, seed), bootstrap=200).intervals["alpha"] for seed in range(5)]
        return sum(interval.high - interval.low for interval in found)

    assert 0.4 < width(0.001) / width(0.002) < 0.6


@pytest.mark.parametrize("objective", ["huber", "log-mse"])
def test_every_resample_reaches_the_optimum_that_several_starts_find(objective: str) -> None:
    frame = simulate(0.004, 1)
    problem, delta = problem_of(frame), {"huber": 1e-3, "log-mse": 1e6}[objective]
    weights = multiplicities(np.arange(35), 40, seed=3)
    law, _, _ = descend(cells(problem.points[0], np.ones(35), 1), problem, np.ones(35), delta)
    theta, fitted = refit(law[0], problem, weights, (delta,), worst=1e4)
    assert fitted.mean() > 0.9
    for row, weight in zip(np.flatnonzero(fitted), weights[fitted], strict=True):
        _, own, _ = descend(theta[row : row + 1], problem, weight, delta)
        _, best, _ = descend(cells(problem.points[0], weight, 6), problem, weight, delta)
        assert own[0] <= best.min() * (1 + 1e-6)


def test_a_resample_is_a_table_with_runs_given_as_often_as_drawn() -> None:
    frame = in_order(simulate(0.004, 2)).reset_index(drop=True)
    law = scaling.fit(frame, bootstrap=100, seed=5)
    weight = multiplicities(np.arange(35), 100, seed=5)[0]
    drawn = frame.loc[np.repeat(np.arange(35), weight.astype(int))].reset_index(drop=True)
    again = scaling.fit(drawn.assign(seed=np.arange(35)), bootstrap=0)
    for name in NAMES[:5]:
        assert law.draws[name][0] == pytest.approx(getattr(again, name), rel=1e-5)


def test_clusters_are_drawn_whole() -> None:
    runs = clean(simulate(0.003, 0).assign(run=np.arange(35) // 3)).frame
    for resample, count in (("pairs", 35), ("budget", 5), ("run", 12)):
        groups = clusters(runs, resample)
        drawn = multiplicities(groups, 50, seed=0)
        assert groups.max() + 1 == count
        for group in range(count):
            assert (drawn[:, groups == group] == drawn[:, groups == group][:, :1]).all()
    assert (multiplicities(np.arange(35), 50, seed=0).sum(1) == 35).all()
    renamed = runs.rename(columns={"run": "model"})
    np.testing.assert_array_equal(clusters(renamed, "run"), clusters(runs, "run"))


def test_rows_of_one_training_run_need_the_cluster_bootstrap() -> None:
    """Ten near copies of each run look like ten times the evidence; drawn whole, they do not."""
    few = simulate(0.003, 0).assign(run=np.arange(35))
    many = pd.concat([few.assign(loss=few["loss"] * (1 + 1e-6 * i)) for i in range(10)], ignore_index=True)

    def width(frame: pd.DataFrame, resample: Any) -> float:
        found = scaling.fit(frame, bootstrap=300, resample=resample).intervals["alpha"]
        return found.high - found.low

    honest = width(few, "pairs")
    assert width(many, "pairs") < 0.5 * honest
    assert width(many, "run") == pytest.approx(honest, rel=0.25)


@pytest.mark.parametrize("label", ["run", "model"])
def test_rows_that_share_a_run_are_drawn_by_run_unless_asked_otherwise(label: str) -> None:
    frame = curves(0).rename(columns={"run": label})
    found = scaling.fit(frame, bootstrap=100)
    assert found.resample == "run"
    pd.testing.assert_frame_equal(found.draws, scaling.fit(frame, bootstrap=100, resample="run").draws)
    assert scaling.fit(frame, bootstrap=100, resample="pairs").resample == "pairs"
    both = pd.concat([frame.assign(arch="a"), frame.assign(arch="b", loss=frame["loss"] * 1.01)])
    drawn = fit_families(both, bootstrap=100).draws["a"]
    pd.testing.assert_frame_equal(drawn, fit_families(both, bootstrap=100, resample="run").draws["a"])
    assert scaling.fit(frame, bootstrap=0).resample == ""


def test_labels_that_are_not_of_training_runs_are_not_drawn() -> None:
    """A run has one size: two architectures in a column model, or the number of a repetition, are none."""
    frame = curves(0).drop(columns="run")
    for labels in (["a", "b"] * 70, np.arange(140), [np.nan, *np.arange(139) // 4]):
        assert scaling.fit(frame.assign(model=labels), bootstrap=100).resample == "pairs"


def test_drawing_runs_of_one_row_each_is_refused() -> None:
    frame = curves(0).iloc[105:]
    with pytest.raises(ValueError, match="each of the 35 labels in column 'run' has one row; draw 'pairs'"):
        scaling.fit(frame, resample="run", bootstrap=100)


@pytest.mark.slow
def test_intervals_of_rows_that_share_runs_cover_by_default() -> None:
    cases: dict[str, dict[str, Any]] = {"default": {}, "pairs": {"resample": "pairs"}}
    hits = dict.fromkeys(cases, 0)
    for seed in range(80):
        for name, options in cases.items():
            law = scaling.fit(curves(seed), bootstrap=300, **options)
            for key in ("alpha", "beta", "E"):
                ends = law.intervals[key]
                hits[name] += ends.low <= getattr(TRUTH, key) <= ends.high
    assert hits["default"] >= 0.9 * 240, hits
    assert hits["pairs"] <= 0.85 * 240, hits


def test_clusters_that_are_one_or_few_are_refused_or_said() -> None:
    frame = simulate(0.003, 0)
    with pytest.raises(ValueError, match=r"resample = 'run' needs a column run \(or model\)"):
        scaling.fit(frame, resample="run", bootstrap=100)
    with pytest.raises(ValueError, match="all 35 runs are one cluster"):
        scaling.fit(frame.assign(run="a"), resample="run", bootstrap=100)
    law = scaling.fit(frame, resample="budget", bootstrap=100)
    assert any(warning.startswith("5 clusters were drawn") for warning in law.warnings)


def test_resamples_that_determine_no_law_are_counted() -> None:
    law = scaling.fit(simulate(0.003, 0), resample="budget", bootstrap=2000)
    lost = 2000 - len(law.draws)
    assert 0 < lost < 200, "now and then all five budgets drawn are one"
    assert f"{lost} of 2000 bootstrap resamples determine no law: intervals lack them" in law.warnings


def test_a_law_that_rests_on_single_runs_has_no_intervals() -> None:
    n = np.array([1e8, 1e8, 1e9, 1e9, 3e9, 3e9])
    d = np.array([1e9, 1e10, 2e9, 2e10, 1e10, 1e9])
    frame = pd.DataFrame({"params": n, "tokens": d, "loss": TRUTH.loss(n, d)})
    assert scaling.fit(frame, bootstrap=0).alpha == pytest.approx(TRUTH.alpha, rel=1e-6)
    with pytest.raises(NotIdentified, match="bootstrap resamples determine no law.*rests on a few runs"):
        scaling.fit(frame, bootstrap=100)


def test_least_absolute_deviations_have_intervals_like_those_of_huber() -> None:
    frame = simulate(0.004, 3)
    lad, huber = (scaling.fit(frame, objective=name, bootstrap=100) for name in ("lad", "huber"))
    for name in ("alpha", "beta", "E"):
        width, usual = (law.intervals[name].high - law.intervals[name].low for law in (lad, huber))
        assert 0.5 < width / usual < 2


def test_where_the_noise_is_not_the_same_everywhere_asymptotic_errors_are_too_small() -> None:
    frame = simulate(0.0, 0, budgets=30)
    edge = frame["budget"].isin([frame["budget"].min(), frame["budget"].max()])
    noise = np.random.default_rng(0).standard_normal(len(frame)) * np.where(edge, 0.01, 0.001)
    frame["loss"] *= np.exp(noise)
    law = scaling.fit(frame, objective="log-mse", bootstrap=300)
    problem = problem_of(frame)
    r, jacobian = problem.residuals(problem.unknowns(law)[None])
    covariance = np.linalg.inv(jacobian[0] @ jacobian[0].T) * (r[0] @ r[0]) / (law.n - 5)
    assert np.sqrt(covariance[3, 3]) < 0.75 * law.draws["alpha"].std()


def test_the_seed_decides_the_draws_and_nothing_else() -> None:
    frame = simulate(0.003, 0)
    first, again, other = (scaling.fit(frame, bootstrap=100, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first.draws, again.draws)
    assert not first.draws.equals(other.draws)
    assert (first.alpha, first.value) == (other.alpha, other.value)
    longer = scaling.fit(frame, bootstrap=200, seed=0)
    np.testing.assert_allclose(longer.draws["alpha"][:100], first.draws["alpha"], rtol=1e-6)


def test_the_order_of_the_rows_changes_nothing() -> None:
    frame = pd.concat([curves(0).assign(arch="a"), curves(1).assign(arch="b")], ignore_index=True)
    other = frame.iloc[::-1].reset_index(drop=True)
    one, two = (scaling.fit(rows.query("arch == 'a'"), bootstrap=100) for rows in (frame, other))
    pd.testing.assert_frame_equal(one.draws, two.draws)
    np.testing.assert_array_equal(one.residuals, two.residuals[::-1])
    first, second = (fit_families(rows, bootstrap=100) for rows in (frame, other))
    for name in "ab":
        pd.testing.assert_frame_equal(first.draws[name], second.draws[name], rtol=1e-6)


def test_an_allocation_has_intervals_and_says_when_it_extrapolates() -> None:
    law = scaling.fit(simulate(0.003, 0), bootstrap=200)
    near, far = law.at(1e20), law.at(3e23)
    assert near.params == pytest.approx(law.n_opt(1e20), rel=1e-12)
    assert near.loss == pytest.approx(law.loss_opt(1e20), rel=1e-12)
    assert (near.beyond, far.beyond) == pytest.approx((1 / 3, 1000), rel=1e-9)
    assert "extrapolated 1e+03 times" in str(far) and "extrapolated" not in str(near)
    for name in ("params", "tokens", "tokens_per_param", "loss"):
        close, wide = near.intervals[name], far.intervals[name]
        assert close.low < getattr(near, name) < close.high
        assert wide.high / wide.low > close.high / close.low or name == "loss"
    narrow = law.at(1e20, confidence=0.5).intervals["params"]
    assert narrow.level == 0.5 and narrow.high < near.intervals["params"].high
    assert scaling.fit(simulate(0.003, 0), bootstrap=0).at(1e20).intervals == {}


def test_percentiles() -> None:
    assert percentile(np.arange(101.0), 0.5) == Interval(25.0, 75.0, 0.5)
