"""`mad check` of a task: who is meant, what is shown, and what is refused. The checks themselves have their
faults in tests/synthetic_tasks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mad
import synthetic_tasks
from architectures.grammar import index
from architectures.grammar.presets import PRESETS
from synthetic_tasks.contract.checkup import CHECKS
from tests.commands import Command

FILE = Path(__file__).parents[2] / "synthetic_tasks" / "faulty_tasks.py"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "checked_tasks.py").write_text(
        FILE.read_text().replace("faulty-", "checked-").replace("say-", "tell-")
    )
    monkeypatch.syspath_prepend(tmp_path)
    synthetic_tasks.names()
    monkeypatch.setattr("synthetic_tasks.registry._tasks", dict(synthetic_tasks.registry._tasks))
    yield "checked_tasks"
    sys.modules.pop("checked_tasks", None)


def test_a_task_is_meant_by_its_name_its_class_or_itself(module: str) -> None:
    for given in (f"{module}:Good", f" {module}:Good[seq_len=8]", "compression[seq_len=8]"):
        found = mad.check(given)
        assert [finding.check for finding in found] == list(CHECKS)
        assert {finding.result for finding in found} <= {"passed", "not applicable"}, found
    told: list[str] = []
    task = synthetic_tasks.get(f"{module}:Foresees")
    (found_one,) = mad.check(task, only=["causality"], report=told.append)
    assert found_one.result == "failed" and told == ["causality"]


def test_no_name_means_a_task_and_a_layer() -> None:
    layers = {entry["name"] for entry in index.read()} | set(PRESETS)
    assert not layers & set(synthetic_tasks.names())


def test_the_command_shows_findings_and_its_status_counts_failures(module: str, cli: Command) -> None:
    right = cli("check", f"{module}:Good", "--only", "oracle,chance")
    assert right.status == 0 and "2 passed" in right.out
    wrong = cli("check", f"{module}:Breaks", "--format", "json")
    (failed,) = [found for found in json.loads(wrong.out) if found["result"] == "failed"]
    assert wrong.status == 1 and failed["check"] == "oracle"
    assert failed["seen"].startswith("KeyError: 'zeros' (checked_tasks.py, line ")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["compresion"], "'compresion' is neither a layer nor a task; did you mean 'compression'?"),
        (["compression[seq_len=1]"], "compression: seq_len=1 is refused"),
        (["compression", "--only", "oracl"], "unknown check 'oracl'; did you mean 'oracle'?"),
        (["compression", "--only", ","], "no check is named; available: declared, "),
        (["compression", "--dim", "32"], "compression is a task; leave dim out"),
        (["compression", "--compile"], "compression is a task; leave compile out"),
        (["compression", "--size", "1,2,16"], "compression is a task; leave size out"),
        (["compression", "--suite", "smoke"], "compression is a task; leave suite out"),
        (["mlp", "--suite", "smoke"], "mlp is a layer; leave suite out"),
    ],
)
def test_what_cannot_be_asked_is_refused(words: list[str], answer: str, cli: Command) -> None:
    said = cli("check", *words)
    assert said.status == 2 and answer in said.err and len(said.err.splitlines()) == 1


def test_a_factory_is_asked_on_the_tasks_of_a_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from torch import nn\n\n\ndef make(task):\n    SEEN.append(str(task))\n"
        "    return nn.Embedding(task.vocab_size, task.vocab_size)\n\n\nSEEN = []\n"
    )
    (tmp_path / "checked_factory.py").write_text(code)
    budget = "train_examples = 8, epochs = 1, batch_size = 4, lrs = [1e-3], weight_decays = [0.0]"
    setting = f'{{task = "compression[seq_len=5]", {budget}}}'
    (tmp_path / "two.toml").write_text(f'name = "two"\ndim = 8\nsettings = [{setting}]\n')
    monkeypatch.syspath_prepend(tmp_path)
    found = mad.check("checked_factory:make", suite=tmp_path / "two.toml", only=["shape"])
    assert [finding.result for finding in found] == ["passed"] and "1 task of the two suite" in found[0].seen
    assert set(sys.modules.pop("checked_factory").SEEN) == {"compression[seq_len=5]"}
