import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mad.data.protocol import SUITES, Suite
from mad.data.records import Record
from mad.score import ArchitectureScore, score
from mad.score.interval import RESAMPLES, Drawn, Estimate, mean, over_rows, over_seeds
from tests.mad.records import (
    CHANCE,
    PUBLIC,
    SOUND,
    TWO,
    architecture,
    group,
    imported,
    measure,
    record,
    setting,
    suite,
)

RECALL, COMPRESSION = TWO.settings
GRID = setting(
    "in-context-recall[vocab_size=8, seq_len=16]", lrs=(1e-4, 5e-4, 1e-3), weight_decays=(0.0, 0.1)
)


def only(records: list[Record], exam: Suite = TWO, **changes: Any) -> ArchitectureScore:
    (row,) = score(records, exam, changes.pop("protocol", SOUND), **changes).architectures
    return row


def setting_score(records: list[Record], at: Any = RECALL, **changes: Any) -> Any:
    (task,) = only(records, suite(at), **changes).tasks.values()
    (found,) = task.settings
    return found


def test_the_run_with_the_better_validation_is_chosen_though_its_test_is_worse() -> None:
    found = setting_score(
        [record(RECALL, 1e-3, test=0.9, validation=0.4), record(RECALL, 2e-3, test=0.3, validation=0.5)]
    )
    assert found.chosen == ((2e-3, 0.0),)
    assert found.value == found.micro == found.macro == 0.3


def test_the_public_code_selects_on_test_by_its_own_metric() -> None:
    runs = [
        record(RECALL, lr, test=t, validation=v, protocol=PUBLIC)
        for lr, t, v in ((1e-3, 0.9, 0.4), (2e-3, 0.3, 0.5))
    ]
    best, other = runs
    assert best.metrics is not None
    found_by_public = measure(0.9, micro=0.95, macro=0.93, macro_batches=0.9)
    best = best.model_copy(update={"metrics": best.metrics.model_copy(update={"test": found_by_public})})
    found = setting_score([best, other], protocol=PUBLIC)
    assert (found.chosen, found.value, found.micro, found.macro) == (((1e-3, 0.0),), 0.9, 0.95, 0.93)


def test_ties_go_to_the_lower_validation_loss_then_to_the_first_of_the_grid() -> None:
    tied = [record(RECALL, 1e-3, validation=0.5, loss=2.0), record(RECALL, 2e-3, validation=0.5, loss=1.0)]
    assert setting_score(tied).chosen == ((2e-3, 0.0),)
    equal = [record(RECALL, 2e-3, validation=0.5), record(RECALL, 1e-3, validation=0.5)]
    assert setting_score(equal).chosen == ((1e-3, 0.0),)
    without_loss = [record(RECALL, 1e-3, validation=0.5, loss=None), record(RECALL, 2e-3, validation=0.5)]
    assert setting_score(without_loss).chosen == ((2e-3, 0.0),)


def test_a_diverged_run_counts_at_chance_only_where_all_diverged() -> None:
    diverged = record(RECALL, 1e-3, status="diverged")
    beside_another = setting_score([diverged, record(RECALL, 2e-3, test=0.05)])
    assert (beside_another.value, beside_another.diverged) == (0.05, 1)
    alone = setting_score([diverged, record(RECALL, 2e-3, status="diverged")])
    assert alone.value == alone.micro == alone.macro == CHANCE and alone.diverged == 2
    row = only([*group(COMPRESSION, 0.9, 0.9), diverged, record(RECALL, 2e-3, status="diverged")])
    assert row.mad is not None and row.mad.value == pytest.approx((CHANCE + 0.9) / 2) and row.complete
    assert "2 diverged in in-context-recall" in row.notes


def test_a_stopped_run_stands_behind_the_one_that_solved_its_group() -> None:
    stopped = record(RECALL, 1e-3, status="stopped")
    assert setting_score([stopped, record(RECALL, 2e-3, test=1.0)]).value == 1.0
    unsolved = only([stopped, record(RECALL, 2e-3, test=0.5)], suite(RECALL))
    assert unsolved.mad is None and not unsolved.complete


@pytest.mark.parametrize("status", ["failed", "interrupted", None])
def test_an_incomplete_group_has_no_score_and_is_reported(status: Any) -> None:
    runs = [record(RECALL, 1e-3), *([record(RECALL, 2e-3, status=status)] if status else [])]
    row = only([*runs, *group(COMPRESSION, 0.6, 0.7)])
    failed = ", 1 failed" if status == "failed" else ""
    assert row.missing == (f"in-context-recall[vocab_size=8,seq_len=16]: seed 0 has 1 of 2 runs{failed}",)
    assert not row.complete and list(row.tasks) == ["compression"]
    assert row.mad is None and row.rank is None
    assert only([record(RECALL, 1e-3)]).missing[1] == "compression[vocab_size=8,seq_len=8]: not run"


def test_a_suite_takes_the_runs_of_its_content_and_no_others() -> None:
    mine = group(RECALL, 0.5, 0.6)
    strangers = [
        record(RECALL, 9e-3, test=1.0),
        record(RECALL, 2e-3, weight_decay=0.3, test=1.0),
        record(setting("in-context-recall[vocab_size=8, seq_len=18]"), test=1.0),
        record(setting(RECALL.task, epochs=3), test=1.0),
        record(RECALL, test=1.0, protocol=PUBLIC),
        record(RECALL, test=1.0, who=architecture(dim=64)),
    ]
    named_otherwise = [run.model_copy(update={"suite": "another@9"}) for run in mine]
    assert score(mine + strangers, TWO, SOUND) == score(named_otherwise, TWO, SOUND)
    whole_model = architecture("my.module:factory", dim=None)
    assert only(group(RECALL, 0.5, 0.6, who=whole_model)).tasks["in-context-recall"].value == 0.6


def test_a_task_is_the_mean_of_its_settings_and_mad_the_mean_of_tasks() -> None:
    longer = setting("in-context-recall[vocab_size=8, seq_len=32]")
    fewer = setting("in-context-recall[vocab_size=8, seq_len=16]", train_examples=320)
    exam = suite(RECALL, longer, fewer, COMPRESSION)
    row = only(
        [
            r
            for at, x in ((RECALL, 0.9), (longer, 0.6), (fewer, 0.3), (COMPRESSION, 0.4))
            for r in group(at, x, 0.1)
        ],
        exam,
    )
    recall = row.tasks["in-context-recall"]
    assert recall.value == pytest.approx(0.6) and recall.complete
    assert row.mad is not None and row.mad.value == pytest.approx((0.6 + 0.4) / 2)
    assert [found.setting for found in recall.settings] == [
        "in-context-recall[vocab_size=8,seq_len=16]",
        "in-context-recall[vocab_size=8,seq_len=32]",
        "in-context-recall[vocab_size=8,seq_len=16], 320 examples",
    ]


def test_every_setting_of_the_published_suite_has_its_own_label() -> None:
    labels = [label for found in score([], SUITES["mad-2024"], SOUND).settings.values() for label in found]
    assert len(labels) == len(set(labels)) == 66
    assert "selective-copying[num_tokens_to_copy=96]" in labels and "compression, 800 examples" in labels


def test_wilson_matches_its_textbook_value() -> None:
    # 45 of 50: centre (0.9 + 1.92073/50) / (1 + 3.84146/50) = 0.87146, half 0.08509.
    found = over_rows(0.9, 50)
    assert found.low == pytest.approx(0.78640, abs=1e-4)
    assert found.high == pytest.approx(0.95652, abs=1e-4)
    assert over_rows(1.0, 1280).high == 1.0 and over_rows(0.0, 1280).low == 0.0


def test_with_one_seed_the_interval_is_over_test_rows() -> None:
    row = only([*group(RECALL, 0.5, 0.1), *group(COMPRESSION, 0.9, 0.1)])
    a, b = row.tasks.values()
    assert row.interval_kind == "rows" and row.seeds == 1
    assert a.half == pytest.approx(1.96 * math.sqrt(0.5 * 0.5 / 1280), rel=0.01)
    assert row.mad is not None and row.mad.half == pytest.approx(math.sqrt(a.half**2 + b.half**2) / 2)


def test_with_seeds_each_selects_for_itself_and_the_interval_is_their_bootstrap() -> None:
    def seed(number: int, first: float, second: float) -> list[Record]:
        return group(RECALL, first, second, seed=number)

    found = setting_score([*seed(0, 0.2, 0.4), *seed(1, 0.6, 0.3)])
    assert found.chosen == ((2e-3, 0.0), (1e-3, 0.0)) and found.seeds == (0, 1)
    assert found.value == pytest.approx(0.5)
    # Of two seeds a quarter of the resamples holds the one twice, a quarter the other.
    assert (found.low, found.high) == (pytest.approx(0.4), pytest.approx(0.6))


def test_settings_share_the_resample_of_seeds() -> None:
    """One task goes up with the seed as much as the other goes down: their mean does not vary at all."""
    runs = [
        r
        for s in range(4)
        for r in [*group(RECALL, 0.2 * s, 0, seed=s), *group(COMPRESSION, round(0.6 - 0.2 * s, 1), 0, seed=s)]
    ]
    row = only(runs)
    assert row.interval_kind == "seeds" and row.seeds == 4
    assert row.tasks["compression"].half > 0.1
    assert row.mad is not None and row.mad.half == pytest.approx(0, abs=1e-12)


def test_the_bootstrap_covers_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        values = rng.normal(0.5, 0.1, size=20)
        drawn = (rng.random((20, RESAMPLES)) * 20).astype(int)
        found = over_seeds(float(values.mean()), values[drawn].mean(axis=0))
        hits += found.low <= 0.5 <= found.high
    assert 0.88 <= hits / 200 <= 0.98


def test_a_mean_with_one_part_is_that_part_and_mixed_parts_are_independent() -> None:
    part = over_rows(0.99, 50)
    assert mean([part]) is part
    drawn = over_seeds(0.5, np.array([0.4, 0.6]))
    mixed = mean([part, drawn])
    assert not isinstance(mixed, Drawn) and mixed.half == pytest.approx(math.hypot(part.half, drawn.half) / 2)
    assert mean([Estimate(value=1.0, low=0.9, high=1.0)] * 2).high == 1.0


def test_an_uneven_number_of_seeds_is_noted_and_one_seed_anywhere_means_rows() -> None:
    recall = [r for s in range(3) for r in group(RECALL, 0.5, 0.6, seed=s)]
    row = only([*recall, *group(COMPRESSION, 0.5, 0.6)])
    assert row.interval_kind == "rows" and row.seeds == 1 and "1 to 3 seeds" in row.notes
    few = only(group(RECALL, 0.5, 0.6), suite(RECALL, seeds=3))
    assert few.notes == ("1 of 3 seeds",) and few.complete


@pytest.mark.parametrize(
    ("accuracies", "edges"),
    [
        # Rows of the grid: lr 1e-4, 5e-4, 1e-3; columns: weight decay 0 and 0.1.
        ((0.2, 0.2, 0.3, 0.2, 0.5, 0.2), ("lr=0.001",)),
        ((0.5, 0.2, 0.3, 0.2, 0.2, 0.2), ("lr=0.0001",)),
        ((0.2, 0.2, 0.5, 0.2, 0.3, 0.2), ()),
        ((0.495, 0.2, 0.495, 0.2, 0.5, 0.2), ()),
        ((0.2, 0.2, 0.3, 0.2, 1.0, 0.2), ()),
    ],
)
def test_an_optimum_at_the_edge_of_the_grid_is_flagged_where_it_matters(
    accuracies: tuple[float, ...], edges: tuple[str, ...]
) -> None:
    assert setting_score(group(GRID, *accuracies), GRID).edges == edges


def test_no_weight_decay_at_all_is_no_edge() -> None:
    three = setting(RECALL.task, lrs=(1e-3,), weight_decays=(0.0, 0.1, 0.2))
    assert setting_score(group(three, 0.9, 0.5, 0.5), three).edges == ()
    assert setting_score(group(three, 0.5, 0.5, 0.9), three).edges == ("weight_decay=0.2",)
    row = only(group(three, 0.5, 0.5, 0.9), suite(three))
    assert row.notes == ("best at the edge of the grid (weight_decay=0.2) in in-context-recall",)


def many(*values: float) -> list[Record]:
    """Architectures a, b, c, ... with these scores on the only setting, from the same number of test rows."""
    return [
        r for name, value in zip("abcdef", values, strict=False) for r in group(RECALL, value, 0.0, spec=name)
    ]


def test_ranks_tie_where_intervals_overlap() -> None:
    rows = score(many(0.90, 0.89, 0.80, 0.50), suite(RECALL), SOUND).architectures
    assert [(row.label, row.rank) for row in rows] == [("a", 1), ("b", 1), ("c", 3), ("d", 4)]


def test_incomplete_and_stale_rows_come_last_without_a_rank() -> None:
    def both(name: str, value: float) -> list[Record]:
        return [*group(RECALL, value, 0, spec=name), *group(COMPRESSION, value, 0, spec=name)]

    records = [
        *both("stale", 0.95),
        *group(RECALL, 0.9, 0, spec="half"),
        *both("full", 0.3),
        record(RECALL, spec="none"),
    ]
    rows = score(records, TWO, SOUND, versions={"stale": 2, "full": 1}).architectures
    assert [(row.label, row.rank) for row in rows] == [
        ("full", 1),
        ("half", None),
        ("none", None),
        ("stale", None),
    ]
    assert rows[-1].stale and rows[-1].notes == ("stale: stale@1 is now stale@2",)
    assert rows[1].mad is None and rows[1].params and rows[2].params is None


def test_a_row_is_called_by_its_preset_unless_the_name_meant_two_things() -> None:
    named = group(RECALL, 0.5, 0.6, spec="hyena swiglu", given="striped-hyena")
    typed = group(RECALL, 0.5, 0.6, spec="hyena swiglu", given="hyena  swiglu", seed=1)
    row = only(typed + named, suite(RECALL))
    assert (row.label, row.given, row.spec) == ("striped-hyena", "striped-hyena", "hyena swiglu")
    assert only(typed, suite(RECALL)).label == "hyena swiglu"
    changed = group(RECALL, 0.5, 0.6, spec="hyena hyena", given="striped-hyena")
    rows = score(named + changed, suite(RECALL), SOUND).architectures
    assert sorted(row.label for row in rows) == ["hyena hyena", "hyena swiglu"]
    tied = group(RECALL, 0.5, 0.6, who=architecture(options={"tied": True}))
    assert only(tied, suite(RECALL)).label == "[tied=true] hyena swiglu"


def test_the_arithmetic_makes_a_row_of_its_own() -> None:
    runs = [*group(RECALL, 0.5, 0.6), *group(RECALL, 0.5, 0.7, precision="bf16-mixed")]
    rows = score(runs, suite(RECALL), SOUND).architectures
    assert [row.precision for row in rows] == ["bf16-mixed", "32-true"]


def test_chance_and_ceiling_are_means_over_the_settings_of_a_task() -> None:
    found = score(group(RECALL, 0.5, 0.6), TWO, SOUND)
    assert found.chance == {"in-context-recall": CHANCE} and found.ceiling == {"in-context-recall": 1.0}
    assert found.tasks == ("in-context-recall", "compression")


def test_costs_are_those_of_the_first_setting() -> None:
    row = only(group(RECALL, 0.5, 0.6))
    assert (row.params, row.core_params, row.state, row.nominal_state) == (412_345, 400_000, 4096, 2048)


fractions = st.floats(min_value=0, max_value=1).map(lambda x: round(x, 3))
outcomes = st.one_of(
    st.tuples(st.just("ok"), fractions, fractions), st.tuples(st.just("diverged"), st.just(0.0), st.just(0.0))
)


def runs_of(outcomes: list[tuple[Any, float, float]], **changes: Any) -> list[Record]:
    return [
        record(GRID, lr, weight_decay=wd, status=status, validation=v, test=t, **changes)
        for (lr, wd), (status, v, t) in zip(GRID.grid, outcomes, strict=True)
    ]


groups_of_runs = st.lists(outcomes, min_size=6, max_size=6)


@settings(max_examples=25, deadline=None)
@given(st.lists(groups_of_runs, min_size=1, max_size=3), st.randoms())
def test_the_order_of_the_records_does_not_matter(seeds: list[Any], shuffler: random.Random) -> None:
    records = [r for s, found in enumerate(seeds) for name in "ab" for r in runs_of(found, seed=s, spec=name)]
    expected = score(records, suite(GRID), SOUND)
    shuffler.shuffle(records)
    assert score(records, suite(GRID), SOUND) == expected


@settings(max_examples=25, deadline=None)
@given(groups_of_runs, st.integers(0, 5))
def test_a_diverged_run_never_raises_a_score(outcomes: list[Any], which: int) -> None:
    """Beside a run that did not diverge it changes nothing; it is never the chosen one."""
    kept = [found for i, found in enumerate(outcomes) if i != which and found[0] == "ok"]
    with_it = setting_score(
        runs_of([("diverged", 0, 0) if i == which else x for i, x in enumerate(outcomes)]), GRID
    )
    if not kept:
        assert with_it.value == CHANCE
    else:
        best = max(v for _, v, _ in kept)
        assert with_it.value in {t for _, v, t in kept if v == best}


@settings(max_examples=25, deadline=None)
@given(groups_of_runs, fractions)
def test_a_worse_grid_point_and_another_architecture_change_nothing(outcomes: list[Any], test: float) -> None:
    runs = runs_of([("ok", 0.5, 0.4), *outcomes[1:]], spec="a")
    alone = only(runs, suite(GRID)).mad
    wider = setting(GRID.task, lrs=(*GRID.lrs, 2e-3), weight_decays=GRID.weight_decays)
    worse = [record(wider, 2e-3, weight_decay=wd, validation=0, test=test, spec="a") for wd in (0.0, 0.1)]
    assert only([*runs, *worse], suite(wider)).mad == alone
    others = [run for seed in range(3) for run in runs_of(outcomes, spec="b", seed=seed)]
    rows = {row.spec: row for row in score([*runs, *others], suite(GRID), SOUND).architectures}
    assert rows["a"].mad == alone


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(fractions, min_size=2, max_size=2), min_size=1, max_size=4))
def test_an_interval_holds_its_score(values: list[list[float]]) -> None:
    row = only([r for s, found in enumerate(values) for r in group(RECALL, *found, seed=s)], suite(RECALL))
    for found in (row.mad, *row.tasks.values()):
        assert found is not None and 0 <= found.low <= found.value <= found.high <= 1


def test_runs_out_of_a_file_are_counted_and_said() -> None:
    runs = [*group(RECALL, 0.5, 0.6), *map(imported, group(COMPRESSION, 0.5, 0.6))]
    row = only(runs)
    assert row.imported == 2 and "2 of 4 runs imported" in row.notes
    assert only([*group(RECALL, 0.5, 0.6), *group(COMPRESSION, 0.5, 0.6)]).imported == 0


def test_a_test_accuracy_that_validation_cannot_explain_is_said() -> None:
    """1,280 rows each: six standard errors of the difference are at most 0.119."""
    for gap, said in ((0.11, False), (0.13, True), (-0.3, False)):
        row = only([record(RECALL, lr, test=0.5 + gap, validation=0.5) for lr in RECALL.lrs])
        assert ("test accuracy far above validation in in-context-recall" in row.notes) is said
