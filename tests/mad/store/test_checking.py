"""What is refused of a record: at import with its line, at the writing of it, and never later."""

import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import scaling.laws.runs.cleaning
from mad.data.records import Record, RunConfig
from mad.store import Store
from mad.store.checking import LONGEST, check, kinds, understood
from mad.store.exchange import read_records
from scaling.lm.config import LanguageConfig
from scaling.lm.records import LARGEST_LOSS, LanguageRecord
from tests.mad.language_records import CORPUS, language
from tests.mad.records import TWO, record

BATTERY = record(TWO.settings[0]).model_dump(mode="json")
CURVE = [{"step": s, "accuracy": 0.5, "loss": 1.0, "train_loss": 1.0, "lr": 1e-3} for s in (10, 20)]
BATTERY["metrics"]["curve"] = CURVE
LANGUAGE = language().model_dump(mode="json")
MISSING = object()


def edited(content: dict[str, Any], path: str, value: Any) -> str:
    """The line with one field replaced and, where that is part of the identity, the id that belongs to it."""
    made = copy.deepcopy(content)
    *way, last = path.split(".")
    place: Any = made
    for name in way:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if value is MISSING:
        del place[last]
    elif isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    kind = LanguageConfig if made.get("kind") == "language" else RunConfig
    if way[:1] == ["config"]:
        try:
            made["id"] = kind.model_validate(made["config"]).id
        except ValueError:
            pass
    return json.dumps(made)


HUGE = 10**400
BOTH = (BATTERY, LANGUAGE)
BOUNDS: list[tuple[tuple[dict[str, Any], ...], str, tuple[Any, ...]]] = [
    ((BATTERY,), "cost.params cost.core_params cost.nominal_state", (HUGE, 2**63, -1, 1.5, True, "7")),
    ((BATTERY,), "cost.state.total", (2**64, -1, None, MISSING)),
    ((BATTERY,), "cost.flops_per_token", (-1.0, 1e300, math.inf, math.nan)),
    ((BATTERY,), "config.task.name", (MISSING, "", 7, "x" * 300)),
    ((BATTERY,), "config.task.version", (MISSING, "1", True)),
    ((BATTERY,), "config.task.seq_len", (HUGE, math.inf)),
    ((BATTERY,), "config.task.more", ([[[[[[[[[[1]]]]]]]]]], {"a": "x" * 70_000})),
    ((BATTERY,), "config.lr", (-1e-3, math.nan, 1e300, "0.001")),
    ((BATTERY,), "config.epochs", (0, -1, 2**63)),
    ((BATTERY,), "config.seed", (-1, 2**32)),
    ((BATTERY,), "config.architecture.spec", ("", "mamba " * 200_000)),
    ((BATTERY,), "config.architecture.dim", (0, HUGE)),
    ((BATTERY,), "config.architecture.options", ({str(i): i for i in range(2000)}, {"x": HUGE})),
    ((BATTERY,), "config.protocol.betas", ([0.9, 7.0],)),
    ((BATTERY,), "given suite", ("x" * 100_000,)),
    ((BATTERY,), "metrics.test.micro metrics.test.macro metrics.test.macro_batches", (1.5, -0.1, None)),
    ((BATTERY,), "metrics.test.rows metrics.test.targets", (0, 2**63)),
    ((BATTERY,), "metrics.chance metrics.ceiling", (-0.1, 2, None)),
    ((BATTERY,), "metrics.curve.0.step metrics.curve.0.loss", (-1,)),
    (BOTH, "created", ("", "yesterday", "2026-13-01", "2026-01-01\x1b00:00", 7)),
    (BOTH, "id", ("", "../../x", "A" * 20)),
    (BOTH, "attempts", (0, HUGE)),
    (BOTH, "environment", ({"a": {"b": math.nan}}, [1], {"x" * 300: 1})),
    ((LANGUAGE,), "metrics.loss", (800.0, -1.0, 25.1, math.nan)),
    ((LANGUAGE,), "metrics.epochs", (-1.0, 1e300)),
    ((LANGUAGE,), "cost.params cost.params_counted cost.core", (HUGE, -1)),
    ((LANGUAGE,), "cost.params_counted cost.flops cost.flops_per_token budget", (0, HUGE)),
    ((LANGUAGE,), "cost.state", ({"recurrent": 1}, {})),
    ((LANGUAGE,), "label", ("",)),
    ((LANGUAGE,), "config.steps config.corpus.vocab_size", (2**63, HUGE)),
    ((LANGUAGE,), "config.corpus.entropy", (-1.0,)),
]
CASES = [
    (content, path, value)
    for contents, paths, values in BOUNDS
    for content in contents
    for path in paths.split()
    for value in values
]


@pytest.mark.parametrize(("content", "path", "value"), CASES, ids=map(str, range(len(CASES))))
def test_a_value_that_no_command_could_count_with_is_refused_with_its_line(
    tmp_path: Path, content: dict[str, Any], path: str, value: Any
) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text(f"{json.dumps(content)}\n{edited(content, path, value)}\n")
    with pytest.raises(ValueError, match=r"^runs.jsonl line 2: ") as refused:
        read_records(file)
    where = path.partition(".")[0]
    assert where in str(refused.value) and len(str(refused.value)) < 1000


CONTRADICTIONS = [
    (BATTERY, "metrics.test.micro", 0.95001, "test accuracy of 0.95001: not a whole number of 10240 targets"),
    (BATTERY, "metrics.test.targets", 10_239, "not a whole number of 10239 targets"),
    (BATTERY, "metrics.test.targets", 10**9, "has 1,000,000,000 targets of test in 1,280 rows of length "),
    (BATTERY, "metrics.test.rows", 64, "measured 64 rows of test, and its configuration has 1280"),
    (BATTERY, "metrics.test.micro", 1.0, "test accuracy of 1.0, but 0.5 over classes"),
    (BATTERY, "metrics.test.macro", 0.0, "test accuracy of 0.5, but 0.0 over classes"),
    (BATTERY, "metrics.validation.micro", 0.75, "ends its curve at an accuracy of 0.5, and scores 0.75"),
    (BATTERY, "metrics.curve.1.accuracy", 0.75, "ends its curve at an accuracy of 0.75, and scores 0.5"),
    (BATTERY, "metrics.curve.1.step", 10, "a curve whose steps do not rise to 20"),
    (BATTERY, "metrics.curve.1.step", 21, "a curve whose steps do not rise to 20"),
    (BATTERY, "metrics.steps", 21, "has 21 steps, and its configuration 20"),
    (BATTERY, "metrics.solved", True, "is solved at an accuracy of 0.5"),
    (BATTERY, "metrics.test", None, "is 'ok' but lacks its metrics"),
    (BATTERY, "status", "stopped", "is 'stopped', and yet has a score"),
    (LANGUAGE, "metrics.loss", 1.5, "has a loss of 1.5, and 2.88539 bits a byte"),
    (LANGUAGE, "metrics.bits_per_byte", 1.5, "has a loss of 2, and 1.5 bits a byte"),
    (LANGUAGE, "metrics.curve.1.loss", 1.5, "ends its curve at 204,800 tokens and a loss of 1.5"),
    (LANGUAGE, "metrics.curve.1.tokens", 9, "ends its curve at 9 tokens"),
    (LANGUAGE, "metrics.curve.1.step", 101, "a curve whose steps do not rise to 100"),
    (LANGUAGE, "metrics.epochs", 4.0, "read 100,000 tokens 4 times, more than 204,800"),
    (LANGUAGE, "cost.flops", 1e12, "has 1e+12 FLOPs, and 1.5e+06 a token for 204,800 tokens"),
    (LANGUAGE, "cost.params_counted", 200_000, "counts 200,000 of 300,000 parameters, 20,000 embedded"),
    (LANGUAGE, "cost", None, "is 'ok' but lacks its metrics or cost"),
    (LANGUAGE, "status", "diverged", "diverged, and yet has a loss of 2"),
]


@pytest.mark.parametrize(("content", "path", "value", "message"), CONTRADICTIONS)
def test_a_record_that_contradicts_itself_is_refused(
    tmp_path: Path, content: dict[str, Any], path: str, value: Any, message: str
) -> None:
    kind = LanguageRecord if content is LANGUAGE else Record
    assert understood(kind, json.dumps(content)), "as it was it is one"
    line = edited(content, path, value)
    file = tmp_path / "runs.jsonl"
    file.write_text(f"{line}\n")
    with pytest.raises(ValueError) as refused:
        read_records(file)
    assert message in str(refused.value)
    with Store(tmp_path / "store.sqlite") as store, pytest.raises(ValueError) as refused:
        made = kind.model_validate_json(line)
        store.commit([made]) if isinstance(made, Record) else store.commit([made])
    assert message in str(refused.value)


def test_a_loss_below_the_entropy_of_its_text_is_refused() -> None:
    corpus = CORPUS.model_copy(update={"entropy": 1.5})
    check(language(1.5, corpus=corpus))
    with pytest.raises(ValueError, match="has a loss of 0.5 nats per token, below the entropy"):
        check(language(0.5, corpus=corpus))


def test_both_packages_know_the_same_largest_loss() -> None:
    assert LARGEST_LOSS == scaling.laws.runs.cleaning.LARGEST_LOSS


LINES: dict[str, Callable[[str], bytes]] = {
    "it is nested too deeply for a record": lambda line: b"[" * 100_000,
    "nested too deeply": lambda line: b'{"a":' * 50_000,
    "'status' is there twice": lambda line: line.replace('"status"', '"status": "ok", "status"', 1).encode(),
    "'lr' is there twice": lambda line: line.replace('"lr"', '"lr": 1, "lr"', 1).encode(),
    "longer than the 4,194,304 characters": lambda line: b" " * LONGEST + line.encode(),
    "codec can't decode byte 0xff": lambda line: line.encode().replace(b"hyena", b"hy\xffna", 1),
    "Invalid JSON": lambda line: line.encode()[:-5],
    "the line: Input should be an object": lambda line: b"[1, 2]",
    "id: Field required": lambda line: b'{"kind": "battery"}',
    "kind: Extra inputs": lambda line: line.replace("{", '{"kind": "battery", ', 1).encode(),
    "unexpected end of hex escape": lambda line: line.replace("hyena", "\\ud800", 1).encode(),
}


@pytest.mark.parametrize("message", LINES)
def test_a_line_that_is_no_record_is_named_by_its_number(tmp_path: Path, message: str) -> None:
    file = tmp_path / "runs.jsonl"
    good = json.dumps(BATTERY)
    file.write_bytes(f"{good}\n\n".encode() + LINES[message](good) + b"\n")
    with Store(tmp_path / "store.sqlite") as store:
        with pytest.raises(ValueError, match="^runs.jsonl line 3: ") as refused:
            store.merge(read_records(file))
        assert message in str(refused.value)
        assert len(store.records()) == 0


def test_a_line_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    with open(file, "wb") as hole:
        hole.truncate(2**40)  # A file of holes: a terabyte to read, nothing on the disk.
    with pytest.raises(ValueError, match="runs.jsonl line 1: it is longer than"):
        read_records(file)


def test_a_mark_of_the_byte_order_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text(f"{json.dumps(BATTERY)}\r\n", encoding="utf-8-sig", newline="")
    assert [run.id for run in read_records(file)] == [BATTERY["id"]]


def test_what_diverged_or_failed_needs_no_score() -> None:
    statuses: tuple[Any, ...] = ("diverged", "stopped", "failed", "interrupted")
    for status in statuses:
        check(record(TWO.settings[0], status=status))
        if status != "stopped":
            check(language(status=status))


def test_a_parquet_file_cannot_unpack_to_more_than_records_may_hold(tmp_path: Path) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    line, file = json.dumps(BATTERY), tmp_path / "runs.parquet"

    def write(values: Any) -> None:
        parquet.write_table(arrow.table({"record": values}), file, compression="zstd")

    write([line, None, line])
    assert len(read_records(file)) == 2
    for values, message in (
        (arrow.nulls(2 * 10**6, arrow.string()), "unpacks to 2,000,000 rows"),
        ([line, "x" * (LONGEST + 9)] * 50, "runs.parquet row 2: it is longer than"),
        ([line, "[" * 100_000], "runs.parquet row 2: it is nested too deeply"),
        ([1, 2, 3], "has no column 'record' of text"),
        ([], "has no column 'record' of text"),
    ):
        write(values)
        with pytest.raises(ValueError, match=message):
            read_records(file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        read_records(file)


@pytest.fixture
def known_anew() -> Iterator[None]:
    kinds.cache_clear()
    yield
    kinds.cache_clear()


def test_a_package_whose_records_cannot_be_loaded_is_named(
    known_anew: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("scaling.RECORDS", ("scaling.lm.records:Nothing",))
    assert list(kinds()) == ["runs"]
    assert "the records of package scaling cannot be read" in caplog.text


def test_a_store_with_records_of_an_unknown_kind_is_refused_and_left_alone(
    known_anew: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        store.commit([language()])
    kinds.cache_clear()
    monkeypatch.setattr("scaling.RECORDS", ())
    for read_only in (True, False):
        with pytest.raises(ValueError, match="the kind .language., which no package here declares"):
            Store(path, read_only=read_only)
    kinds.cache_clear()
    monkeypatch.undo()
    with Store(path, read_only=True) as store:
        assert store.records(LanguageRecord) == [language()]
