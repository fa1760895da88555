"""Records are run again: honest ones reproduce, others do not, and nothing foreign is run unasked."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mad.api import execute, prepare, verify
from mad.data.records import Record
from mad.run.place import find_place
from mad.run.runner import run_group
from mad.run.sweep import Cell, Group, resolve
from mad.store import Store
from mad.trust.verdicts import Verdict
from mad.trust.verifying import companion, draw, foreign
from tests.commands import Command
from tests.mad.records import SOUND, record, setting
from tests.mad.trust.fakes import moved, raised

SPECS = ["mlp", "mlp swiglu"]
TINY = setting("compression[vocab_size=8, seq_len=8]", train_examples=64, batch_size=16)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """The smoke battery of two small architectures, as this machine makes it."""
    path = tmp_path_factory.mktemp("runs") / "store.sqlite"
    prepared = prepare(SPECS, suite="smoke", protocol="sound", device="cpu")
    return execute(prepared, store=path, engine="inline")[0]


def written(folder: Path, records: Sequence[Record]) -> Path:
    path = folder / "runs.jsonl"
    path.write_text("".join(f"{run.model_dump_json(exclude={'imported'})}\n" for run in records))
    return path


def outcomes(verdicts: Sequence[Verdict]) -> dict[str, int]:
    return dict(Counter(verdict.outcome for verdict in verdicts))


def test_what_was_made_here_comes_out_bit_for_bit(runs: list[Record], tmp_path: Path) -> None:
    assert outcomes(verify(written(tmp_path, runs))) == {"bit for bit": len(runs)}


def test_twenty_of_twenty_fakes_are_caught_where_they_were_made(runs: list[Record], tmp_path: Path) -> None:
    fakes = [raised(run) for run in runs][:20]
    verdicts = verify(written(tmp_path, fakes))
    assert outcomes(verdicts) == {"does not reproduce": 20}
    assert all("test micro" in verdict.why for verdict in verdicts)


@pytest.mark.parametrize("what", ["loss", "curve", "hits", "params", "seed of another"])
def test_one_changed_number_is_enough(what: str, runs: list[Record], tmp_path: Path) -> None:
    run = runs[0]
    assert run.metrics is not None and run.metrics.test is not None and run.cost is not None
    metrics, test = run.metrics, run.metrics.test
    if what == "loss":
        test = test.model_copy(update={"loss": (test.loss or 0) * (1 + 1e-9)})
    elif what == "hits":
        from mad.data.hits import pack, unpack

        assert test.hits is not None
        test = test.model_copy(update={"hits": pack(unpack(test.hits, test.rows)[::-1])})
    elif what == "curve":
        first = metrics.curve[0].model_copy(update={"accuracy": 0.5})
        metrics = metrics.model_copy(update={"curve": (first, *metrics.curve[1:])})
    elif what == "params":
        run = run.model_copy(update={"cost": run.cost.model_copy(update={"params": 7})})
    else:
        metrics = runs[1].metrics or metrics
        test = metrics.test or test
    fake = run.model_copy(update={"metrics": metrics.model_copy(update={"test": test})})
    assert outcomes(verify(written(tmp_path, [fake]))) == {"does not reproduce": 1}


def test_old_records_without_hits_still_come_out(runs: list[Record], tmp_path: Path) -> None:
    metrics = runs[0].metrics
    assert metrics is not None and metrics.test is not None
    bare = metrics.model_copy(update={"test": metrics.test.model_copy(update={"hits": None})})
    old = runs[0].model_copy(update={"metrics": bare})
    assert outcomes(verify(written(tmp_path, [old]))) == {"bit for bit": 1}


def test_elsewhere_rounding_is_forgiven_and_a_fake_is_not(runs: list[Record], tmp_path: Path) -> None:
    run = next(run for run in runs if run.config.task["name"] == "noisy-in-context-recall")
    honest = moved(raised(run, by=1 / 4096), simd="AVX2")
    fake = moved(raised(run, by=0.4), simd="AVX2")
    unknown = raised(run, by=1 / 4096)
    del unknown.environment["simd"]
    (found,) = verify(written(tmp_path, [honest]))
    assert found.outcome == "within noise" and "simd AVX2, here" in found.why
    (found,) = verify(written(tmp_path, [fake]))
    assert found.outcome == "does not reproduce" and len(found.found) > 2
    assert found.low is not None and found.high is not None
    assert found.low <= found.found[0] <= found.high < (found.claimed or 0)
    (found,) = verify(written(tmp_path, [unknown]))
    assert found.outcome == "within noise"


@pytest.fixture(scope="module")
def stopped() -> list[Record]:
    """A group of which one run solves the task and stops the other."""
    easy = SOUND.model_copy(update={"solved_at": 0.06})
    at = setting("memorization[vocab_size=32, seq_len=8]", train_examples=64, lrs=(1e-6, 1e-2), epochs=8)
    who = resolve("mlp", dim=16, protocol=easy)
    cell = Cell(architecture=who, setting=at, protocol=easy, seeds=(3,))
    made = run_group(Group(cell, 3), place=find_place("cpu"))
    assert sorted(run.status for run in made) == ["ok", "stopped"]
    return made


def test_a_stopped_run_is_run_again_beside_the_one_that_stopped_it(
    stopped: list[Record], tmp_path: Path
) -> None:
    assert outcomes(verify(written(tmp_path, stopped))) == {"bit for bit": 2}
    quiet = next(run for run in stopped if run.status == "stopped")
    assert companion(quiet, stopped) is not None and companion(quiet, [quiet]) is None
    (found,) = verify(written(tmp_path, [quiet]))
    assert found.outcome == "not run" and "stopped" in found.why


def test_a_stored_run_finds_its_companion_in_the_store(stopped: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        store.commit(stopped)
    quiet = next(run for run in stopped if run.status == "stopped")
    before = path.read_bytes()
    (found,) = verify(quiet.id[:8], store=path)
    assert found.outcome == "bit for bit" and path.read_bytes() == before


TRAP = """
import pathlib
from torch import nn
pathlib.Path(__file__).with_name("imported").touch()
class Layer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.scale = nn.Linear(dim, dim)
    def forward(self, x):
        return self.scale(x)
def model(task):
    raise RuntimeError("no")
"""


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mark that an import of module `trap_for_verify` leaves."""
    (tmp_path / "trap_for_verify.py").write_text(TRAP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "trap_for_verify", raising=False)
    return tmp_path / "imported"


NAMES: dict[str, dict[str, Any]] = {
    "a layer": {"spec": "trap_for_verify:Layer"},
    "a layer within": {"spec": "2*(mlp trap_for_verify:Layer) altup[k=2]{trap_for_verify:Layer}"},
    "a factory": {"spec": "trap_for_verify:model", "dim": None},
    "a source": {"spec": "mlp", "sources": {"trap_for_verify:Layer": "ab" * 32}},
}


@pytest.mark.parametrize("name", NAMES)
def test_code_that_a_record_names_is_not_imported_unasked(name: str, trap: Path) -> None:
    from tests.mad.records import architecture

    made = record(TINY, who=architecture(**{"versions": {}, **NAMES[name]}), given="mlp")
    (found,) = verify(written(trap.parent, [made]))
    assert found.outcome == "not run" and "--allow-code" in found.why and "trap_for_verify" in found.why
    assert not trap.exists() and foreign(made)


def test_a_task_of_foreign_code_is_foreign() -> None:
    made = record(TINY)
    content = {**made.config.task, "name": "pkg.mod:Task"}
    odd = made.model_copy(update={"config": made.config.model_copy(update={"task": content})})
    assert foreign(odd) == ["pkg.mod:Task"]


def test_allowed_code_is_run_and_changed_code_is_told(trap: Path) -> None:
    who = resolve("trap_for_verify:Layer", dim=16, protocol=SOUND)
    cell = Cell(architecture=who, setting=TINY, protocol=SOUND, seeds=(0,))
    (made, *_) = run_group(Group(cell, 0), place=find_place("cpu"))
    assert made.status == "ok"
    (found,) = verify(written(trap.parent, [made]), allow_code=True)
    assert found.outcome == "bit for bit"
    config = made.config
    other = config.architecture.model_copy(update={"sources": {"trap_for_verify:Layer": "0" * 64}})
    config = config.model_copy(update={"architecture": other})
    changed = made.model_copy(update={"config": config, "id": config.id})
    (found,) = verify(written(trap.parent, [changed]), allow_code=True)
    assert found.outcome == "another version" and "the code of trap_for_verify:Layer was 0000" in found.why


def test_another_version_is_no_fake(runs: list[Record], tmp_path: Path) -> None:
    def with_config(**changes: Any) -> Record:
        config = runs[0].config.model_copy(update=changes)
        return runs[0].model_copy(update={"config": config, "id": config.id})

    who = runs[0].config.architecture
    older = with_config(architecture=who.model_copy(update={"versions": {"mlp": 0}}))
    task = with_config(task={**runs[0].config.task, "version": 99})
    kernel = with_config(backend="kernel")
    verdicts = verify(written(tmp_path, [older, task, kernel]))
    assert outcomes(verdicts) == {"another version": 3}
    assert "mlp@0 is now mlp@" in verdicts[0].why and "@99 is now" in verdicts[1].why


def test_a_record_under_the_name_of_another_architecture_is_told(runs: list[Record], tmp_path: Path) -> None:
    (found,) = verify(written(tmp_path, [runs[0].model_copy(update={"given": "transformer++"})]))
    assert found.outcome == "does not reproduce" and "transformer++" in found.why


def test_what_cannot_be_built_is_not_run(runs: list[Record], tmp_path: Path) -> None:
    config = runs[0].config
    who = config.architecture.model_copy(update={"spec": "no-such-layer", "versions": {}})
    config = config.model_copy(update={"architecture": who})
    odd = runs[0].model_copy(update={"config": config, "id": config.id})
    (found,) = verify(written(tmp_path, [odd]))
    assert found.outcome == "not run" and "no-such-layer" in found.why
    (found,) = verify(written(tmp_path, [record(TINY, status="failed")]))
    assert found.outcome == "not run" and "failed" in found.why


def test_a_draw_can_hit_every_architecture_and_is_the_same_for_a_seed(runs: list[Record]) -> None:
    few = [run for run in runs if run.given == "mlp"][:1] + [run for run in runs if run.given != "mlp"]
    hit = [draw(few, 1, seed)[0] for seed in range(40)]
    shares = Counter(run.given for run in hit)
    assert len(shares) == 2 and min(shares.values()) >= 10 and len({run.id for run in hit}) > 6
    assert draw(few, 5, 7) == draw(few[::-1], 5, 7)
    assert draw(few, 5, 7) != draw(few, 5, 8)
    everything = draw(few, 10**6, 0)
    assert {run.id for run in everything} == {run.id for run in few} and len(everything) == len(few)


def test_a_file_cannot_hide_a_fake_behind_an_honest_run(runs: list[Record], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"holds run {runs[0].id} twice"):
        verify(written(tmp_path, [raised(runs[0]), runs[0]]))


BAD = {
    "--sample 0": ["FILE", "--sample", "0"],
    "negative": ["FILE", "--sample", "-3"],
    "seed": ["FILE", "--seed", "-1"],
    "missing": ["nowhere.jsonl"],
    "suffix": ["runs.csv"],
    "no run": ["0123456789"],
    "short": ["012345"],
    "empty": ["empty.jsonl"],
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(
    name: str, runs: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").write_text("")
    path = written(tmp_path, runs)
    with Store("store.sqlite") as store:
        store.commit(runs[:1])
    words = [str(path) if word == "FILE" else word for word in BAD[name]]
    status, out, err = cli("verify", *words, "--store", "store.sqlite")
    assert status == 2 and out == "" and err.startswith("mad: ") and err.count("\n") == 1
    assert "; " in err


def test_the_command_says_what_it_saw_and_fails_on_a_fake(
    runs: list[Record], tmp_path: Path, cli: Command
) -> None:
    status, out, err = cli("verify", written(tmp_path, runs), "--sample", "2", "--seed", "1")
    assert status == 0 and "2 bit for bit" in out
    fake = raised(runs[0])
    status, out, err = cli("verify", written(tmp_path, [fake, *runs[1:2]]))
    assert status == 1 and "1 does not reproduce" in out and "1 bit for bit" in out and fake.id[:8] in out
