"""Labels where results are kept and shown: the newest one names the row, and a store knows them all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mad import api
from mad.data.records import Record
from mad.score import score
from mad.store import Store
from mad.store.labels import call, spelled
from tests.commands import Command
from tests.mad.records import SOUND, TWO, architecture, group, record, records_in

AT, OTHER = TWO.settings
FEW: dict[str, Any] = {"suite": "smoke", "tasks": "compression", "device": "cpu"}


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MAD_STORE", str(tmp_path / "store.sqlite"))
    yield tmp_path / "store.sqlite"


def rows(*records: Record) -> list[tuple[str, str, tuple[str, ...]]]:
    found = score(records, TWO, SOUND).architectures
    return sorted((row.label, row.given, row.notes[:2]) for row in found)


def made(given: str, when: str, **changes: Any) -> Record:
    return record(AT, given=given, created=f"2026-01-{when}T00:00:00+00:00", **changes)


def test_the_newest_label_names_the_row_and_the_others_are_noted() -> None:
    runs = [made("b=mlp", "02", spec="mlp"), made("a=mlp", "01", spec="mlp", seed=1)]
    runs += [made("mlp", "03", spec="mlp", seed=2)]
    assert rows(*runs) == [("b", "b=mlp", ("is mlp", "also called a"))]
    later = runs[1].model_copy(update={"called": {"c=mlp": "2026-01-04T00:00:00+00:00"}})
    assert rows(runs[0], later, runs[2]) == [("c", "c=mlp", ("is mlp", "also called b, a"))]


def test_a_label_that_is_none_leaves_the_row_its_spec() -> None:
    ((label, given, notes),) = rows(made("a\x1bb=mlp", "01", spec="mlp"))
    assert (label, given) == ("mlp", "a\x1bb=mlp") and not any("is mlp" in note for note in notes)


def test_one_label_of_two_architectures_is_shown_apart() -> None:
    ours: dict[str, Any] = {"spec": "2*(m:Ema swiglu)", "versions": {"m:Ema": 1, "swiglu": 1}}
    old, new = (architecture(**ours, sources={"m:Ema": code * 64}) for code in "ab")
    runs = [made("mine=2*(m:Ema swiglu)", "01", who=who) for who in (old, new)]
    assert [label for label, *_ in rows(*runs)] == ["mine Ema@aaaa", "mine Ema@bbbb"]
    other = made("mine=mlp", "01", spec="mlp")
    assert [label for label, *_ in rows(runs[0], other)] == ["mine: 2*(Ema@aaaa swiglu)", "mine: mlp"]
    plain = [made("same", "01", spec="mlp"), made("same", "01", spec="swiglu")]
    assert [label for label, *_ in rows(*plain)] == ["mlp", "swiglu"]


def test_options_of_the_model_stand_before_a_spec_as_they_are_typed() -> None:
    who = architecture("mlp", options={"tied": True, "norm_eps": 1e-5})
    ((label, _, _),) = rows(made("other words", "01", who=who))
    assert label == "[norm_eps=1e-05, tied=true] mlp"


def test_a_stored_run_gets_the_label_that_it_is_asked_for_by(path: Path) -> None:
    with Store(path) as store:
        store.commit(group(AT, 0.5, 0.6, given="a=hyena swiglu"))
        (first, second) = store.records()
        assert call([first], "hyena swiglu", store) == [first], "no label, no change"
        assert call([first], "a=2*hyena", store) == [first], "its label"
        called = call([first, second], "b=hyena swiglu", store)
        assert store.records() == called and called[0].given == "a=hyena swiglu"
        assert [text for _, text in called[0].typed] == ["a=hyena swiglu", "b=hyena swiglu"]
        assert rows(*called)[0][:2] == ("b", "b=hyena swiglu")
        assert call(called, "b=hyena swiglu", store) == called
        again = call(called, "a=hyena swiglu", store)
        assert rows(*again)[0] == ("a", "a=hyena swiglu", ("is hyena swiglu", "also called b"))
        assert [run.id for run in again] == [first.id, second.id] and again[0].metrics == first.metrics


def test_of_very_many_labels_the_newest_stay(path: Path) -> None:
    run = made("a=mlp", "01", spec="mlp")
    run = run.model_copy(update={"called": {f"x{i}=mlp": f"2026-02-01T00:00:00.{i:06}" for i in range(1000)}})
    with Store(path) as store:
        store.commit([run])
        (new,) = call([run], "b=mlp", store)
        assert store.records() == [new] and len(new.called) == 1000
    assert "b=mlp" in new.called and "x0=mlp" not in new.called and "x999=mlp" in new.called


def test_a_label_by_itself_is_what_the_store_has_under_it(path: Path) -> None:
    assert spelled("mine") == "mine" and not path.exists(), "no store is made"
    with Store(path) as store:
        store.commit([made("mine=hyena  swiglu", "01")])
        store.commit([made("two=mlp", "01", spec="mlp"), made("two=swiglu", "01", spec="swiglu")])
        store.commit([record(OTHER, given="mine=hyena  swiglu")])
    assert spelled(" mine ") == "mine=hyena  swiglu"
    assert spelled("min") == "min" and spelled("mlp") == "mlp" and spelled("2*mine") == "2*mine"
    with pytest.raises(ValueError, match="label 'two' has several .*; give one of two=mlp, two=swiglu"):
        spelled("two")


def test_runs_are_not_repeated_under_another_label_and_commands_know_all(path: Path, cli: Command) -> None:
    words = ["--suite", "smoke", "--tasks", "compression", "--device", "cpu"]
    assert "1  mlp " in cli("bench", "1*mlp", *words).out
    first = records_in(path)
    told = cli("bench", "mine=mlp", *words)
    assert "1  mine " in told.out and "is mlp" in " ".join(told.out.split())
    assert [run.model_copy(update={"called": {}}) for run in records_in(path)] == first
    assert "1  new " in cli("bench", "new=1*mlp", *words).out
    board = " ".join(cli("leaderboard", "--suite", "smoke").out.split())
    assert "new (1/6" in board and "also called mine" in board
    # By the label alone, and with it.
    told = cli("bench", "mine", *words, "--dry-run")
    assert "mine=mlp" in told.out and "(1 stored already)" in told.out
    for word in ("mine", "mine=mlp", "new"):
        status, out, _ = cli("show", word)
        assert status == 0 and out.startswith(f"{word.partition('=')[0]}: mlp   width")
        status, out, _ = cli("rm", "--architecture", word, "--dry-run")
        assert status == 0 and "2 runs would be removed" in out
        assert cli("runs", "--architecture", word).out.endswith("\n2 runs\n")
    assert cli("runs", "--architecture", "else=1*mlp").out.endswith("\n2 runs\n"), "however it is spelled"
    assert cli("show", "mien").status == 2
    assert cli("check", "mine=mlp", "--only", "hints").status == 0
    train = ["compression[vocab_size=8, seq_len=8]", "--examples", "32", "--epochs", "1", "--dim", "16"]
    assert cli("train", "mine", *train, "--device", "cpu").status == 0
    assert {run.given for run in records_in(path)} == {"1*mlp", "mine=mlp"}


def test_a_record_without_the_field_is_read_as_before(path: Path) -> None:
    run = made("mlp", "01", spec="mlp")
    text = run.model_dump_json(exclude={"called"})
    assert Record.model_validate_json(text) == run


def test_in_python_the_label_is_a_part_of_the_text() -> None:
    table = api.bench(["mine=mlp", "swiglu"], **FEW)
    assert set(table["architecture"]) == {"mine", "swiglu"}
    assert set(table["given"]) == {"mine=mlp", "swiglu"}
    assert set(api.bench("mine", **FEW)["architecture"]) == {"mine"}
