import io
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from mad.commands.show import find_run, show_record
from mad.data.records import ArchitectureConfig
from mad.store.exchange import export_records, read_records
from mad.store.store import ImportReport, Store
from scaling.lm.config import language_config
from scaling.lm.records import LanguageRecord, below_entropy, slack
from tests.mad.language_records import CORPUS, config, language
from tests.mad.records import TWO, group, imported, record

OTHERS: dict[str, Any] = {
    "architecture": ArchitectureConfig(spec="2*(mamba swiglu)", dim=128),
    "seq_len": 256,
    "batch_size": 8,
    "steps": 101,
    "lr": 2e-3,
    "warmup": 6,
    "final_lr": 0.0,
    "weight_decay": 0.0,
    "betas": (0.9, 0.99),
    "eps": 1e-7,
    "clip": None,
    "evaluations": 3,
    "evaluation_tokens": 8192,
    "seed": 1,
    "precision": "bf16-mixed",
    "backend": "other",
    "compile": True,
    "version": 2,
}
OTHER_CORPUS: dict[str, Any] = {
    "sha256": "cd" * 32,
    "tokenizer": "bpe",
    "vocab_size": 512,
    "tokenizer_sha256": "ef" * 32,
    "validation": 0.1,
    "train_tokens": None,
    "validation_tokens": 6000,
    "bytes_per_token": 3.5,
    "entropy": 1.25,
    "version": 2,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def version_1(path: Path) -> None:
    """A store as the first version of the suite left it, with two runs of the battery."""
    with Store(path) as store:
        store.commit(group(TWO.settings[0], 0.5, 0.6))
    db = sqlite3.connect(path)
    db.execute("DROP TABLE language")
    db.execute("DROP TABLE outlines")
    db.execute("PRAGMA user_version = 1")
    db.close()


def test_the_id_of_a_run_stays_what_it_is() -> None:
    """A change of this id would make every stored run unknown."""
    assert config().id == "bd7b679785763f6b35dc"


@pytest.mark.parametrize("field", OTHERS)
def test_every_field_is_part_of_the_identity(field: str) -> None:
    assert set(OTHERS) | {"corpus"} == set(type(config()).model_fields)
    assert config(**{field: OTHERS[field]}).id != config().id


@pytest.mark.parametrize("field", OTHER_CORPUS)
def test_every_field_of_the_corpus_but_its_name_is_part_of_the_identity(field: str) -> None:
    assert set(OTHER_CORPUS) | {"name"} == set(type(CORPUS).model_fields)
    other = CORPUS.model_copy(update={field: OTHER_CORPUS[field]})
    assert config(corpus=other).id != config().id


def test_names_and_labels_are_no_part_of_the_identity() -> None:
    assert config(corpus=CORPUS.model_copy(update={"name": "another"})).id == config().id
    assert language(label="x", study="y", role="single", budget=None).id == language().id


def test_tokens_count_repetitions() -> None:
    assert config().tokens == 100 * 16 * 128


def test_a_configuration_is_resolved_from_a_preset() -> None:
    made = language_config(
        "transformer++", dim=32, corpus=CORPUS, seq_len=8, batch_size=2, steps=41, lr=1e-3, device="cpu"
    )
    assert made.architecture.spec == "2*(mh-attention swiglu)"
    assert made.architecture.versions == {"mh-attention": 1, "swiglu": 1}
    assert (made.warmup, made.precision) == (3, "32-true")


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup=101 must be at most steps=100"):
        config(warmup=101)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="learning_rate"):
        config(learning_rate=1.0)


def test_a_run_comes_back_as_it_was_stored_and_apart_from_the_battery(path: Path) -> None:
    runs = [language(created="2027-01-01"), language(2.5, steps=200, created="2026-01-01")]
    with Store(path) as store:
        store.commit(runs)
        store.commit(group(TWO.settings[0], 0.5, 0.6))
        assert store.get(runs[0].id, LanguageRecord) == runs[0]
        assert store.get("nothing", LanguageRecord) is None
    with Store(path, read_only=True) as store:
        assert store.records(LanguageRecord) == runs[::-1]
        assert len(store.records()) == len(store.records()) == 2


@pytest.mark.parametrize("old", ["ok", "diverged"])
@pytest.mark.parametrize("new", ["ok", "diverged", "failed", "interrupted"])
def test_a_result_is_never_overwritten(path: Path, old: Any, new: Any) -> None:
    with Store(path) as store:
        store.commit([language(status=old)])
        with pytest.raises(ValueError, match=f"stored as '{old}', which is final"):
            store.commit([language(steps=7), language(1.0, status=new)])
        assert store.records(LanguageRecord) == [language(status=old)]


@pytest.mark.parametrize("old", ["failed", "interrupted"])
def test_a_failure_gives_way_to_the_next_attempt_which_is_counted(path: Path, old: Any) -> None:
    with Store(path) as store:
        store.commit([language(status=old)])
        store.commit([language()])
        (found,) = store.records(LanguageRecord)
        assert (found.status, found.attempts) == ("ok", 2)


def test_a_run_may_count_to_another_study_and_keeps_its_result(path: Path) -> None:
    with Store(path) as store:
        store.commit([language(role="tuning")])
        store.relabel(language(role="tuning"), study="second", role="grid", budget=3e12, label="m")
        assert store.records(LanguageRecord) == [language(study="second", budget=3e12, label="m")]
        with pytest.raises(ValueError, match="is not in"):
            store.relabel(language(seed=1), study=None, role="grid", budget=None, label="m")


def test_a_record_must_be_what_it_says(path: Path) -> None:
    run = language()
    assert run.metrics is not None
    lossless = run.metrics.model_copy(update={"loss": None})
    broken = {
        "does not match its configuration": run.model_copy(update={"id": "0" * 20}),
        "'ok' but lacks its metrics": run.model_copy(update={"metrics": lossless}),
        "lacks its metrics or cost": run.model_copy(update={"cost": None}),
        "diverged, and yet has a loss of 2": run.model_copy(update={"status": "diverged"}),
    }
    with Store(path) as store:
        for message, bad in broken.items():
            with pytest.raises(ValueError, match=message):
                store.commit([bad])
        assert store.records(LanguageRecord) == []


def test_a_store_of_the_first_version_is_read_as_it_is(path: Path) -> None:
    version_1(path)
    with Store(path, read_only=True) as store:
        assert len(store.records()) == 2
        assert store.records(LanguageRecord) == []
        assert store.get("anything", LanguageRecord) is None
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (1,)


def test_a_store_of_the_first_version_is_brought_up_by_a_writer(path: Path) -> None:
    version_1(path)
    with Store(path) as store:
        before = store.records()
        store.commit([language()])
    with Store(path) as store:
        assert store.records() == before and len(before) == 2
        assert store.records(LanguageRecord) == [language()]
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (4,)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_one_file_carries_both_kinds(path: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"runs{suffix}"
    with Store(path) as store:
        store.commit(group(TWO.settings[0], 0.5, 0.6))
        store.commit([language(), language(status="diverged", steps=9)])
        assert export_records(store, file) == 4
        battery, models = store.records(), store.records(LanguageRecord)
    with Store(tmp_path / "other.sqlite") as other:
        assert other.merge(read_records(file)) == ImportReport(added=4, known=0, replaced=0, conflicts=0)
        assert other.merge(read_records(file)) == ImportReport(added=0, known=4, replaced=0, conflicts=0)
        assert {r.id: r for r in other.records()} == {r.id: imported(r) for r in battery}
        assert [r.imported for r in other.records(LanguageRecord)] == [True, True]
        again = tmp_path / f"again{suffix}"
        export_records(other, again)
        assert suffix == ".parquet" or again.read_bytes() == file.read_bytes(), "who imported is not said"
    with Store(tmp_path / "third.sqlite") as third:
        third.merge(read_records(again))
        assert {r.id for r in third.records(LanguageRecord)} == {r.id for r in models}


def test_lines_of_the_battery_look_as_before(path: Path, tmp_path: Path) -> None:
    run = record(TWO.settings[0])
    with Store(path) as store:
        store.commit([run])
        store.commit([language()])
        export_records(store, tmp_path / "runs.jsonl")
    battery, model = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert battery == run.model_dump_json(exclude={"imported"})
    assert json.loads(model)["kind"] == "language"


def test_an_import_keeps_ours_unless_theirs_says_more(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "theirs.jsonl"
    theirs = [language(1.0), language(1.0, seed=1), language(1.0, seed=2)]
    file.write_text("".join(f"{r.model_dump_json()}\n" for r in theirs))
    with Store(path) as store:
        store.commit([language(2.0), language(status="failed", seed=1)])
        assert store.merge(read_records(file)) == ImportReport(added=1, known=1, replaced=1, conflicts=1)
        found = {r.config.seed: r.metrics and r.metrics.loss for r in store.records(LanguageRecord)}
        assert found == {0: 2.0, 1: 1.0, 2: 1.0}


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    content = language().model_dump(mode="json")
    content["config"]["lr"] = -1.0
    file.write_text(json.dumps(content) + "\n")
    with pytest.raises(ValueError, match="runs.jsonl line 1: config.lr: Input should be greater than 0"):
        read_records(file)


def test_show_finds_a_run_and_says_what_it_was(path: Path) -> None:
    run = language()
    with Store(path) as store:
        store.commit(group(TWO.settings[0], 0.5, 0.6))
        store.commit([run])
    found = find_run(run.id[:8], path)
    assert found == run
    console = Console(width=120, record=True, file=io.StringIO())
    show_record(found, console)
    text, budget = console.export_text(), "first: mamba, budget 1e+12 FLOPs"
    for words in (run.id, budget, "204,800 tokens", "2.0000 +- 0.0100 nats", "prose"):
        assert words in text


# What no model can reach


def test_a_loss_below_the_entropy_by_more_than_its_error_is_impossible() -> None:
    """4096 tokens in windows of 128: enough for the measured error. In one window each token counts."""
    at = config(corpus=CORPUS.model_copy(update={"entropy": 2.0, "vocab_size": 16}))
    found = language(loss=1.9).metrics
    assert found is not None
    for loss, error, tokens, possible in [
        (1.94, 0.01, 4096, False),
        (1.94, 0.0119, 4096, False),
        (1.94, 0.0121, 4096, True),
        (2.01, 0.0, 4096, True),
        (1.0, 0.0, 128, True),
        (0.5, 0.0, 128, False),
        (1.8, 0.0, 3712, True),
        (1.8, 0.0, 4096, False),
        (0.08, 0.0, 1024, False),
    ]:
        metrics = found.model_copy(update={"loss": loss, "loss_error": error, "evaluated": tokens})
        assert (below_entropy(at, metrics) is None) == possible, (loss, error, tokens, slack(at, metrics))
    assert below_entropy(config(), found.model_copy(update={"loss": 0.01})) is None, "nothing is known"


def test_a_record_below_the_entropy_is_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    entropy = CORPUS.model_copy(update={"entropy": 2.0})
    file.write_text(language(loss=2.1, corpus=entropy).model_dump_json() + "\n")
    assert len(read_records(file)) == 1
    file.write_text(language(loss=1.8, corpus=entropy).model_dump_json() + "\n")
    with pytest.raises(ValueError, match="below the entropy of its text, 2"):
        read_records(file)
