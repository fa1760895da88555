"""`mad check` of factories of whole models: a right one passes, and each wrong one fails in one check."""

from pathlib import Path

import pytest

import mad
from architectures.contract.whole import QUESTIONS
from mad.run.sweep import factory_named

FACTORIES = '''
import numpy as np
import torch
from torch import nn


class Model(nn.Module):
    """An embedding, a sum of the past, a readout."""

    def __init__(self, task):
        super().__init__()
        self.task = task
        self.embedding = nn.Embedding(task.vocab_size, 16)
        self.head = nn.Linear(16, task.vocab_size)

    def mix(self, x):
        return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]

    def forward(self, tokens):
        return self.head(self.mix(self.embedding(tokens)))


class Builds(Model):
    def __init__(self, task):
        super().__init__(task)
        nn.init.constant_(self.head.bias, np.random.rand())


class Shape(Model):
    def forward(self, tokens):
        return super().forward(tokens)[:, -1]


class Repeatable(Model):
    def mix(self, x):
        return super().mix(x) + np.random.rand()


class Causality(Model):
    def mix(self, x):
        return x - x.mean(1, keepdim=True)


class Rows(Model):
    def mix(self, x):
        return super().mix(x) + x.roll(1, 0)


class Gradients(Model):
    def __init__(self, task):
        super().__init__(task)
        self.spare = nn.Parameter(torch.ones(3))


class Exits(Model):
    def mix(self, x):
        raise SystemExit(0)


def good(task):
    return Model(task)


def builds(task):
    return Builds(task)


def nothing(task):
    return None


def shape(task):
    return Shape(task)


def repeatable(task):
    return Repeatable(task)


def causality(task):
    return Causality(task)


def rows(task):
    return Rows(task)


def gradients(task):
    return Gradients(task)


def exits(task):
    return Exits(task)
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "checked_factories.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    return "checked_factories"


def results(path: str, **options: object) -> dict[str, str]:
    return {found.check: found.result for found in mad.check(path, **options)}  # type: ignore[arg-type]


def test_a_right_factory_passes_everything(module: str) -> None:
    assert results(f"{module}:good") == dict.fromkeys(QUESTIONS, "passed")


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_wrong_factory_fails_in_its_own_check(name: str, module: str) -> None:
    found = {f.check: f for f in mad.check(f"{module}:{name}")}
    assert found[name].result == "failed" and ", on in-context-recall[" in found[name].seen
    assert [f for f in found if found[f].result == "failed"] == [name]


def test_what_it_returns_or_raises_is_a_finding(module: str) -> None:
    assert results(f"{module}:nothing") == {n: "failed" if n == "builds" else "not run" for n in QUESTIONS}
    found = {f.check: f for f in mad.check(f"{module}:exits", only=["builds", "shape"])}
    assert found["builds"].result == "passed" and "SystemExit: 0" in found["shape"].seen


def test_what_cannot_be_asked_is_refused(module: str) -> None:
    with pytest.raises(ValueError, match="unknown check 'step'"):
        mad.check(f"{module}:good", only=["step"])
    with pytest.raises(ValueError, match="leave size out"):
        mad.check(f"{module}:good", size=(1, 2, 16))


def test_a_factory_is_told_from_a_layer(module: str) -> None:
    assert factory_named(f"{module}:good") is not None
    assert factory_named(f"{module}:Model") is factory_named("mamba") is factory_named("mamba:[a=b]") is None


def test_a_factory_that_sees_later_tokens_is_not_trained(module: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{module}:causality sees later positions: .* on memorization"):
        mad.bench(f"{module}:causality", suite="smoke", tasks=["memorization"], store=tmp_path / "s.sqlite")
    with pytest.raises(ValueError, match=f"{module}:rows sees other rows"):
        mad.train(f"{module}:rows", "compression[vocab_size=8, seq_len=8]", store=tmp_path / "s.sqlite")
