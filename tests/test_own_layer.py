"""The page on layers and models of one's own: its files are run as they are printed.

`transformers` is not needed for that: a stand-in has the call of its causal models.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
import sys
from pathlib import Path

import pytest

from architectures import ModelOptions
from mad.store import Store
from tests.commands import Command
from tests.modules import module_at

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "own-layer.md").read_text()
FILES: dict[str, str] = dict(module_at("docs/sessions.py").FILE.findall(PAGE))
STAND_IN = """
from dataclasses import dataclass
from types import SimpleNamespace

from torch import nn


@dataclass(kw_only=True)
class LlamaConfig:
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int


class LlamaForCausalLM(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.mix = nn.GRU(config.hidden_size, config.hidden_size, batch_first=True)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, use_cache=None, **other):
        return SimpleNamespace(logits=self.lm_head(self.mix(self.embed(input_ids))[0]), past_key_values=None)
"""
SMOKE = ["--suite", "smoke", "--device", "cpu", "--engine", "inline"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in {**FILES, "transformers.py": STAND_IN}.items():
        (tmp_path / name).write_text(text)
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MAD_STORE", str(tmp_path / "store.sqlite"))
    return tmp_path


def line_of(start: str) -> list[str]:
    """The words behind `mad` of a command that the page shows."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"mad {start}")]
    return shlex.split(line)[1:]


def test_the_files_are_those_of_the_page() -> None:
    assert set(FILES) == {"averages.py", "leaky.py", "theirs.py", "adapted.py", "causal.py"}


@pytest.mark.parametrize(("file", "kind"), [("adapted.py", "Mixer"), ("causal.py", "Logits")])
def test_an_adapter_has_four_lines_at_most(file: str, kind: str) -> None:
    (cls,) = [node for node in ast.walk(ast.parse(FILES[file])) if isinstance(node, ast.ClassDef)]
    body = [line for line in ast.unparse(cls).splitlines()[1:] if line.strip()]
    assert cls.name == kind and len(body) <= 4


def test_a_layer_that_takes_a_hidden_size_and_returns_a_tuple_is_adapted(cli: Command) -> None:
    assert cli(*line_of("check adapted:Mixer")).status == 0
    status, out, err = cli(*line_of('bench "theirs='), *SMOKE[2:], "--tasks", "memorization")
    assert status == 0, err
    assert re.search(r"(?m)^1  theirs ", out)
    refused = cli("bench", "theirs:TheirMixer", *SMOKE)
    assert refused.status == 2, "the layer as it is needs the adapter"


def test_a_causal_model_of_huggingface_is_a_whole_model(cli: Command, folder: Path) -> None:
    status, out, err = cli(*line_of("bench hf="), *SMOKE[2:])
    assert status == 0, err
    assert re.search(r"(?m)^1  hf ", out)
    with Store(folder / "store.sqlite", read_only=True) as store:
        runs = store.records()
    assert {run.given for run in runs} == {"hf=causal:llama"} and {run.status for run in runs} <= {
        "ok",
        "stopped",
    }
    assert len({run.config.architecture.sources["causal:llama"] for run in runs}) == 1
    status, _, err = cli("bench", "hf", *SMOKE)
    assert status == 2 and "compression is asked of the last position; leave it out with --tasks" in err


def test_what_the_page_says_of_labels_holds(cli: Command) -> None:
    assert cli(*line_of('bench "mine=')[:2], *SMOKE, "--tasks", "memorization").status == 0
    words = [*SMOKE, "--tasks", "memorization", "--seeds", "2", "--dry-run"]
    assert "seed 1 is new" in cli("bench", "mine", *words).out
    assert cli("show", "mine").out.startswith("mine: 2*(averages:Ema swiglu)")
    assert "[tied=true, norm=layer] 2*(mh-attention" in " ".join(PAGE.split())
    assert cli("show", "[tied=true, norm=layer] 2*(mh-attention swiglu)").status == 0
    assert all(f"`{field.name}`" in PAGE for field in dataclasses.fields(ModelOptions))
