"""What a user's code changes for all that comes after it is put back: at its import, when built, when run."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import architectures
import mad
from architectures.outside.surroundings import STATE, kept
from mad.api import prepare
from mad.run.learners import Turns
from mad.run.place import find_place
from tests.mad.run.test_trainer import RECALL

CODE = """
import os, signal
import torch
from torch import nn

def change():
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("medium")
    torch.set_grad_enabled(False)
    os.chdir("/")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

class Built(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.map = nn.Linear(dim, dim)
        change()

    def forward(self, x):
        return self.map(x)

class Run(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.map = nn.Linear(dim, dim)

    def forward(self, x):
        y = self.map(x) + torch.full_like(x, torch.get_default_dtype().itemsize)
        torch.set_default_dtype(torch.float64)
        return y

change()
"""


def state() -> list[Any]:
    return [read() for read, _ in STATE]


@pytest.fixture
def changing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "changing.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("changing", None)
    with kept():
        yield "changing"
    sys.modules.pop("changing", None)


def test_an_import_and_a_constructor_change_nothing_for_others(changing: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)
    before = state()
    model = architectures.build(f"{changing}:Built mlp", vocab_size=8, dim=16, max_len=16, seed=0)
    assert {(p.dtype, p.device.type) for p in model.parameters()} == {(torch.float32, "cpu")}
    assert state() == before


def test_every_replica_begins_alike(changing: str) -> None:
    (cell,) = prepare([f"{changing}:Run"], suite="smoke", protocol="sound", tasks=["compression"]).cells
    first = cell.groups()[0].runs[0]
    learner = Turns(cell.architecture.build(cell.task, 0), [first, first], find_place("cpu"))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(8, (4, 8), generator=generator)
    data: Any = type("Data", (), {"inputs": inputs, "targets": inputs})
    one, other = learner.advance(data, [torch.arange(4)] * 2, 0, [True, True], lambda replica, step: None)
    assert one == other


@pytest.mark.parametrize("name", ["Built", "Run"])
def test_a_run_is_what_it_is_called_whatever_the_program_has_set(
    name: str, changing: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"dim": 16, "train_examples": 32, "epochs": 1}
    record = mad.train(f"{changing}:{name}", RECALL, store=tmp_path / "a.sqlite", **settings)
    with kept():
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        changed = state()
        again = mad.train(f"{changing}:{name}", RECALL, store=tmp_path / "b.sqlite", **settings)
        assert state() == changed
    assert record.metrics == again.metrics
    assert os.getcwd() == str(tmp_path)
