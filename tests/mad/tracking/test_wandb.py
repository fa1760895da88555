"""W&B, by the real files of its offline runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import mad
from mad.commands.track import push_stores
from mad.data.records import Record
from mad.tracking.trackers.wandb import _Run
from tests.mad.records import records_in
from tests.mad.tracking.offline import OfflineRun, runs_in

ROOT = Path(__file__).parents[3]
TASK = "compression[seq_len=8]"
FEW: dict[str, Any] = {"train_examples": 64, "epochs": 2, "batch_size": 16, "dim": 16, "device": "cpu"}
SMOKE: dict[str, Any] = {"suite": "smoke", "tasks": ["compression", "memorization"], "device": "cpu"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def tracks(store: Path) -> Path:
    return store.with_name(f"{store.name}.tracks")


def folders(store: Path) -> list[str]:
    return sorted(path.name for path in tracks(store).glob("wandb/*run-*") if not path.is_symlink())


def test_an_architecture_is_one_run_whose_summary_is_its_row_of_the_board(
    store: Path, calls: list[bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    table = mad.bench(["mlp", "swiglu"], store=store, track="wandb", seeds=2, engine="inline", **SMOKE)
    assert calls == [], "nothing is sent, to anyone"
    out, err = capfd.readouterr()
    assert "wandb:" not in out + err
    runs = {run.name: run for run in runs_in(tracks(store))}
    assert set(runs) == {"mlp", "swiglu"} and len({run.id for run in runs.values()}) == 2
    for row in table.to_dict("records"):
        run = runs[str(row["architecture"])]
        assert (run.group, run.job, run.exit) == (f"smoke@1 {run.name}", "battery", 0)
        assert {"smoke@1", "sound@1", f"mad-suite {mad.__version__}"} < set(run.tags)
        assert run.config["architecture"]["spec"] == run.name and len(run.config["settings"]) == 6
        found = [run.summary[name] for name in ("score", "score_low", "score_high", "params", "state")]
        assert found == [row[name] for name in ("mean", "mean_low", "mean_high", "params", "state")]
        assert {"chance", "ceiling", "flops_per_token", "nominal_state", "seconds"} < set(run.summary)
        assert (
            run.summary["status"] == "incomplete" and run.summary["compression/score"] == row["compression"]
        )
        _has_its_curves(run, [r for r in records_in(store) if r.given == run.name])
        (cells,) = tracks(store).glob(f"wandb/offline-run-*-{run.id}/files/media/table/*.json")
        assert [line[0] for line in json.loads(cells.read_text())["data"]] == ["compression", "memorization"]
        assert any(name.startswith("records-") for name in run.artifacts)


def _has_its_curves(run: OfflineRun, records: list[Record]) -> None:
    """Of each grid the best run at each step, over a step of its own."""
    for section, task, seed in (
        ("compression", "compression", 0),
        ("memorization seed 1", "memorization", 1),
    ):
        curves = [
            r.metrics.curve
            for r in records
            if r.metrics and (r.config.task["name"], r.config.seed) == (task, int(seed or 0))
        ]
        name = f"{section}/validation_accuracy"
        best = [max(point.accuracy for point in points) for points in zip(*curves, strict=True)]
        assert [row[name] for row in run.history if name in row] == best
        assert run.axes[name] == f"{section}/step"
        steps = [row[f"{section}/step"] for row in run.history if name in row]
        assert steps == [point.step for point in curves[0]]


@pytest.mark.slow
def test_shown_again_nothing_is_doubled(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mad.bench("mlp", store=store, track="wandb", **SMOKE)
    (first,) = folders(store)
    mad.bench("mlp", store=store, track="wandb", **SMOKE)
    push_stores([store], track="wandb", suite="smoke")
    assert folders(store) == [first] and "4 runs of" in capsys.readouterr().out
    # One more cell is another content of the same run: of one id, and with all of its points.
    mad.bench("mlp", store=store, **SMOKE | {"tasks": [*SMOKE["tasks"], "selective-copying"]})
    push_stores([store], track="wandb")
    old, new = runs_in(tracks(store))
    assert old.id == new.id and len(new.history) > len(old.history)
    assert {name for row in old.history for name in row} < {name for row in new.history for name in row}


@pytest.mark.slow
def test_a_store_is_pushed_run_by_run_on_request(store: Path) -> None:
    mad.bench("mlp", store=store, **SMOKE)
    mad.train("mlp", TASK, store=store, **FEW)
    records = {record.id: record for record in records_in(store)}
    push_stores([store], track="wandb", track_by="run")
    push_stores([store], track="wandb", track_by="run")
    found = runs_in(tracks(store))
    assert sorted(run.id for run in found) == sorted(records)
    for run in found:
        record = records[run.id]
        assert record.metrics and record.metrics.test and record.metrics.validation
        assert run.job == record.config.task["name"] and run.config["lr"] == record.config.lr
        assert [row["validation/accuracy"] for row in run.history] == [
            point.accuracy for point in record.metrics.curve
        ]
        assert run.axes["validation/accuracy"] == run.axes["tokens"] == run.axes["flops"] == "step"
        assert run.summary["score"] == record.metrics.test.micro
        assert run.summary["objective"] == record.metrics.validation.micro


@pytest.mark.slow
def test_the_agent_of_a_sweep_finds_its_run_and_the_objective(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = mad.train("mlp", TASK, store=store, track="wandb", lr=0.01, **FEW)
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    # What the store holds, and what was told before, is told again: the agent waits for it.
    for agent, rate in (("agent1", 0.01), ("agent2", 0.02)):
        monkeypatch.setenv("WANDB_RUN_ID", agent)
        last = mad.train("mlp", TASK, store=store, track="wandb", lr=rate, **FEW)
    first, *swept = runs_in(tracks(store))
    assert (first.id, first.sweep) == (record.id, "")
    assert [(run.id, run.sweep, run.config["lr"]) for run in swept] == [
        ("agent1", "sweep1", 0.01),
        ("agent2", "sweep1", 0.02),
    ]
    for run, made in zip(swept, (record, last), strict=True):
        assert made.metrics is not None and made.metrics.validation is not None
        assert run.summary["objective"] == made.metrics.validation.micro
        assert run.history[-1]["objective"] == made.metrics.curve[-1].accuracy


SCRIPT = """
import os, signal, sys
import mad

def report(group, progress):
    if len(progress.points) and progress.step >= progress.steps // 2:
        with open(sys.argv[2], "w") as told:
            told.write(str(progress.step))
        signal.pause()

mad.train("mlp", "compression[seq_len=8]", store=sys.argv[1], track="wandb", report=report, dim=16,
          train_examples=64, epochs=2, batch_size=16, evaluations=8, device="cpu")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kill", ["driver", "tracker"])
def test_of_a_run_that_is_killed_the_configuration_and_the_points_are_there(
    kill: str, store: Path, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    command = [sys.executable, "-c", SCRIPT, str(store), str(told)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    _wait(lambda: told.exists() and bool(told.read_text()) and bool(folders(store)))
    path = tracks(store) / "wandb" / folders(store)[0]
    _wait(lambda: next(path.glob("*.wandb"), path).stat().st_size > 0)
    if kill == "driver":
        process.kill()
        _wait(lambda: runs_in(tracks(store))[0].exit is not None)
        assert len(runs_in(tracks(store))[0].history) == int(told.read_text()), "one point a step"
    else:
        _wait(lambda: bool(runs_in(tracks(store))[0].config))
        for child in _children(process.pid):
            os.killpg(child, signal.SIGKILL)
        process.kill()
    process.wait()
    (run,) = runs_in(tracks(store))
    assert run.config["lr"] == 1e-3 and run.config["task"]["name"] == "compression"
    assert run.exit == (1 if kill == "driver" else None) and len(run.id) == 20


def _children(parent: int) -> list[int]:
    lines = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in lines.splitlines() if int(line.split()[1]) == parent]


def _wait(until: Any) -> None:
    deadline = time.monotonic() + 90
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_run_that_the_server_knows_is_gone_on_with() -> None:
    """What W&B gives of a run that is resumed is taken from its server, which no test has."""

    class Resumed:
        resumed, summary = True, {"step": 4}

        def __init__(self) -> None:
            self.logged: list[float] = []

        def define_metric(self, name: str, **how: Any) -> None:
            pass

        def log(self, row: dict[str, float]) -> None:
            self.logged.append(row["step"])

    resumed = Resumed()
    _Run(resumed, None).log([{"step": step, "loss": 1.0} for step in (2, 4, 6, 8)])  # type: ignore[arg-type]
    assert resumed.logged == [6, 8]


def test_a_mode_that_there_is_not_is_refused_first(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(ValueError, match="WANDB_MODE='ofline' is not one of .*did you mean 'offline'"):
        mad.train("mlp", TASK, store=store, track="wandb", **FEW)
    assert not store.exists()


@pytest.mark.slow
@pytest.mark.parametrize("server", ["closed", "silent"])
def test_online_without_an_answer_the_run_is_kept_offline(
    server: str,
    store: Path,
    calls: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    if server == "closed":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    record = mad.train("mlp", TASK, store=store, track="wandb", **FEW)
    assert record.status == "ok"
    assert any("cannot be used" in text and "kept offline" in text for text in caplog.messages)
    assert [run.id for run in runs_in(tracks(store)) if run.exit == 0] == [record.id]
    assert bool(calls) == (server == "silent")
