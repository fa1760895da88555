"""The pool: every task has an outcome, whatever becomes of the processes."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from scaling.study.pool import run_all
from tests.scaling.study.pool_tasks import act


def test_every_task_has_its_outcome_and_workers_serve_several() -> None:
    found = dict(run_all(act, "shared", list(range(6)), workers=2))
    assert sorted(found) == list(range(6))
    assert all(outcome.value[:2] == ("shared", number) for number, outcome in found.items())
    processes = {outcome.value[2] for outcome in found.values()}
    assert 1 <= len(processes) <= 2 and os.getpid() not in processes
    assert multiprocessing.active_children() == []


def test_a_killed_process_loses_its_task_alone_and_an_error_is_an_outcome() -> None:
    found = dict(run_all(act, None, ["die", 1, "raise", 2], workers=1))
    assert found[0].lost and found[0].error == "its process ended with signal 9"
    assert not found[2].lost and "RuntimeError: out of memory" in (found[2].error or "")
    assert (found[1].value[1], found[3].value[1]) == (1, 2)


def test_leaving_the_loop_ends_the_processes() -> None:
    for number, _ in run_all(act, None, [0, "sleep"], workers=2):
        assert number == 0
        break
    assert multiprocessing.active_children() == []


def test_a_process_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaling.study.pool.GRACE", 0.1)
    for number, _ in run_all(act, tmp_path / "deaf", ["deaf", "wait for the deaf"], workers=2):
        assert number == 1
        break
    assert multiprocessing.active_children() == []


def test_a_task_that_is_not_to_begin_is_left_out() -> None:
    ended: list[int] = []
    for number, _ in run_all(act, None, [0, 1, 2, 3], workers=1, begin=lambda number: number != 1):
        ended.append(number)
    assert ended == [0, 2, 3]
