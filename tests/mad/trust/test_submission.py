"""Submissions hold whole batteries, say what they hold, and cannot be changed in silence."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mad.api import check_submission, submit
from mad.data.protocol import SUITES
from mad.data.records import Record
from mad.store import Store
from mad.store.exchange import lines_of, read_records
from tests.commands import Command
from tests.mad.records import architecture, group, imported
from tests.mad.records import record as made

SMOKE = SUITES["smoke@1"]
PLACE = {"torch": "2.13.0", "device": "cpu", "device_name": "A", "threads": 1}


def battery(spec: str, *, settings: int = 6, **changes: Any) -> list[Record]:
    runs = [
        run
        for at in SMOKE.settings[:settings]
        for run in group(at, 0.5, 0.25, who=architecture(spec), given=spec, **changes)
    ]
    return [run.model_copy(update={"environment": PLACE}) for run in runs]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two whole batteries, one that lacks a task, one that failed, and one out of a file."""
    path = tmp_path / "store.sqlite"
    with Store(path) as opened:
        opened.commit(battery("mlp") + battery("swiglu") + battery("mlp swiglu", settings=5))
        opened.commit(
            [
                made(at, lr, who=architecture("hyena"), status="failed")
                for at, lr in [(SMOKE.settings[0], 1e-3)]
            ]
        )
        opened.merge([imported(run) for run in battery("attention")])
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def test_every_whole_row_made_here_is_bundled(store: Path, folder: Path) -> None:
    found = submit(folder=folder, suite="smoke", store=store)
    head = found.head
    assert (head.suite, head.protocol, head.runs, head.complete) == ("smoke@1", "sound@1", 24, True)
    assert head.architectures == ("mlp", "swiglu") and head.environments == (PLACE,)
    assert found.path.name == f"smoke-1-2-architectures-{head.sha256[:12]}.jsonl"
    assert not found.lacks and list(folder.iterdir()) == [found.path]
    assert check_submission(found.path) == found


def test_the_same_runs_are_the_same_file_and_an_import_takes_it(store: Path, folder: Path) -> None:
    first = submit(["mlp"], folder=folder, suite="smoke", store=store)
    written = first.path.stat().st_mtime_ns
    assert submit("mlp", folder=folder, suite="smoke", store=store) == first
    assert first.path.stat().st_mtime_ns == written and first.path.name.startswith("smoke-1-mlp-")
    with Store(folder / "new.sqlite") as new:
        assert new.merge(read_records(first.path)).added == 12


@pytest.mark.parametrize(
    ("specs", "said"),
    [
        (["mlp swiglu"], "memorization.*: not run; `mad bench`"),
        (["hyena"], "no run of 'hyena'"),
        (["attention"], "no run of 'attention'"),
        (["no-such-layer"], "unknown layer 'no-such-layer'"),
        (["pkg:Layer"], "no run of 'pkg:Layer'"),
    ],
)
def test_what_is_not_whole_or_not_there_is_refused(
    specs: list[str], said: str, store: Path, folder: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        submit(specs, folder=folder, suite="smoke", store=store)
    assert not list(folder.iterdir())


def test_a_part_is_taken_when_it_is_asked_for_and_says_so(store: Path, folder: Path) -> None:
    found = submit("mlp swiglu", folder=folder, suite="smoke", store=store, partial=True)
    assert not found.head.complete and len(found.lacks) == 1 and "memorization" in found.lacks[0]


def test_too_few_seeds_and_old_layers_are_lacks(
    store: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("architectures.grammar.index.read", lambda: [{"name": "mlp", "version": 2}])
    with pytest.raises(ValueError, match="mlp is stale: mlp@1 is now mlp@2"):
        submit("mlp", folder=folder, suite="smoke", store=store)
    monkeypatch.setitem(SUITES, "smoke@1", SMOKE.model_copy(update={"seeds": 2}))
    with pytest.raises(ValueError, match="swiglu has 1 of 2 seeds"):
        submit("swiglu", folder=folder, suite="smoke", store=store)


Change = Callable[[list[str]], list[str]]


def edit(line: str, **changes: Any) -> str:
    return json.dumps({**json.loads(line), **changes}, separators=(",", ":"))


CHANGES: dict[str, tuple[Change, str]] = {
    "no head": (lambda lines: lines[1:], "no head"),
    "a number": (lambda lines: [*lines[:-1], lines[-1].replace('"loss":1.0', '"loss":0.9')], "hash"),
    "a line less": (lambda lines: lines[:-1], "hash"),
    "a line twice": (lambda lines: [*lines, lines[-1]], "hash"),
    "another order": (lambda lines: [lines[0], *lines[:0:-1]], "hash"),
    "its label": (lambda lines: [edit(lines[0], label="other"), *lines[1:]], "calls it 'other'"),
    "its suite": (lambda lines: [edit(lines[0], suite="quick@1"), *lines[1:]], "is not of quick@1"),
    "a suite of code": (lambda lines: [edit(lines[0], suite="pkg.mod:S"), *lines[1:]], "pkg.mod:S"),
    "its protocol": (lambda lines: [edit(lines[0], protocol="sound@9"), *lines[1:]], "now sound@1"),
    "its runs": (lambda lines: [edit(lines[0], runs=7), *lines[1:]], "says runs 7"),
    "its makers": (lambda lines: [edit(lines[0], environments=[]), *lines[1:]], "says environments"),
    "its names": (lambda lines: [edit(lines[0], architectures=["x"]), *lines[1:]], "says architectures"),
    "a field": (lambda lines: [edit(lines[0], more=1), *lines[1:]], "more: Extra inputs"),
    "two heads": (lambda lines: [lines[0], *lines], "line 2"),
    "nonsense": (lambda lines: [*lines, "{"], "Invalid JSON"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_file_is_refused(name: str, store: Path, folder: Path) -> None:
    path = submit("mlp", folder=folder, suite="smoke", store=store).path
    change, said = CHANGES[name]
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change(lines)) + "\n")
    with pytest.raises(ValueError, match=said):
        check_submission(path)


def rewritten(path: Path, runs: list[Record], **head: Any) -> Path:
    """A submission of these runs whose hash is right: what a cheat would send."""
    lines = lines_of(sorted(runs, key=lambda run: run.id))
    digest = hashlib.sha256(lines.encode()).hexdigest()
    first = edit(path.read_text().splitlines()[0], sha256=digest, runs=len(runs), **head)
    new = path.with_name(f"smoke-1-mlp-{digest[:12]}.jsonl")
    new.write_text(f"{first}\n{lines}")
    return new


def test_a_right_hash_does_not_make_it_complete(store: Path, folder: Path) -> None:
    path = submit("mlp", folder=folder, suite="smoke", store=store).path
    runs = battery("mlp")
    assert check_submission(rewritten(path, runs)).head.runs == 12
    with pytest.raises(ValueError, match="says that it is complete, and mlp lacks"):
        check_submission(rewritten(path, runs[:-1]))
    with pytest.raises(ValueError, match="each once"):
        check_submission(rewritten(path, [*runs, runs[0]]))
    quiet = made(SMOKE.settings[0], 1e-3, status="stopped", who=architecture("mlp"), given="mlp")
    quiet = quiet.model_copy(update={"environment": PLACE})
    with pytest.raises(ValueError, match="was stopped, and none of its grid"):
        check_submission(rewritten(path, [run for run in runs if run.id != quiet.id] + [quiet]))
    with pytest.raises(ValueError, match="is called mamba, which is 4"):
        check_submission(rewritten(path, [run.model_copy(update={"given": "mamba"}) for run in runs]))


def test_the_name_is_part_of_it(store: Path, folder: Path) -> None:
    path = submit("mlp", folder=folder, suite="smoke", store=store, label="mine").path
    assert path.name.startswith("mine-")
    for name in ("mine.jsonl", f"other-{path.name[-18:]}", f"mine-{'0' * 12}.jsonl"):
        shutil.copy(path, folder / name)
        with pytest.raises(ValueError, match="submission|calls it|hash"):
            check_submission(folder / name)
    for bad in ("a/b", "..", "A b", ""):
        with pytest.raises(ValueError):
            submit("swiglu", folder=folder, suite="smoke", store=store, label=bad)


BAD = {
    "no folder": ["mlp", "--suite", "smoke"],
    "missing folder": ["mlp", "--suite", "smoke", "-o", "nowhere"],
    "check and folder": ["--check", "x.jsonl", "-o", "."],
    "check missing": ["--check", "smoke-1-mlp-0123456789ab.jsonl"],
    "check other": ["--check", "runs.csv"],
    "unknown suite": ["-o", ".", "--suite", "quik"],
    "label": ["mlp", "--suite", "smoke", "-o", ".", "--label", "../x"],
    "nothing": ["-o", ".", "--suite", "quick"],
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(
    name: str, store: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    monkeypatch.chdir(folder)
    status, out, err = cli("submit", *BAD[name], "--store", store)
    assert status == 2 and out == "" and err.startswith("mad: ") and err.count("\n") == 1, err
    assert "; " in err and not list(folder.iterdir())


def test_the_command_says_what_it_wrote_and_what_comes_next(store: Path, folder: Path, cli: Command) -> None:
    status, out, _ = cli("submit", "mlp", "-o", folder, "--suite", "smoke", "--store", store)
    (path,) = folder.iterdir()
    assert status == 0 and f"mad verify {path}" in out and "complete: " in out and "made on A" in out
    status, out, _ = cli("submit", "--check", path)
    assert status == 0 and "12 runs of 1 architecture, smoke@1" in out
