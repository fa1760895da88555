"""Trackers in processes of their own: what they are told, and that no run waits for or falls with them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

import mad
import mad.tracking.mirror
from mad.data.trails import Head
from mad.run.trainer import Progress
from mad.tracking import Roster, Tracking, get_tracker, names, read_tracking
from mad.tracking.mirror import Mirror
from synthetic_tasks import Task
from tests.mad.records import records_in

OWN = "tests.mad.tracking.own"
TASK = "compression[seq_len=8]"
FEW: dict[str, Any] = {"train_examples": 64, "epochs": 2, "batch_size": 16, "dim": 16, "device": "cpu"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def head(id: str) -> Head:
    return Head(id=id, name=id, group="group", job="job", tags=(), config={})


def diary(store: Path) -> list[list[str]]:
    text = store.with_name(f"{store.name}.tracks").joinpath("diary.txt").read_text()
    return [line.split() for line in text.splitlines()]


def test_an_unknown_tracker_is_answered_with_the_nearest(store: Path) -> None:
    assert names() == ["csv", "tensorboard", "wandb"]
    with pytest.raises(ValueError, match="unknown tracker 'wanb'; did you mean 'wandb'"):
        mad.bench("mlp", suite="smoke", store=store, track="csv, wanb")
    with pytest.raises(ValueError, match="'nowhere:Thing' cannot be loaded"):
        get_tracker("nowhere:Thing")
    with pytest.raises(ValueError, match="'runs' is not one of run, architecture; did you mean 'run'"):
        read_tracking("csv", by="runs")
    with pytest.raises(ValueError, match="nothing is tracked"):
        read_tracking(None, by="run")
    with pytest.raises(ValueError, match="lacks needs a thing"):
        mad.train("mlp", TASK, store=store, track=f"{OWN}:Lacks", **FEW)
    assert not store.exists()


def test_without_tensorboardx_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'mad-suite\[tensorboard\]'"):
        get_tracker("tensorboard")


def test_a_run_is_told_as_it_goes_and_a_stored_one_whole(store: Path) -> None:
    record = mad.train("mlp", TASK, store=store, track=f"{OWN}:Diary", evaluations=4, **FEW)
    assert record.metrics is not None
    steps = [str(point.step) for point in record.metrics.curve]
    assert diary(store) == [
        ["begin", record.id],
        *(["log", record.id, step] for step in steps),
        ["end", record.id, "ok"],
        ["close"],
    ]
    mad.train("mlp", TASK, store=store, track=[f"{OWN}:Diary"], evaluations=4, **FEW)
    assert diary(store)[-2:] == [["show", record.id], ["close"]]


@pytest.mark.slow
def test_of_a_suite_a_tracker_may_show_an_architecture_as_one_run(store: Path) -> None:
    settings: dict[str, Any] = {"suite": "smoke", "tasks": ["compression", "memorization"], "device": "cpu"}
    mad.bench(
        ["mlp", "swiglu"], store=store, track=f"{OWN}:Families", engine="process", workers=1, **settings
    )
    lines = diary(store)
    begun = [id for word, id, *_ in lines[:-1] if word == "begin"]
    assert len(set(begun)) == len(begun) == 2
    assert [id for word, id, *_ in lines[:-1] if word == "end"] == begun
    assert not set(begun) & {record.id for record in records_in(store)}


def test_a_tracker_that_breaks_breaks_no_run(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    track = [f"{OWN}:{name}" for name in ("Raises", "Ends", "Diary")]
    record = mad.train("mlp", TASK, store=store, track=track, **FEW)
    assert record.status == "ok" and ["end", record.id, "ok"] in diary(store)
    said = [text for text in caplog.messages if "ended" in text]
    for name, reason in (("Raises", "the tracker is broken"), ("Ends", "status 3")):
        (one,) = [text for text in said if f"{OWN}:{name}" in text]
        assert reason in one and f"mad track push --track {OWN}:{name}" in one


def test_a_tracker_that_hangs_is_left_behind(
    store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mad.tracking.mirror, "PATIENCE", 5.0)
    monkeypatch.setattr(mad.tracking.mirror, "MOST_WAITING", 3)
    pids = []
    close = mad.tracking.mirror._Line.close

    def closing(line: Any, deadline: float | None) -> None:
        pids.append(line._process.pid)
        close(line, deadline)

    monkeypatch.setattr(mad.tracking.mirror._Line, "close", closing)
    reports: list[Progress] = []
    report = lambda group, progress: reports.append(progress)  # noqa: E731
    record = mad.train("mlp", TASK, store=store, track=f"{OWN}:Hangs", report=report, evaluations=8, **FEW)
    assert record.metrics is not None and record.status == "ok"
    assert [p.step for p in reports] == [p.step for p in record.metrics.curve]
    assert any("did not end in time" in text for text in caplog.messages)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


KILLED = """
import os, sys
import mad.tracking.mirror
from mad.tracking import Roster, Tracking
from tests.mad.tracking.test_mirror import OWN, head
from pathlib import Path

mad.tracking.mirror.PATIENCE = 1.0
mirror = mad.tracking.mirror.Mirror(Tracking(names=(f"{OWN}:Hangs",), folder=Path(sys.argv[1])), Roster())
mirror.begin([head("run")])
print(mirror.lines[0]._process.pid, flush=True)
sys.stdin.readline()
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_a_tracker_that_hangs_does_not_outlive_a_driver_that_is_killed(tmp_path: Path) -> None:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[3], **pipes) as driver:
        assert driver.stdout is not None
        tracker = int(driver.stdout.readline())
        deadline = time.monotonic() + 60
        while not (tmp_path / "diary.txt").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(tracker, 0)
        driver.communicate("\n")
    while _runs(tracker):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _runs(process: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout
    return state.strip() != "" and not state.startswith("Z")


def test_what_no_tracker_takes_is_left_out_and_nothing_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mad.tracking.mirror, "PATIENCE", 2.0)
    tracking = Tracking(names=(f"{OWN}:Hangs",), folder=tmp_path)
    begun = time.process_time()
    with Mirror(tracking, Roster()) as mirror:
        mirror.begin([head("run")])
        for step in range(20_000):
            mirror.log({"run": [{"step": step, "text": float(step)}]})
        waiting = mirror.lines[0]._waiting.qsize()
        assert waiting <= mad.tracking.mirror.MOST_WAITING and mirror.lines[0].missed > 10_000
    assert mirror.failed == [f"{OWN}:Hangs"] and time.process_time() - begun < 10
    assert caplog.record_tuples[-1][1] == logging.WARNING


def test_a_slow_tracker_hears_of_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mad.tracking.mirror, "MOST_WAITING", 3)
    with Mirror(Tracking(names=(f"{OWN}:Diary",), folder=tmp_path), Roster()) as mirror:
        for step in range(50):  # More than a pipe holds.
            mirror.log({"run": [{"step": step, "x" * 100_000: 1.0}]})
    assert mirror.lines[0].missed and (tmp_path / "diary.txt").read_text().endswith("close\n")


class Peeks(nn.Module):
    """Answers with what is still to come, which is found out when the engine tries it."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.embed = nn.Embedding(task.vocab_size, task.vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.embed(tokens.flip(1))
        return logits


def test_a_refused_sweep_begins_no_tracker(store: Path) -> None:
    how: dict[str, Any] = {"suite": "smoke", "tasks": ["memorization"], "device": "cpu"}
    with pytest.raises(ValueError, match="token"):
        mad.bench(lambda task: Peeks(task), store=store, track=f"{OWN}:Diary", **how)
    assert not list(store.parent.glob("*.tracks"))
