"""Plans: the isoFLOP grid, its rules, what is refused, and the file."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mad.data.records import content_hash
from scaling.laws.diagnose import check_design
from scaling.laws.runs.cleaning import NotIdentified
from scaling.study.layout import plan
from scaling.study.plan import Plan, read
from scaling.study.sizes import Size, ladder
from scaling.study.timing import pace, seconds_per_step
from tests.scaling.study.fake_training import CORPUS

TWO = ["transformer=mh-attention swiglu", "mamba2 swiglu"]
BUDGETS = (1e12, 3e12, 1e13)


def made(archs: list[str] = TWO, **changes: Any) -> Plan:
    settings: dict[str, Any] = {"budgets": BUDGETS, "corpus": CORPUS, "seq_len": 64}
    return plan(archs, **{**settings, **changes})


PLAN = made()


def test_every_run_costs_its_budget_within_one_percent() -> None:
    assert len(PLAN.runs) == 2 * 3 * 5
    for run in PLAN.runs:
        assert run.flops == pytest.approx(run.budget, rel=0.01)
        assert run.flops == run.size.flops * run.steps * run.batch_size * 64


def test_the_grid_is_constant_and_centred_across_budgets() -> None:
    offsets = []
    for budget in BUDGETS:
        centre = math.sqrt(budget / (6 * 20))
        mine = [run for run in PLAN.runs if run.budget == budget and run.arch == "transformer"]
        group = [run.size.params / centre for run in mine]
        offsets.append(group)
        assert math.prod(group) ** (1 / 5) == pytest.approx(1, rel=0.2)
    for across in zip(*offsets, strict=True):
        assert max(across) / min(across) < 1.5
    assert offsets[0][0] < 0.4 and offsets[0][-1] > 2.8


def test_the_batch_is_constant_in_a_budget_and_grows_as_its_cube_root() -> None:
    runs = made(batch_tokens=1024).runs
    rows = {b: {run.batch_size for run in runs if run.budget == b} for b in BUDGETS}
    assert all(len(group) == 1 for group in rows.values())
    small, large = rows[1e12].pop(), rows[1e13].pop()
    assert small == 16 and large == round(16 * 10 ** (1 / 3))


def test_the_number_of_steps_is_kept_within_limits() -> None:
    few = made(batch_tokens=1e6)
    assert 195 <= min(run.steps for run in few.runs) and min(run.steps for run in few.runs) < 210
    many = made(batch_tokens=64, span=2.0)
    assert 0.9 * 20_000 < max(run.steps for run in many.runs) < 1.1 * 20_000


def test_tuning_is_at_the_smallest_budget_at_an_inner_size_on_each_side() -> None:
    for arch in PLAN.archs:
        own = [run for run in PLAN.runs if run.arch == arch and run.budget == 1e12]
        tuned = [run for run in PLAN.tuning if run.arch == arch]
        assert {run.size.params for run in tuned} == {own[1].size.params, own[3].size.params}
        assert [run.lr for run in tuned] == 2 * list(PLAN.lrs or ())
    assert all(run.lr is None for run in PLAN.runs)


def test_a_given_learning_rate_needs_no_tuning() -> None:
    given = made(lr=3e-3)
    assert given.tuning == () and given.lrs is None
    assert {run.lr for run in given.runs} == {3e-3}


def test_options_of_a_layer_are_not_taken_for_a_label() -> None:
    found = made(["mh-attention[heads=32] swiglu", "wide=mh-attention[heads=16] swiglu"], lr=1e-3)
    assert found.archs == {
        "mh-attention[heads=32] swiglu": "mh-attention[heads=32] swiglu",
        "wide": "mh-attention[heads=16] swiglu",
    }


def test_the_fitter_accepts_what_is_planned() -> None:
    frame = PLAN.frame().query("arch == 'transformer'")
    assert check_design(frame.reset_index(drop=True)) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budgets": [1e12]}, "plan for transformer cannot be fitted.*one budget"),
        ({"sizes": 2}, "sizes=2: a parabola needs three sizes"),
    ],
)
def test_a_design_that_cannot_be_fitted_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(NotIdentified, match=words):
        made(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budgets": []}, "budgets=.*such as 1e12"),
        ({"budgets": [1e12, -1e12]}, "budgets=.*above 0"),
        ({"budgets": [1e12, 1e12]}, "one is there twice"),
        ({"span": 1.0}, "span=1 must be above 1"),
        ({"lrs": (1e-3, 2e-3)}, "three or more positive rates; or give lr"),
        ({"tokens_per_param": 0.0}, "tokens_per_param=0 must be above 0"),
        ({"max_hours": 2.0}, "max_hours=2 needs a measured step"),
        ({"budgets": [1e6, 3e6, 1e7]}, "no size of its own.*larger budgets"),
    ],
)
def test_senseless_settings_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made(**changes)


@pytest.mark.parametrize(
    ("archs", "words"),
    [
        ([], "no architecture"),
        (["a=mamba2 swiglu", "a=hyena swiglu"], "'a' is there twice"),
        (["a=mamba2 swiglu", "b=2*(mamba2 swiglu) mamba2 swiglu", "c=mamba2  swiglu"], "'c' and 'a' are one"),
        (["a=mamba3x swiglu"], "did you mean"),
    ],
)
def test_architectures_must_be_known_and_told_apart(archs: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made(archs)


def test_two_budgets_or_four_sizes_are_planned_with_a_warning() -> None:
    few = made(TWO[:1], budgets=(1e12, 1e13), sizes=4)
    assert any("of budgets is 2; three or more" in note for note in few.notes)
    assert any("4 sizes at each budget" in note for note in few.notes)


def test_a_text_that_is_read_more_than_four_times_is_refused_unless_allowed() -> None:
    short = CORPUS.model_copy(update={"train_tokens": 1_000_000})
    said = r"would read the 1,000,000 tokens of words \d+ times.*allow repeats"
    with pytest.raises(ValueError, match=said):
        made(corpus=short)
    allowed = made(corpus=short, allow_repeats=True)
    assert allowed.repeats_allowed and "effective-data law" in allowed.notes[-1]
    assert max(map(allowed.epochs, allowed.runs)) > 4


def test_any_repetition_is_noted_and_a_generated_text_has_none() -> None:
    once = made(TWO[:1], corpus=CORPUS.model_copy(update={"train_tokens": 10_000_000}))
    assert "runs repeat the text" in once.notes[-1] and "effective-data" not in once.notes[-1]
    endless = made(TWO[:1], corpus=CORPUS.model_copy(update={"train_tokens": None}))
    assert endless.notes == () and "nothing is read twice" in endless.summary()
    assert made(TWO[:1]).notes == ()


def one_gigaflop(size: Size, rows: int) -> float:
    return 1e-3 * size.layers + size.flops * rows * 64 / 1e9


def test_hours_follow_from_a_measured_step_of_the_smallest_and_the_largest_size() -> None:
    asked: list[tuple[int, int]] = []

    def measure(size: Size, rows: int) -> float:
        asked.append((size.params, rows))
        return one_gigaflop(size, rows)

    timed = made(measure=measure, workers=2)
    assert len(asked) == 4
    runs = (*timed.runs, *timed.tuning)
    alone = sum(run.steps * one_gigaflop(run.size, run.batch_size) for run in runs)
    evaluated = sum(run.size.flops * 4 * 100_000 / 3 / 1e9 for run in runs)
    assert timed.hours == pytest.approx((alone + evaluated) / 2 / 3600, rel=1e-3)
    assert "on 2 workers" in timed.summary()


def test_a_plan_that_takes_too_long_is_refused_with_what_takes_it() -> None:
    said = r"about \d+(.\d)? h on 1 worker, more than max_hours=1; \d+% .* 1e\+13"
    with pytest.raises(ValueError, match=said):
        made(measure=one_gigaflop, max_hours=1.0)


def test_a_pace_has_no_negative_part() -> None:
    small, large = PLAN.runs[0].size, PLAN.runs[4].size
    # The larger size takes less than the FLOPs would say: all of the time is then put on the layers.
    found = pace([(small, 2048, 1.0), (large, 2048, 1.0)])
    assert found.per_layer >= 0 and found.per_flop >= 0
    assert found.seconds(small, 2048) > 0.3


def test_a_nested_model_takes_the_time_of_what_its_steps_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr("scaling.study.timing.time.perf_counter", lambda: float(next(clock)))

    def seconds(draw: str) -> float:
        spec = f"mh-attention matformer-mlp[draw={draw}]"
        (size,) = ladder(spec, [3e4], vocab_size=64, seq_len=16)
        return seconds_per_step(size, vocab_size=64, seq_len=16, batch_size=2, threads=1)

    whole, smallest, joint = (seconds(draw) for draw in ("w0-0-0-1", "w1-0-0-0", "joint"))
    assert smallest < 0.9 * whole and 2 * whole < joint < 4 * whole


def test_a_step_is_measured_on_a_model_of_that_size() -> None:
    size = PLAN.runs[0].size
    assert 0 < seconds_per_step(size, vocab_size=64, seq_len=16, batch_size=2, threads=1) < 60


def test_a_saved_plan_is_read_back_equal(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.json")
    assert read(tmp_path / "plan.json") == PLAN
    assert read(tmp_path / "plan.json").id == PLAN.id


def test_the_id_is_that_of_the_content_and_not_of_the_corpus_label() -> None:
    assert made().id == PLAN.id
    assert made(corpus=CORPUS.model_copy(update={"name": "other"})).id == PLAN.id
    assert made(seed=1).id != PLAN.id


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["plan"]["runs"][0].update(steps=7), "it was edited; make a new one"),
        (lambda c: c.update(version=2), "version 2, this release reads 1"),
        (lambda c: c.update(kind="else"), "is not a plan of a scaling study"),
        (lambda c: c["plan"].update(colour="red"), "colour: Extra inputs are not permitted"),
    ],
)
def test_a_plan_that_was_changed_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    PLAN.save(tmp_path / "plan.json")
    content = json.loads((tmp_path / "plan.json").read_text())
    change(content)
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words):
        read(tmp_path / "plan.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.update(runs=[]),
        lambda p: p.update(evaluation_tokens=10**15),
        lambda p: p.update(archs={"other": "mamba2 swiglu"}),
        lambda p: p.update(workers=0),
        lambda p: p["runs"][0].update(batch_size=10**9),
        lambda p: p["runs"][0].update(seconds=-1.0),
        lambda p: p["runs"][0]["size"].update(dim=-4),
        lambda p: p["runs"][0]["size"].update(dim=2**18 + 1),
        lambda p: p["tuning"][0].update(seq_len=2**20 + 1, batch_size=1),
        lambda p: p["corpus"].update(vocab_size=2**24 + 1),
        lambda p: p["tuning"][0].update(lr=None),
    ],
)
def test_a_plan_with_the_right_id_that_no_study_can_train_is_refused(change: Any, tmp_path: Path) -> None:
    content: dict[str, Any] = {"kind": "mad scaling plan", "version": 1, "plan": PLAN.model_dump(mode="json")}
    change(content["plan"])
    nameless = {name: value for name, value in content["plan"]["corpus"].items() if name != "name"}
    content["id"] = content_hash(content | {"plan": content["plan"] | {"corpus": nameless}})
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"plan\.json: .*make a new one"):
        read(tmp_path / "plan.json")


def test_what_is_no_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a file; give a plan"):
        read(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"kind": ')
    with pytest.raises(ValueError, match="is no JSON"):
        read(tmp_path / "half.json")


def test_the_table_has_a_row_per_run_with_floats_for_counts() -> None:
    frame = PLAN.frame()
    assert len(frame) == len(PLAN.runs)
    assert all(frame[name].dtype == float for name in ("params", "tokens", "flops", "budget"))
    assert isinstance(frame, pd.DataFrame)
