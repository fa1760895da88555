"""How the reference results are made and written: `make reference`."""

from pathlib import Path

import pytest

import architectures
from mad.data.protocol import Setting, get_suite
from mad.data.records import Record, RunConfig
from mad.reference.making import listed, make
from mad.run.battery import prepare
from mad.score import score
from mad.store import Store
from mad.store.exchange import read_records
from tests.mad.records import SOUND, record, setting

SPECS = ["mlp", "swiglu"]


def results(spec: str) -> list[Record]:
    """What a trainer would have stored."""
    groups = prepare(spec, suite="smoke", protocol="sound", device="cpu").groups
    return [done(run, group.cell.setting, spec, group.id) for group in groups for run in group.runs]


def done(run: RunConfig, at: Setting, spec: str, group: str) -> Record:
    found = record(at, run.lr, who=run.architecture, given=spec, group=group)
    assert found.id == run.id
    return found


def test_the_list_has_every_family_and_each_architecture_once() -> None:
    specs = [spec for family in listed().values() for spec in family]
    # "llama" is "transformer++" in a model with another epsilon.
    assert len({(str(architectures.parse(spec)), spec == "llama") for spec in specs}) == len(specs) >= 24
    canon = {"llama", "gla5", "gdn2-lowrank", "mamba2-conv"}
    assert set(listed()["canon study"]) == canon | {f"{n.removesuffix('-conv')}-canon" for n in canon}
    layers = {layer.name for spec in specs for layer in architectures.parse(spec).walk()}
    assert layers > {
        "altup",
        "moe-mlp",
        "matformer-swiglu",
        "sparse-mlp",
        "reversible",
        "mh-attention",
        "mamba",
    }


def test_what_is_complete_is_written_and_the_same_bytes_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mlp, swiglu = results("mlp"), results("swiglu")
    stranger = record(setting("compression[vocab_size=8, seq_len=8]"), spec="mlp")
    with Store(tmp_path / "a.sqlite") as store:
        store.commit([*mlp, *swiglu[1:], stranger])
    with Store(tmp_path / "b.sqlite") as store:
        store.commit(reversed([*swiglu[1:], *mlp]))
    for name in "ab":
        (made,) = make(
            ["smoke"], tmp_path / f"{name}.sqlite", specs=SPECS, train=False, folder=tmp_path / f"{name}.out"
        )
        assert (made.records, made.architectures) == (12, 1) and made.lacking == ("swiglu on smoke@1",)
    first, second = ((tmp_path / f"{name}.out" / "smoke.jsonl").read_bytes() for name in "ab")
    assert first == second and {run.id for run in read_records(made.path)} == {run.id for run in mlp}
    # With what was missing, training finds nothing to do.
    with Store(tmp_path / "a.sqlite") as store:
        store.commit(swiglu[:1])
    (made,) = make(["smoke@1"], tmp_path / "a.sqlite", specs=SPECS, folder=tmp_path / "a.out")
    assert (made.records, made.lacking) == (24, ()) and "smoke@1: 2 architectures" in capsys.readouterr().out
    runs = [run for run in read_records(made.path) if isinstance(run, Record)]
    assert [run.id for run in runs] == sorted(run.id for run in runs)
    rows = score([], get_suite("smoke"), SOUND, reference=runs).architectures
    assert {(row.label, row.reference) for row in rows} == {("mlp", 12), ("swiglu", 12)}


def test_a_store_without_a_whole_architecture_writes_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "a.sqlite") as store:
        store.commit(results("mlp")[1:])
    (tmp_path / "smoke.jsonl").write_text("before")
    with pytest.raises(ValueError, match="no architecture is complete in .*smoke.jsonl stays as it is"):
        make(["smoke"], tmp_path / "a.sqlite", specs=["mlp"], train=False, folder=tmp_path)
    assert (tmp_path / "smoke.jsonl").read_text() == "before"
