"""Running a study: its stages, its store, and what goes wrong on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mad.store import Store
from scaling.laws.runs import cleaning as runs
from scaling.lm.config import LanguageConfig
from scaling.lm.records import LanguageRecord
from scaling.study import run as study
from scaling.study.layout import plan
from scaling.study.plan import Plan
from scaling.study.pool import Outcome
from scaling.study.rates import configure
from tests.programs import program, says
from tests.scaling.study.fake_training import CORPUS, Training, Words

GRID = (1e-3, 2e-3, 4e-3, 8e-3)
ARCHS = ["softmax=mh-attention swiglu", "gated=mh-gated-linear-attention swiglu"]


def planned(**changes: Any) -> Plan:
    settings: dict[str, Any] = {"budgets": (1e11, 3e11, 1e12), "seq_len": 32, "lrs": GRID, "sizes": 3}
    return plan(ARCHS, corpus=CORPUS, **{**settings, **changes})


PLAN = planned()
GIVEN = planned(lr=2e-3)
CORE = len(PLAN.runs)


def go(
    where: Path, training: Training, made: Plan = PLAN, **options: Any
) -> tuple[Any, list[LanguageRecord]]:
    settings: dict[str, Any] = {"device": "cpu", "train": training, "say": lambda line: None} | options
    with Store(where / "store.sqlite") as store:
        frame = study.run(made, Words(made.corpus), store=store, **settings)
        return frame, store.records(LanguageRecord)


def test_a_study_tunes_and_then_trains_the_grid_at_the_rates_of_its_rule(tmp_path: Path) -> None:
    training = Training(tmp_path)
    frame, records = go(tmp_path, training)
    assert len(frame) == CORE and len(records) == CORE + len(PLAN.tuning)
    assert frame.attrs["problems"] == []
    for arch in PLAN.archs:
        rule = frame.attrs["rates"][arch]
        assert rule.exponent == pytest.approx(training.p, abs=0.01)
        tuned = sorted(run.size.params for run in PLAN.tuning if run.arch == arch)
        own = frame[frame["arch"] == arch]
        for row in own[own["params"].between(tuned[0], tuned[-1])].itertuples():
            assert row.lr == pytest.approx(training.rate(row.params), rel=0.01)
    roles = [line.split()[1] for line in training.calls()]
    assert roles == ["tuning"] * len(PLAN.tuning) + ["grid"] * CORE


def test_the_table_can_be_fitted(tmp_path: Path) -> None:
    frame, _ = go(tmp_path, Training(tmp_path))
    clean = runs.clean(frame).frame
    assert sorted(clean["budget"].unique()) == [1e11, 3e11, 1e12]
    assert (clean["flops"] / clean["budget"] - 1).abs().max() < 0.01


def test_a_second_call_trains_nothing_and_says_the_same(tmp_path: Path) -> None:
    training = Training(tmp_path)
    first, _ = go(tmp_path, training)
    second, _ = go(tmp_path, training)
    assert len(training.calls()) == CORE + len(PLAN.tuning)
    assert first.equals(second) and first.attrs["rates"] == second.attrs["rates"]


def test_inside_a_stage_the_longest_runs_come_first(tmp_path: Path) -> None:
    training = Training(tmp_path)
    go(tmp_path, training)
    with Store(tmp_path / "store.sqlite", read_only=True) as store:
        records = [store.get(line.split()[0], LanguageRecord) for line in training.calls()]
    grid = [record.budget for record in records if record and record.role == "grid" and record.budget]
    assert grid == sorted(grid, reverse=True)


def test_an_optimum_on_the_edge_extends_the_grid_once_and_is_flagged_if_it_stays_there(
    tmp_path: Path,
) -> None:
    frame, records = go(tmp_path, Training(tmp_path, best=1.0, p=0.0))
    tried = sorted({record.config.lr for record in records if record.role == "tuning"})
    assert tried == pytest.approx([*GRID, 16e-3])  # That at 32e-3 is one of the grid, and counts there.
    assert len(frame) == CORE
    assert {record.config.lr for record in records if record.role == "grid"} == {32e-3}
    assert sum("on the edge" in problem for problem in frame.attrs["problems"]) == 4


def test_an_extension_that_reaches_past_the_optimum_is_not_flagged(tmp_path: Path) -> None:
    frame, records = go(tmp_path, Training(tmp_path, best=14e-3, p=0.0))
    assert {record.config.lr for record in records if record.role == "grid"} == {14e-3}
    assert frame.attrs["problems"] == []


def test_a_diverged_run_is_kept_and_repeated_once_at_half_its_rate(tmp_path: Path) -> None:
    training = Training(tmp_path, limit=1.5e-3)
    frame, records = go(tmp_path, training, GIVEN)
    assert frame["status"].tolist().count("diverged") == CORE
    again = [record for record in records if record.config.lr == 1e-3]
    assert len(again) == CORE and len(training.calls()) == 2 * CORE
    diverged = {record.id for record in records if record.status == "diverged"}
    notes = {f"half the learning rate of run {id}, which diverged" for id in diverged}
    for record in again:
        assert record.status == "ok" and record.role == "grid"
        assert record.environment["note"] in notes
    assert len(frame.attrs["problems"]) == CORE and "diverged" in frame.attrs["problems"][0]
    assert len(runs.clean(frame)) == CORE


def test_what_diverges_at_half_its_rate_too_is_not_tried_a_third_time(tmp_path: Path) -> None:
    training = Training(tmp_path, limit=1e-4)
    go(tmp_path, training, GIVEN)
    go(tmp_path, training, GIVEN)
    assert len(training.calls()) == 2 * CORE


def test_a_failed_run_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    frame, records = go(tmp_path, Training(tmp_path, fail="gated"), GIVEN)
    assert set(frame["arch"]) == {"softmax"}
    failed = [record for record in records if record.status == "failed"]
    assert len(failed) == CORE // 2 and "RuntimeError: out of memory" in (failed[0].error or "")
    _, records = go(tmp_path, Training(tmp_path), GIVEN)
    assert {record.status for record in records} == {"ok"}
    assert sorted({record.attempts for record in records}) == [1, 2]


def test_an_architecture_that_cannot_be_tuned_waits_and_the_other_is_done(tmp_path: Path) -> None:
    frame, _ = go(tmp_path, Training(tmp_path, fail="gated"))
    assert set(frame["arch"]) == {"softmax"} and len(frame) == CORE // 2
    assert any("the grid of gated waits for its learning rate" in said for said in frame.attrs["problems"])


def test_an_interrupted_study_goes_on_where_it_was(tmp_path: Path) -> None:
    undisturbed, _ = go(tmp_path / "a", Training(made_folder(tmp_path / "a")))
    where = made_folder(tmp_path / "b")
    with pytest.raises(KeyboardInterrupt):
        go(where, Training(where, interrupt_at=18))
    assert len(Training(where).calls()) == 18
    resumed, _ = go(where, Training(where))
    assert len(Training(where).calls()) == CORE + len(PLAN.tuning)
    assert sorted(resumed["id"]) == sorted(undisturbed["id"])


def made_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_after_max_hours_no_run_is_begun(tmp_path: Path) -> None:
    training = Training(tmp_path)
    frame, _ = go(tmp_path, training, GIVEN, max_hours=0.0)
    assert training.calls() == [] and len(frame) == 0
    assert len(frame.attrs["problems"]) == CORE and "was not begun" in frame.attrs["problems"][0]


def test_the_corpus_must_be_that_of_the_plan(tmp_path: Path) -> None:
    other = CORPUS.model_copy(update={"sha256": "b" * 64})
    said = pytest.raises(ValueError, match="made for the corpus words")
    with Store(tmp_path / "store.sqlite") as store, said:
        study.run(PLAN, Words(other), store=store, train=Training(tmp_path))


def test_a_line_tells_of_every_run_and_of_the_time_left(tmp_path: Path) -> None:
    lines: list[str] = []
    go(tmp_path, Training(tmp_path), GIVEN, say=lines.append)
    assert len(lines) == CORE
    assert lines[0].startswith(f"[1/{CORE}] ") and "left" in lines[0] and "loss" in lines[0]
    assert "left" not in lines[-1]


def test_runs_that_a_plan_rounds_to_no_time_are_told_of_without_the_time_left(tmp_path: Path) -> None:
    runs_of_no_time = tuple(run.model_copy(update={"seconds": 0.0}) for run in GIVEN.runs)
    short = GIVEN.model_copy(update={"runs": runs_of_no_time})
    lines: list[str] = []
    go(tmp_path, Training(tmp_path), short, say=lines.append)
    assert len(lines) == CORE and "left" not in lines[0]


def test_options_of_a_preset_survive_its_scaling() -> None:
    made = GIVEN.model_copy(update={"archs": {**GIVEN.archs, "softmax": "terraformer"}})
    config = configure(made, made.runs[0], 1e-3, "32-true")
    assert config.architecture.options == {"readout_sparsity": 4}


def mishap(times: int) -> Any:
    """A pool whose third task loses its process so many times."""
    left = [times]

    def pool(function: Any, shared: Any, tasks: Any, **options: Any) -> Iterator[tuple[int, Outcome]]:
        for number, task in enumerate(tasks):
            if left[0] and (len(tasks) == 1 or number == 2):
                left[0] -= 1
                yield number, Outcome(error="its process ended with signal 9", lost=True)
            else:
                yield number, Outcome(function(shared, task))

    return pool


@pytest.mark.parametrize(("times", "status"), [(1, "ok"), (2, "failed")])
def test_a_run_that_loses_its_process_is_begun_again_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, status: str
) -> None:
    monkeypatch.setattr(study, "run_all", mishap(times))
    frame, records = go(tmp_path, Training(tmp_path), GIVEN, workers=2)
    assert len(records) == CORE
    assert [record.status for record in records].count("ok") == CORE - (status == "failed")
    assert len(frame.attrs["problems"]) == (status == "failed")
    if status == "failed":
        failed = next(record for record in records if record.status == "failed")
        assert failed.error == "its process ended with signal 9"


@pytest.mark.slow
def test_several_workers_give_what_one_gives_though_some_are_killed(tmp_path: Path) -> None:
    alone, _ = go(made_folder(tmp_path / "a"), Training(tmp_path / "a"))
    training = Training(made_folder(tmp_path / "b"), kill=4e-3)
    both, records = go(tmp_path / "b", training, workers=2)
    assert alone.sort_values("id", ignore_index=True).equals(both.sort_values("id", ignore_index=True))
    assert both.attrs["problems"] == [] and {record.status for record in records} == {"ok"}
    # Each of the four tuning runs at that rate was begun twice.
    assert len(training.calls()) == CORE + len(PLAN.tuning) + 4
    assert {record.environment["threads"] for record in records} == {1}
    assert os.getpid() not in {record.environment["process"] for record in records}


REAL = """
import sys
from pathlib import Path
from mad.store import Store
from scaling.study import run as study
from scaling.study.layout import plan
from tests.scaling.lm.stand_in import StandIn

def main():
    made = plan(
        ["softmax=mh-attention swiglu", "gated=mh-gated-linear-attention swiglu"],
        budgets=(3e8, 6e8, 1.2e9), corpus=StandIn().config, sizes=3, span=2.0, seq_len=16, batch_tokens=2048,
        tokens_per_param=1, lr=4e-3, evaluations=1, evaluation_tokens=512, allow_repeats=True,
    )
    with Store(Path(sys.argv[1]) / "store.sqlite") as store:
        frame = study.run(made, StandIn(), store=store, device="cpu", workers=int(sys.argv[2]))
    assert len(frame) == 18 and frame.attrs["problems"] == [], frame.attrs["problems"]

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_a_real_study_killed_and_resumed_holds_the_runs_of_an_undisturbed_one(tmp_path: Path) -> None:
    (tmp_path / "real.py").write_text(REAL)

    def command(where: str, workers: int) -> list[str]:
        return [sys.executable, str(tmp_path / "real.py"), str(made_folder(tmp_path / where)), str(workers)]

    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run(command("a", 1), check=True, env=environment, capture_output=True)
    words = command("b", 2)
    driver = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    assert driver.stderr is not None
    while "[3/" not in driver.stderr.readline():
        assert driver.poll() is None
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stderr.close()
    time.sleep(1.0)  # A worker that outlived the driver would go on writing.
    with Store(tmp_path / "b" / "store.sqlite", read_only=True) as store:
        assert 3 <= len(store.records(LanguageRecord)) < 18
    subprocess.run(words, check=True, env=environment, capture_output=True)
    losses = []
    for where in "ab":
        with Store(tmp_path / where / "store.sqlite", read_only=True) as store:
            records = store.records(LanguageRecord)
        losses.append({record.id: record.metrics.loss for record in records if record.metrics})
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) == 18


def test_another_driver_of_the_same_store_is_left_to_its_run_until_it_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "POLL", 0.01)
    training, said = Training(tmp_path), list[str]()
    theirs = configure(GIVEN, GIVEN.runs[-1], 2e-3, "32-true").id
    claims = "store = Store(sys.argv[1]); print(store.claim(sys.argv[2]), flush=True); sys.stdin.readline()"
    with program(claims, tmp_path / "store.sqlite", theirs) as other:
        says(other, "True")

        def say(line: str) -> None:
            said.append(line)
            if len(said) == CORE - 1:
                other.kill()
                other.wait()

        frame, _ = go(tmp_path, training, GIVEN, say=say)
    assert len(frame) == len(training.calls()) == CORE
    assert training.calls()[-1].startswith(theirs)


@dataclass(frozen=True)
class Overtaken(Training):
    """Another driver stores the last run while the first is trained."""

    def __call__(self, config: LanguageConfig, corpus: Any, *, label: str, **about: Any) -> LanguageRecord:
        found = super().__call__(config, corpus, label=label, **about)
        last = configure(GIVEN, GIVEN.runs[-1], 2e-3, "32-true")
        if len(self.calls()) == 1:
            with Store(self.folder / "store.sqlite") as store:
                store.commit([super().__call__(last, corpus, label="gated", **about)])
        return found


def test_a_run_that_another_driver_has_stored_meanwhile_is_not_trained_again(tmp_path: Path) -> None:
    frame, _ = go(tmp_path, training := Overtaken(tmp_path), GIVEN)
    assert len(frame) == CORE == len({line.split()[0] for line in training.calls()}) == len(training.calls())
