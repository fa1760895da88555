"""The statistic of a comparison, against plain arithmetic, against scipy and against simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from mad.score.pairing import (
    MOST_SEEDS,
    POOL,
    Pool,
    Side,
    difference,
    holm,
    pool_of,
    rows_limit,
    seeds_to_separate,
    side,
    weighted,
)
from tests.modules import module_at

ROWS = 200
TARGETS = np.full(ROWS, 10)


def sides(hits: Any, targets: Any = TARGETS) -> Side:
    """Of hits (seeds, rows)."""
    found = np.asarray(hits)
    return side([float(s) for s in found.sum(1) / targets.sum()], len(targets), found, targets)


def drawn(level: float, seeds: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).binomial(TARGETS, level, (seeds, ROWS))


def test_with_one_seed_and_no_other_rows_it_is_the_paired_t_test_over_rows() -> None:
    a, b = drawn(0.5, 1, 1), drawn(0.53, 1, 2)
    found, peer = difference(sides(a), sides(b)), scipy.stats.ttest_rel(a[0], b[0])
    assert (found.p, found.df) == pytest.approx((peer.pvalue, ROWS - 1))
    interval = peer.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low / 10, interval.high / 10))
    assert found.rows == "paired" and not found.luck


def test_hard_rows_cancel() -> None:
    hard = np.random.default_rng(0).integers(0, 10, ROWS)
    better = np.minimum(hard + (np.arange(ROWS) % 4 == 0), 10)
    close = difference(sides([better]), sides([hard]))
    independent = scipy.stats.ttest_ind(better, hard).pvalue
    assert close.p < 1e-5 < 0.1 < independent


def test_where_rows_say_nothing_it_is_the_test_of_welch_over_seeds() -> None:
    rng = np.random.default_rng(3)
    a, b = 0.5 + 0.02 * rng.standard_normal(4), 0.52 + 0.04 * rng.standard_normal(3)
    found = difference(side(list(a), 10**6), side(list(b), 10**6))
    peer = scipy.stats.ttest_ind(a, b, equal_var=False)
    assert (found.p, found.df) == pytest.approx((peer.pvalue, peer.df), rel=1e-6)
    assert found.rows == "none" and found.luck


def test_without_hits_and_seeds_rows_are_independent_binomials() -> None:
    found = difference(side([0.6], 1000), side([0.5], 1000))
    assert found.rows == "unpaired" and not found.luck
    assert found.error == pytest.approx(math.sqrt((0.6 * 0.4 + 0.25) / 1000))


def test_hits_on_one_side_alone_are_not_paired() -> None:
    assert difference(sides(drawn(0.5, 1)), side([0.4], ROWS)).rows == "unpaired"


def test_seeds_beyond_what_rows_explain_widen_the_interval() -> None:
    still, moving = drawn(0.5, 3), np.stack([drawn(p, 1, i)[0] for i, p in enumerate((0.4, 0.5, 0.6))])
    other = sides(drawn(0.5, 3, 9))
    assert difference(sides(moving), other).error > 3 * difference(sides(still), other).error
    assert sides(still).within == pytest.approx(0.25 / 10 / ROWS, rel=0.15)


def test_seeds_that_agree_by_chance_count_as_far_apart_as_rows_make_them() -> None:
    row = drawn(0.5, 1)[0]
    turned = np.stack([row, np.roll(row, 1)])  # The same score twice, by other rows.
    found = sides(turned)
    assert found.spread == 0 < found.within
    other = sides(drawn(0.55, 2))
    assert difference(found, other).error ** 2 >= found.within / 2 + other.within / 2


def test_what_the_board_knows_of_seeds_counts_as_few_of_them() -> None:
    one, other, pool = side([0.6], 10**6), side([0.5], 10**6), pool_of([[0.5, 0.54, 0.52]] * 5)
    found = difference(one, other, pool)
    spread = 0.0004 / (0.52 * 0.48) ** 2
    assert found.luck and pool.df == POOL
    assert found.error**2 == pytest.approx(spread * (0.24**2 + 0.25**2), rel=1e-3)
    # Both sides lean on the same number, which is no surer for being used twice.
    assert found.df == pytest.approx(POOL, rel=1e-2)


def test_the_luck_of_seeds_is_little_near_the_ceiling() -> None:
    pool = pool_of([[0.4, 0.6], [1.0, 1.0], [0.0, 0.0], [0.7]])
    assert pool.df == 1 and pool.unit == pytest.approx(0.02 / 0.25**2)
    assert pool.at(1.0) == 0 and pool.at(0.99) < pool.at(0.5) / 600
    assert pool_of([[1.0, 1.0], [0.5]]) == pool_of([]) == Pool()


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("known", [True, False])
def test_equal_scores_without_spread_are_equal(level: int, seeds: int, known: bool) -> None:
    hits = np.full((seeds, ROWS), 10 * level)
    one = sides(hits) if known else side([float(level)] * seeds, ROWS)
    found = difference(one, one, pool_of([[0.5, 0.6]]))
    assert found.value == 0 and found.p == 1 and 0 < found.high < 0.02 and found.low == -found.high


def test_scores_apart_without_spread_are_apart_and_finite() -> None:
    found = difference(sides(np.full((2, ROWS), 10)), sides(np.zeros((2, ROWS), int)))
    assert found.value == found.high == 1 and 0 <= found.p < 1e-9 and math.isfinite(found.error)
    assert difference(side([1.0], 1), side([0.0], 1)).p > 0.2


hit = st.integers(0, 3)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_anything_gives_a_finite_answer_that_is_turned_by_turning_the_sides(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 6))
    targets = np.array(data.draw(st.lists(st.integers(3, 9), min_size=rows, max_size=rows)))
    two = []
    for _ in range(2):
        seeds = data.draw(st.integers(1, 3))
        hits = [data.draw(st.lists(hit, min_size=rows, max_size=rows)) for _ in range(seeds)]
        two.append(sides(np.array(hits), targets))
    pool = pool_of(data.draw(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=3), max_size=3)))
    there, back = difference(two[0], two[1], pool), difference(two[1], two[0], pool)
    assert all(map(math.isfinite, (there.value, there.low, there.high, there.error, there.df, there.p)))
    assert 0 <= there.p <= 1 and -1 <= there.low <= there.value <= there.high <= 1 and there.df > 0
    assert (there.p, there.low) == pytest.approx((back.p, -back.high))
    needed = seeds_to_separate(two[0], two[1], pool, 0.05)
    assert needed is None or 2 <= needed <= MOST_SEEDS


def test_a_row_counts_by_its_residual_where_rows_have_other_numbers_of_targets() -> None:
    # Every target that b misses is one of the longest rows: shorter rows speak for it too, by their share.
    targets = np.array([1, 1, 2, 4] * 50)
    half = sides(np.array([targets // 2, (targets + 1) // 2]), targets)
    assert half.rows is not None and half.rows.mean() == pytest.approx(0, abs=1e-12)
    # An architecture that is equally good in every row has no residual, however long the rows.
    assert sides(np.array([2 * targets]), 4 * targets).rows == pytest.approx(np.zeros(200))


def test_the_mean_of_settings_is_that_of_independent_ones() -> None:
    parts = [(side([x, x + 0.02, x + 0.01], 10**6), side([0.4, 0.41, 0.43], 10**6)) for x in (0.4, 0.5)]
    alone = [difference(a, b) for a, b in parts]
    both = weighted([(a, b, Pool(), 0.5) for a, b in parts])
    assert both.value == pytest.approx(sum(one.value for one in alone) / 2)
    assert both.error**2 == pytest.approx(sum(one.error**2 for one in alone) / 4)
    assert both.df > max(one.df for one in alone)


def test_holm_is_that_of_statistics_books() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == []
    values = list(np.random.default_rng(0).random(20) ** 3)
    assert all(p <= q <= 1 for p, q in zip(values, holm(values), strict=True))


def test_seeds_to_separate_fall_with_the_difference_and_end_where_rows_limit() -> None:
    def two(apart: float, size: int = 10**6) -> tuple[Side, Side]:
        return side([0.5, 0.52, 0.48], size), side([0.5 + apart, 0.52 + apart, 0.48 + apart], size)

    needed = [seeds_to_separate(*two(apart), Pool(), 0.05) for apart in (0.01, 0.02, 0.04)]
    assert needed == sorted(needed, reverse=True) and needed[2] == 6  # type: ignore[type-var]
    # Of two means, each of n with sd 0.02, 0.02 apart: 17 of each, as tables of power say.
    assert needed[1] == 17
    assert seeds_to_separate(*two(0.0), Pool(), 0.05) is None
    few = sides(drawn(0.5, 3)), sides(drawn(0.5, 3, 1))
    assert rows_limit(*few, 0.05) and seeds_to_separate(*few, Pool(), 0.05) is None
    assert not rows_limit(*two(0.02), 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_equal_architectures_are_called_different_once_in_twenty(seeds: int) -> None:
    module = module_at("benchmarks/comparison_errors.py")
    rng, trials = np.random.default_rng(seeds), 500
    for name in ("seeds alike", "quiet seeds"):
        wrong = module.errors(module.NOISES[name], seeds, trials, rng)
        # Three standard errors above 5 %.
        assert wrong["mad compare"] <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials), (name, wrong)
    assert seeds > 1 or wrong["without other rows"] > 0.1


@pytest.mark.slow
def test_the_seeds_that_are_foretold_show_the_difference_four_times_in_five() -> None:
    module = module_at("benchmarks/comparison_errors.py")
    share, told = module.foretold(module.NOISES["seeds alike"], 3, 60, np.random.default_rng(0))
    assert abs(share - 0.8) < 0.17, (share, told)
