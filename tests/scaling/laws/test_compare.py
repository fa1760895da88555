"""Perplexity at equal compute: known ratios recovered, intervals that cover, what cannot be compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scaling.laws.comparison import compare
from scaling.laws.law import Law
from scaling.laws.runs.cleaning import NotIdentified
from tests.scaling.laws.designs import BUDGETS, SYMMETRIC, grid

# The same law but for E: the perplexity of b is exp(0.05) times that of a at any compute.
HIGHER = replace(SYMMETRIC, E=SYMMETRIC.E + 0.05)
RATIO = float(np.exp(0.05))


def two(noise: float = 0.0, seed: int = 0, other: Law = HIGHER) -> pd.DataFrame:
    parts = [
        grid(noise=noise, seed=2 * seed, law=SYMMETRIC),
        grid(other, noise=noise, seed=2 * seed + 1, arch="b"),
    ]
    return pd.concat(parts, ignore_index=True)


def test_a_known_ratio_is_recovered_at_each_budget_and_over_all() -> None:
    found = compare(two(), baseline="a")
    np.testing.assert_allclose(found.table["ratio"], RATIO, rtol=1e-4)
    np.testing.assert_allclose(found.table["flops"], BUDGETS, rtol=1e-9)
    assert found.table["n"].tolist() == [14] * 4
    assert found.overall is not None
    (row,) = found.overall.to_dict("records")
    assert row["ratio"] == pytest.approx(RATIO, rel=1e-4) and (row["budgets"], row["n"]) == (4, 56)
    assert row["verdict"] == "higher" and row["p"] < 0.01


@pytest.mark.parametrize("seed", range(5))
def test_ratios_of_unlike_laws_are_recovered_under_noise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    other = Law(
        E=1.7, A=600.0, B=1200.0, alpha=float(rng.uniform(0.3, 0.4)), beta=float(rng.uniform(0.3, 0.4))
    )
    found = compare(two(noise=0.002, seed=seed, other=other), baseline="a", confidence=0.999)
    truth = np.exp(other.loss_opt(np.array(BUDGETS)) - SYMMETRIC.loss_opt(np.array(BUDGETS)))
    assert ((found.table["low"] < truth) & (truth < found.table["high"])).all()


def test_the_interval_covers_the_ratio_as_often_as_it_says() -> None:
    trials, hits = 30, np.zeros(2)
    for seed in range(trials):
        frame = pd.concat(
            [
                grid(SYMMETRIC, BUDGETS[:2], sizes=5, noise=0.01, seed=2 * seed),
                grid(HIGHER, BUDGETS[:2], sizes=5, noise=0.01, seed=2 * seed + 1, arch="b"),
            ]
        )
        found = compare(frame, baseline="a", confidence=0.9, bootstrap=400)
        assert found.overall is not None
        rows = found.table.iloc[0], found.overall.iloc[0]
        hits += [row["low"] <= RATIO <= row["high"] for row in rows]
    assert (hits >= stats.binom.ppf(0.0005, trials, 0.9)).all(), hits / trials
    assert (hits <= stats.binom.ppf(0.9995, trials, 0.9)).all(), hits / trials


def test_architectures_that_are_alike_are_not_resolved() -> None:
    found = compare(two(noise=0.01, other=SYMMETRIC))
    assert found.overall is not None
    assert found.overall["verdict"].tolist() == ["not resolved"] and found.overall["p"][0] > 0.05


def test_the_order_of_rows_and_architectures_does_not_matter() -> None:
    frame = two(noise=0.01)
    one, other = compare(frame), compare(frame.iloc[::-1])
    pd.testing.assert_frame_equal(one.table, other.table)
    swapped = compare(frame, baseline="a")
    assert one.overall is not None and swapped.overall is not None
    np.testing.assert_allclose(one.overall["ratio"], 1 / swapped.overall["ratio"], rtol=1e-12)
    np.testing.assert_allclose(one.overall["low"], 1 / swapped.overall["high"], rtol=1e-3)


def test_without_a_baseline_every_pair_is_compared() -> None:
    found = compare(pd.concat([two(), grid(arch="c")]))
    assert found.overall is not None
    assert list(zip(found.overall["arch"], found.overall["baseline"], strict=True)) == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]


def test_at_a_compute_between_budgets_and_beyond_them() -> None:
    inside = compare(two(), baseline="a", at=5e19)
    assert inside.overall is None and inside.table["beyond"].tolist() == [1.0] and inside.warnings == ()
    assert inside.table["ratio"][0] == pytest.approx(RATIO, rel=1e-3)
    beyond = compare(two(), baseline="a", at=1e22)
    assert beyond.table["beyond"][0] == pytest.approx(10)
    assert beyond.table["ratio"][0] == pytest.approx(RATIO, rel=0.01)
    assert any("lies 10 times outside the budgets" in text for text in beyond.warnings)
    assert compare(two(), baseline="a", at=1e19).table["ratio"][0] == pytest.approx(RATIO, rel=1e-4)


@pytest.mark.parametrize("at", [BUDGETS[0], 1.06 * BUDGETS[-1]])
def test_a_frontier_goes_on_from_its_last_budget_without_a_jump(at: float) -> None:
    """One of two architectures whose FLOPs are 6 % apart lies just beyond its budgets."""
    frame = pd.concat([grid(SYMMETRIC), grid(HIGHER, [1.06 * c for c in BUDGETS], arch="b")])
    ratio = compare(frame, baseline="a", at=at, bootstrap=0).table["ratio"][0]
    true = np.exp(HIGHER.loss_opt(at) - SYMMETRIC.loss_opt(at))
    assert ratio == pytest.approx(true, rel=0.008)


def test_extrapolation_widens_the_interval() -> None:
    tables = [compare(two(noise=0.01), at=c).table.iloc[0] for c in (1e20, 1e23)]
    inside, beyond = (np.log(row["high"] / row["low"]) for row in tables)
    assert beyond > 2 * inside


def test_budgets_that_differ_a_little_are_moved_to_one_compute() -> None:
    later = grid(HIGHER, [c * 1.08 for c in BUDGETS], arch="b")
    found = compare(pd.concat([grid(SYMMETRIC), later]), baseline="a")
    np.testing.assert_allclose(found.table["ratio"], RATIO, rtol=2e-3)
    unmoved = np.exp(HIGHER.loss_opt(1.08e18) - SYMMETRIC.loss_opt(1e18))
    assert abs(unmoved - RATIO) > 0.01  # what it would be else


def test_architectures_without_a_common_budget_are_named() -> None:
    frame = pd.concat([grid(budgets=BUDGETS[:2]), grid(budgets=BUDGETS[2:], arch="b")])
    with pytest.raises(
        NotIdentified, match=r"a and b have no usable budget in common: a has 1e\+18, 1e\+19; b"
    ):
        compare(frame)
    assert compare(frame, at=1e20).table["beyond"][0] == pytest.approx(10)
    three = grid(budgets=BUDGETS[:1], sizes=3, arch="c")
    with pytest.raises(NotIdentified, match=r"c has 1e\+18 \(three sizes\)"):
        compare(pd.concat([grid(), three]))


def test_a_ratio_that_changes_with_compute_is_told() -> None:
    found = compare(two(noise=0.002, other=Law(E=1.8, A=500.0, B=1500.0, alpha=0.33, beta=0.36)))
    assert any("the ratio differs between budgets" in text for text in found.warnings)
    assert not any("differs" in text for text in compare(two(noise=0.002)).warnings)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [4, 5, 7])
def test_a_ratio_that_is_the_same_everywhere_is_said_to_differ_as_rarely_as_promised(sizes: int) -> None:
    said = of = 0
    for budgets in (2, 3, 4, 6):
        at = np.geomspace(1e18, 1e21, budgets)
        for seed in range(100):
            frames = [
                grid(law, at, sizes=sizes, noise=0.003, seed=8 * seed + i, arch=name)
                for i, (law, name) in enumerate([(SYMMETRIC, "a"), (HIGHER, "b")])
            ]
            warnings = compare(pd.concat(frames), bootstrap=0).warnings
            said, of = said + any("differs between" in text for text in warnings), of + 1
    assert said <= stats.binom.ppf(0.999, of, 0.05), (said, of)
    assert said >= stats.binom.ppf(0.001, of, 0.02), (said, of)


@pytest.mark.parametrize("seed", [5, 91])
def test_four_sizes_leave_too_little_scatter_to_call_a_ratio_changing(seed: int) -> None:
    """Tables of one ratio: p is .0001 and .04 where the scatter of the runs is taken for the noise itself."""
    frames = [
        grid(SYMMETRIC, sizes=4, noise=0.003, seed=2 * seed),
        grid(HIGHER, sizes=4, noise=0.003, seed=2 * seed + 1, arch="b"),
    ]
    assert not any("differs" in text for text in compare(pd.concat(frames)).warnings)


def test_one_architecture_or_an_unknown_baseline_is_refused() -> None:
    with pytest.raises(ValueError, match="there is one architecture .a.; a comparison needs two"):
        compare(grid())
    with pytest.raises(ValueError, match="baseline = 'bb' has no runs; did you mean 'b'"):
        compare(two(), baseline="bb")


def test_a_frontier_of_one_budget_says_nothing_elsewhere() -> None:
    frame = pd.concat([grid(SYMMETRIC, budgets=[1e18]), grid(HIGHER, budgets=[1e18], arch="b")])
    assert compare(frame, baseline="a").table["ratio"][0] == pytest.approx(RATIO, rel=1e-3)
    with pytest.raises(NotIdentified, match="has 1 usable budgets, so its loss at C = 1e.19 is open"):
        compare(frame, at=1e19)
