"""The benchmark of coverage runs, counts what holds, and keeps the parts that it does not simulate anew."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from tests.modules import module_at
from tests.scaling.laws.designs import FALLS_SLOWLY, SYMMETRIC, grid

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    module = module_at("benchmarks/scaling_coverage.py")
    monkeypatch.setattr(module, "RESULT", tmp_path / "found.json")
    monkeypatch.setattr(module, "NOISES", module.NOISES[:1])
    return module


def test_every_part_runs_and_is_written_alone(benchmark: ModuleType) -> None:
    benchmark.main(["--tables", "1", "--write"])
    first = json.loads(benchmark.RESULT.read_text())
    assert {part: (found["tables"], len(found["rows"])) for part, found in first.items()} == {
        "law": (1, 2),
        "runs": (1, 2),
        "penalty": (1, 12),
        "change": (1, 12),
    }
    benchmark.main(["--tables", "2", "--only", "law", "--seed", "1", "--write"])
    second = json.loads(benchmark.RESULT.read_text())
    assert list(second) == list(first) and second["law"]["tables"] == 2
    assert {part: second[part] for part in ("runs", "penalty", "change")} == {
        part: first[part] for part in ("runs", "penalty", "change")
    }


def test_what_holds_is_counted(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row["held"] for row in benchmark.law(range(2))]
    assert rows == [dict.fromkeys(("alpha", "beta", "E", "n_exponent"), 2)] * 2
    monkeypatch.setattr(benchmark, "TRUTH", FALLS_SLOWLY)
    assert [row["held"]["beta"] for row in benchmark.law(range(2))] == [0, 0]


def test_a_ratio_is_said_to_differ_only_where_it_does(benchmark: ModuleType) -> None:
    one = grid(SYMMETRIC, noise=0.002)
    for other, expected in ((benchmark.BETTER, False), (FALLS_SLOWLY, True)):
        both = pd.concat([one, grid(other, noise=0.002, seed=1, arch="b")])
        assert benchmark.differs(both) is expected
    three = [grid(SYMMETRIC, sizes=3, arch=name) for name in "ab"]
    assert not benchmark.differs(pd.concat(three)), "nothing is usable, so nothing is said"


def test_parts_that_there_are_not_and_no_tables_are_refused(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        (["--only", "laws"], "the parts are law, runs, penalty, change"),
        (["--tables", "0"], "at least one table"),
    ):
        with pytest.raises(SystemExit, match="2"):
            benchmark.main(words)
        assert said in capsys.readouterr().err
