"""The Python interface: what `mad.bench` accepts, returns, stores and refuses."""

import inspect
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from torch import Tensor, nn

import mad
from architectures.grammar.stripe import _Parser
from architectures.model import SequenceModel
from mad.api import execute, prepare
from mad.run import engines
from mad.store import Store
from synthetic_tasks import Task
from tests.mad.records import records_in

FEW = ("compression", "in-context-recall")


class Bag(nn.Module):
    """A whole model of a user: the mean of what was read so far, and the token itself."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.embed = nn.Embedding(task.vocab_size, 16)
        self.head = nn.Linear(32, task.vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        count = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        return self.head(torch.cat([x, x.cumsum(1) / count], dim=-1))


def bag_factory(task: Task) -> nn.Module:
    return Bag(task)


def broken_factory(task: Task) -> nn.Module:
    return nn.Embedding(task.vocab_size, 5)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def test_bench_returns_rows_of_the_leaderboard(store: Path) -> None:
    specs = ["mh-attention swiglu", "mamba swiglu"]
    table = mad.bench(specs, suite="smoke", tasks=FEW, store=store, device="cpu")
    assert isinstance(table, pandas.DataFrame) and set(table["spec"]) == set(specs)
    assert table["mean"].between(0, 1).all() and (table["mean_low"] <= table["mean_high"]).all()
    assert "mad" not in table and "memorization" not in table, "a partial battery has no MAD score"
    pandas.testing.assert_frame_equal(mad.leaderboard(suite="smoke", tasks=FEW, store=store), table)
    whole = mad.leaderboard(suite="smoke", store=store)
    assert whole["mad"].isna().all() and whole["rank"].isna().all() and whole[FEW[0]].notna().all()


def test_one_spec_need_not_be_a_list_and_seeds_add_groups(store: Path) -> None:
    table = mad.bench("1*mamba", suite="smoke", tasks=["compression"], seeds=2, store=store, device="cpu")
    assert table["seeds"].tolist() == [2] and table["interval"].tolist() == ["seeds"]
    with Store(store, read_only=True) as opened:
        first = {r.id for r in opened.records()}
    mad.bench("1*mamba", suite="smoke", tasks=["compression"], seeds=3, store=store, device="cpu")
    records = records_in(store)
    assert first < {r.id for r in records} and {r.config.seed for r in records} == {0, 1, 2}


def test_a_named_factory_is_stored_with_its_source_and_a_nameless_one_is_not(
    store: Path, tmp_path: Path
) -> None:
    table = mad.bench(bag_factory, suite="smoke", tasks=FEW, store=store, device="cpu")
    assert table["architecture"].str.contains("@").all() and table["params"].iloc[0] > 0
    records = records_in(store)
    assert len(records) == 4 and all(r.config.architecture.sources for r in records)
    other = tmp_path / "other.sqlite"
    nameless = mad.bench(lambda task: Bag(task), suite="smoke", tasks=FEW, store=other, device="cpu")
    assert nameless[list(FEW)].equals(table[list(FEW)]) and not other.exists()


def test_a_model_of_the_wrong_shape_is_refused_before_any_training(store: Path) -> None:
    with pytest.raises(ValueError, match="logits"):
        mad.bench(["1*mamba", broken_factory], suite="smoke", store=store, device="cpu")
    assert not store.exists()


def test_no_architecture_and_no_task_are_refused(store: Path) -> None:
    with pytest.raises(ValueError, match="name at least one"):
        mad.bench([], suite="smoke", store=store)
    with pytest.raises(ValueError, match="is not an architecture"):
        mad.bench([3], suite="smoke", store=store)


def test_an_engine_is_a_module_and_an_unknown_one_is_answered_with_the_nearest(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare("mlp", suite="smoke", protocol="sound", tasks=FEW, device="cpu")
    (tmp_path / "backwards.py").write_text(
        "from mad.run.engines import inline\n"
        "TAKES = ()\n"
        "order = []\n"
        "def run(groups, *rest):\n"
        "    for group, records in inline.run(groups[::-1], *rest):\n"
        "        order.append(group.id)\n"
        "        yield group, records\n"
    )
    monkeypatch.setattr(engines, "__path__", [*engines.__path__, str(tmp_path)])
    try:
        records, scores = execute(prepared, store=store, engine="backwards")
        assert sys.modules["mad.run.engines.backwards"].order == [g.id for g in prepared.groups[::-1]]
    finally:
        sys.modules.pop("mad.run.engines.backwards", None)
    assert len(scores.architectures) == 1
    assert {r.id for r in records} == {r.id for r in records_in(store)}
    with pytest.raises(ValueError, match="engine backwards cannot heed workers=2; leave it out"):
        execute(prepared, store=store, engine="backwards", workers=2)
    with pytest.raises(ValueError, match="unknown engine 'inlin'; did you mean 'inline'"):
        execute(prepared, store=store, engine="inlin")


def test_public_code_runs_are_other_runs_with_other_rules(store: Path) -> None:
    arguments: dict[str, Any] = {"suite": "smoke", "tasks": ["compression"], "store": store, "device": "cpu"}
    mad.bench("swiglu", **arguments)
    mad.bench("swiglu", protocol="public-code", **arguments)
    records = records_in(store)
    sound, public = ([r for r in records if r.config.protocol.name == n] for n in ("sound", "public-code"))
    assert len(sound) == len(public) == 2
    assert public[0].config.task["variant"] == "public" and sound[0].config.task["variant"] == "repaired"
    assert public[0].config.architecture.options == {"embedding_std": 0.02}
    rates = [{point.lr for point in r.metrics.curve} for r in public if r.metrics]
    assert all(len(lrs) == 1 for lrs in rates), "a constant learning rate"
    assert len(mad.leaderboard(suite="smoke", protocol="public-code", store=store)) == 1


def test_train_returns_the_stored_record_and_does_not_repeat_it(store: Path) -> None:
    arguments: dict[str, Any] = {
        "train_examples": 32,
        "epochs": 2,
        "batch_size": 16,
        "dim": 16,
        "device": "cpu",
    }
    arguments["store"] = store
    task = "memorization[vocab_size=16,seq_len=8]"
    first = mad.train("mamba swiglu", task, **arguments)
    assert first.status == "ok" and first.metrics and first.metrics.test and len(first.metrics.curve) == 4
    assert mad.train("mamba swiglu", task, **arguments) == first
    other = mad.train("mamba swiglu", task, lr=3e-3, **arguments)
    assert other.id != first.id


def test_the_same_run_gives_the_same_numbers(tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        torch.manual_seed(hash(name) % 1000)
        runs.append(mad.bench("hyena swiglu", suite="smoke", tasks=FEW, store=tmp_path / name, device="cpu"))
    assert runs[0].equals(runs[1])


@pytest.mark.slow
def test_the_quick_suite_tells_attention_from_no_mixer(store: Path) -> None:
    tasks = ["in-context-recall", "selective-copying"]
    table = mad.bench(["2*(mh-attention swiglu)", "2*swiglu"], tasks=tasks, store=store, device="cpu")
    scores = table.set_index("spec")
    assert scores.loc["2*(mh-attention swiglu)", "in-context-recall"] >= 0.95
    assert scores.loc["2*(mh-attention swiglu)", "selective-copying"] >= 0.95
    records = records_in(store)
    for record in records:
        if record.config.architecture.spec == "2*swiglu" and record.metrics and record.metrics.test:
            assert abs(record.metrics.test.micro - record.metrics.chance) < 0.05


@pytest.mark.parametrize("name", mad.__all__)
def test_every_argument_is_documented(name: str) -> None:
    function = getattr(mad, name)
    documented = set(re.findall(r"\w+", inspect.getdoc(function) or ""))
    assert set(inspect.signature(function).parameters) <= documented


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert mad.__version__ == project["version"]


def test_a_spec_is_parsed_once_and_its_model_built_three_times_before_the_first_step(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed, built = [], []
    parse, init = _Parser.parse, SequenceModel.__init__

    def counted_parse(self: Any) -> Any:
        parsed.append(self)
        return parse(self)

    def counted_init(self: Any, *given: Any, **options: Any) -> None:
        init(self, *given, **options)
        built.append(self)

    monkeypatch.setattr(_Parser, "parse", counted_parse)
    monkeypatch.setattr(SequenceModel, "__init__", counted_init)
    monkeypatch.setattr("mad.run.runner.train", lambda *_, **__: pytest.fail("the first step"))
    mad.bench("3*mlp", suite="smoke", tasks=["compression"], store=store)
    assert len(parsed) == 1
    assert len(built) <= 3, "to be counted, to be asked, and to be trained"
