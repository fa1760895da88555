"""Engines give the same records, and a group that goes wrong ends as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mad.api import execute, prepare
from mad.messages import Failed
from mad.run.engines import Options, choose
from mad.run.place import find_place
from mad.run.workers import pool
from mad.run.workers.pool import slots
from mad.store import Store
from tests.mad.run.sweeps import SPECS, TASKS, opened_records, results, run


@pytest.mark.parametrize("engine", ["process", pytest.param("ray", marks=pytest.mark.slow)])
def test_every_engine_gives_the_records_of_one_thread(engine: str, tmp_path: Path, one_thread: None) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    alone = run(tmp_path / "alone.sqlite", SPECS, "inline", TASKS)
    found = run(tmp_path / "found.sqlite", SPECS, engine, TASKS)
    assert results(found) == results(alone) and len(alone) == 2 * len(SPECS) * len(TASKS)
    assert {record.environment["threads"] for record in found} == {1}
    with Store(tmp_path / "found.sqlite", read_only=True) as opened:
        assert results(opened.records()) == results(alone)
    again = run(tmp_path / "found.sqlite", SPECS, engine, TASKS)
    assert sorted(again, key=lambda r: r.id) == sorted(
        opened_records(tmp_path / "found.sqlite"), key=lambda r: r.id
    )


@pytest.mark.slow
def test_layers_of_the_program_itself_run_in_the_driver_and_need_no_guard(tmp_path: Path) -> None:
    """No worker imports the program: it would start itself again."""
    script = tmp_path / "program.py"
    script.write_text(
        """
import mad
from torch import nn
from architectures import Primitive
from architectures.registry import primitive

@primitive("of-the-program", mixes="time")
class OfTheProgram(Primitive):
    def __init__(self, config, *, dim, max_len, index=0, depth=1):
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.map = nn.Linear(dim, dim)
    def forward(self, x, ctx=None):
        return self.map(x)
    def flops(self, length):
        return 0
    def uncounted_flops(self, length):
        return 0

print("started")
asked = {"suite": "smoke", "tasks": ["compression"], "device": "cpu", "workers": 2}
print(len(mad.bench(["of-the-program", "mamba"], engine="process", **asked)), "rows")
"""
    )
    own = {"MAD_STORE": str(tmp_path / "s.sqlite"), "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [sys.executable, str(script)], env=os.environ | own, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["started", "2 rows"]
    assert {record.status for record in opened_records(tmp_path / "s.sqlite")} == {"ok"}


def test_workers_that_cannot_start_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pool, "START", "import sys; print('no such luck', file=sys.stderr); sys.exit(9)")
    with pytest.raises(
        Failed, match="(?s)3 workers ended before they were ready: no such luck.*status 9.*--engine inline"
    ):
        run(tmp_path / "s.sqlite", ["swiglu"], "process", ["compression"])


def test_processes_pay_where_there_are_cores_and_work(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = find_place("cpu")
    plain = Options(place=cpu)
    asked: dict[str, Any] = {"protocol": "sound", "device": "cpu"}
    small = prepare("mamba", suite="smoke", **asked).groups
    large = prepare("mamba", suite="quick", **asked).groups
    monkeypatch.setattr(pool, "cores", lambda: 4)
    assert choose(small, None, plain) == "inline" and choose(large, None, plain) == "process"
    assert (
        choose(large[:1], None, plain) == "inline"
        and slots(cpu, None) == ["cpu"] * 4
        and slots(cpu, 3) == ["cpu"] * 3
    )
    monkeypatch.setattr(pool, "cores", lambda: 1)
    assert choose(large, None, plain) == "inline"
    # What only some engines heed is heeded.
    assert choose(small, None, Options(place=cpu, workers=1)) == "process"
    assert choose(small, None, Options(place=cpu, cell_timeout=5.0)) == "process"
    assert choose(small, None, Options(place=cpu, workers=1, ray_address="auto")) == "ray"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"workers": 0}, "workers=0 is not a whole number of at least 1"),
        ({"workers": "2"}, "workers='2' is not a whole number"),
        ({"cell_timeout": 0}, "cell_timeout=0 is not a number of more than 0 seconds"),
        ({"cell_timeout": "5"}, "cell_timeout='5' is not a number"),
        ({"cell_timeout": float("nan")}, "cell_timeout=nan is not a number of more than 0"),
        ({"engine": "proces"}, "did you mean 'process'"),
        ({"engine": "inline", "workers": 2}, "engine inline cannot heed workers=2; .* engine process or ray"),
        ({"engine": "inline", "cell_timeout": 5}, "cannot heed cell_timeout=5; leave it out, or take engine"),
        ({"engine": "process", "ray_address": "auto"}, "cannot heed ray_address='auto'; .* take engine ray"),
    ],
)
def test_what_no_engine_takes_is_refused_before_any_work(
    wrong: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        execute(
            prepare("swiglu", suite="smoke", protocol="sound", device="cpu"),
            store=tmp_path / "s.sqlite",
            **wrong,
        )
    assert not (tmp_path / "s.sqlite").exists()
