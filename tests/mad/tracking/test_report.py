"""Progress in Python: who sees it, and how often a caller's function is called."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mad
from mad import terminal
from mad.run.sweep import Group
from mad.run.trainer import Progress
from tests.mad.records import records_in

SMOKE: dict[str, Any] = {"suite": "smoke", "tasks": ["compression"], "device": "cpu"}


@pytest.mark.parametrize("engine", ["inline", pytest.param("process", marks=pytest.mark.slow)])
def test_report_is_called_once_an_evaluation_with_the_points_of_the_grid(engine: str, tmp_path: Path) -> None:
    told: list[tuple[str, Progress]] = []

    def report(group: Group, progress: Progress) -> None:
        told.append((group.id, progress))

    mad.bench("mlp", store=tmp_path / "s.sqlite", engine=engine, report=report, **SMOKE)
    records = sorted(records_in(tmp_path / "s.sqlite"), key=lambda record: record.config.lr)
    curves = [record.metrics.curve for record in records if record.metrics]
    assert {id for id, _ in told} == {record.group for record in records}
    assert [progress.points for _, progress in told] == list(zip(*curves, strict=True))
    assert [progress.step for _, progress in told] == [point.step for point in curves[0]]


@pytest.mark.parametrize(("where", "seen"), [("pipe", False), ("terminal", True), ("notebook", True)])
def test_progress_is_shown_where_someone_looks(
    where: str,
    seen: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if where == "terminal":
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    if where == "notebook":
        monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    assert terminal.watched() == seen
    mad.bench("mlp", store=tmp_path / "s.sqlite", **SMOKE)
    assert ("[1/1] mlp on compression" in capsys.readouterr().err) == seen
    mad.bench("mlp", store=tmp_path / "s.sqlite", progress=not seen, **SMOKE)
    assert ("[1/1] mlp on compression" in capsys.readouterr().err) == (not seen)


def test_training_one_run_reports_evaluations_too(tmp_path: Path) -> None:
    steps: list[int] = []
    record = mad.train(
        "mlp",
        "compression[seq_len=8]",
        store=tmp_path / "s.sqlite",
        device="cpu",
        dim=16,
        train_examples=64,
        batch_size=8,
        epochs=2,
        evaluations=3,
        report=lambda group, progress: steps.append(progress.step),
    )
    assert record.metrics is not None and steps == [point.step for point in record.metrics.curve]
    assert len(steps) == 3 < record.metrics.steps
