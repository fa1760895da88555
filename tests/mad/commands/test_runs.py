"""`mad runs`: what is listed, in which order, and what is said where nothing is."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

import mad
from mad.store import Store
from mad.store.listing import moment
from tests.commands import Command, Told
from tests.mad.language_records import language
from tests.mad.records import TWO, architecture, group, record

RECALL, COMPRESSION = TWO.settings
EVIL = "\x1b[2J=cmd|' /C calc'!A0\u202e[bold]x[/bold]"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "store.sqlite"
    with Store(path) as store:
        store.commit(group(RECALL, 0.5, 0.6, created="2026-03-01T10:00:00Z", given="mine=hyena swiglu"))
        quick = [
            run.model_copy(update={"suite": "quick@1"})
            for run in group(COMPRESSION, 0.25, 0.125, spec="2*(mamba swiglu)", created="2026-05-01")
        ]
        store.commit(quick)
        store.commit([record(RECALL, 7e-3, status="failed", seed=3, created="2026-04-01T10:00:00+02:00")])
        store.commit([language(created="2026-02-01T00:00:00Z")])
        tied = architecture("striped swiglu", options={"tied": True})
        store.commit([record(RECALL, 9e-3, who=tied, given=EVIL, created="2026-01-01T00:00:00Z")])
    return path


@pytest.fixture
def listed(path: Path, cli: Command) -> Any:
    def listed(*words: str) -> Told:
        return cli("runs", *words, "--store", path)

    return listed


def rows(told: Told) -> list[dict[str, str]]:
    assert told.status == 0, told.err
    return list(csv.DictReader(io.StringIO(told.out)))


def test_all_runs_are_listed_the_newest_last(path: Path, listed: Any) -> None:
    status, out, err = listed()
    assert status == 0 and err == ""
    lines = [line for line in out.splitlines() if line[:1] != " "]
    assert lines[0].split()[:3] == ["run", "architecture", "task"] and lines[-1] == "7 runs"
    dates = [line.split()[-2] if ":" in line.split()[-1] else line.split()[-1] for line in lines[1:-2]]
    assert dates == sorted(dates) and len(dates) == 7
    with Store(path, read_only=True) as store:
        ids = {entry.id[:10] for entry in store.entries()}
    assert {line.split()[0] for line in lines[1:-2]} == ids


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["--suite", "quick"], 2),
        (["--suite", "quick@1"], 2),
        (["--suite", "quick@2"], 0),
        (["--task", "in-context-recall"], 4),
        (["--task", "recall"], 0),
        (["--arch", "hyena swiglu"], 3),
        (["--arch", "mine"], 2),
        (["--arch", "mine=hyena swiglu"], 3),
        (["--architecture", "2*(mamba swiglu)"], 3),
        (["--arch", " mamba swiglu  mamba swiglu"], 3),
        (["--arch", "mamba swiglu"], 0),  # A part of a spec is not the spec.
        (["--arch", "mamba"], 1),  # As the language model was called.
        (["--task", "prose"], 1),
        (["--arch", "((("], 0),
        (["--status", "failed"], 1),
        (["--seed", "3"], 1),
        (["--since", "2026-04-01"], 3),
        (["--since", "2026-04-01T08:00:00Z"], 3),
        (["--since", "2026-04-01T08:00:01"], 2),
        (["--task", "in-context-recall", "--status", "ok", "--seed", "0"], 3),
    ],
)
def test_filters_keep_what_is_all_of_them(words: list[str], count: int, listed: Any) -> None:
    assert len(rows(listed(*words, "--format", "csv"))) == count
    assert len(json.loads(listed(*words, "--format", "json").out)) == count


def test_a_preset_means_its_layers_with_its_options(
    path: Path, listed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from architectures.grammar.presets import ModelOptions, Preset

    tied = ModelOptions(tied=True)
    presets = {"a": Preset(spec="hyena swiglu"), "b": Preset(spec="striped swiglu", options=tied)}
    presets["c"] = Preset(spec="hyena swiglu", options=tied)
    monkeypatch.setattr("mad.store.listing.PRESETS", presets)
    counts = [len(rows(listed("--arch", name, "--format", "csv"))) for name in presets]
    assert counts == [3, 1, 0]


def test_a_list_that_is_cut_says_so(path: Path, listed: Any, caplog: pytest.LogCaptureFixture) -> None:
    status, out, err = listed("--limit", "2")
    assert status == 0 and "the newest 2 of 7 runs; --limit shows more" in out
    assert out.count("compression") == 2, "the newest stay"
    told = listed("--limit", "2", "--format", "csv")
    assert len(rows(told)) == 2 and "mad: the newest 2 of 7 runs" in caplog.text
    frame = mad.runs(limit=2, store=path)
    assert len(frame) == 2 and frame.attrs["count"] == 7


def test_the_frame_has_what_a_run_was_and_scored(path: Path) -> None:
    frame = mad.runs(store=path, seed=0)
    assert frame["id"].is_unique and len(frame) == 6
    assert set(frame["kind"]) == {"battery", "language"}
    best = frame[frame["accuracy"] == 0.6].iloc[0]
    assert (best["lr"], best["task"], best["given"]) == (2e-3, "in-context-recall", "mine=hyena swiglu")
    assert (best["architecture"], best["spec"]) == ("mine", "hyena swiglu")
    assert best["setting"].startswith("in-context-recall[") and "vocab_size=8" in best["setting"]
    model = frame[frame["kind"] == "language"].iloc[0]
    assert model["loss"] == 2.0 and model["accuracy"] != model["accuracy"]
    assert mad.runs(store=path, status="interrupted").empty


@pytest.mark.parametrize("format", ["table", "csv", "json"])
def test_text_of_records_is_neither_obeyed_nor_run(format: str, listed: Any) -> None:
    status, out, _ = listed("--format", format)
    assert status == 0 and "\x1b" not in out and "\u202e" not in out
    if format == "csv":
        (evil,) = [row["given"] for row in rows(listed("--format", "csv")) if "calc" in row["given"]]
        assert evil.startswith("?[2J=cmd")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--status", "fine"], "unknown status 'fine'"),
        (["--since", "yesterday"], "'yesterday' is not a time; write a date, 2026-11-01"),
        (["--since", "2026-13-01"], "is not a time"),
        (["--since", "999999w"], "is not a time"),
        (["--limit", "0"], "limit=0 is not a whole number of at least 1"),
        (["--format", "xml"], "unknown format 'xml'"),
    ],
)
def test_a_bad_option_is_one_line(words: list[str], message: str, listed: Any) -> None:
    status, out, err = listed(*words)
    assert (status, out) == (2, "") and message in err and len(err.splitlines()) == 1


def test_an_empty_list_says_why(listed: Any, tmp_path: Path, cli: Command) -> None:
    assert (
        "has architecture '2*(mamba swigl)'; did you mean '2*(mamba swiglu)'?"
        in listed("--arch", "2*(mamba swigl)").out
    )
    assert "; task: compression, in-context-recall, prose" in listed("--task", "x").out
    Store(tmp_path / "empty.sqlite").close()
    assert "yet. Make some: mad bench" in cli("runs", "--store", tmp_path / "empty.sqlite").out
    assert "no store at" in cli("runs", "--store", tmp_path / "none.sqlite").err


def test_times_are_read_with_and_without_a_zone() -> None:
    assert moment("2026-04-01T10:00+02:00") == moment("2026-04-01T08:00") == moment("2026-04-01T08:00Z")
    assert moment("2w") < moment("7d") < moment("12h")
