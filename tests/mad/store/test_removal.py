"""`mad rm`: what is selected, what is said, and that nothing goes that was not named."""

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from mad.store import Store
from mad.store.exchange import export_records, read_records
from scaling.lm.records import LanguageRecord
from tests.commands import Command
from tests.mad.language_records import language
from tests.mad.records import TWO, group, record

RECALL, COMPRESSION = TWO.settings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store.sqlite"
    quick = [run.model_copy(update={"suite": "quick@1"}) for run in group(RECALL, 0.5, 0.6)]
    with Store(path) as store:
        store.commit([*quick, *group(COMPRESSION, 0.5, 0.6, spec="mamba swiglu", given="mine")])
        store.commit([record(RECALL, 7e-3, status="failed")])
        store.commit([language(seed=seed, study=f"study{seed}") for seed in range(2)])
    return path


Remove = Callable[..., tuple[int, list[str], str, int]]


@pytest.fixture
def rm(path: Path, cli: Command) -> Remove:
    """`mad rm` of some words: status, lines, errors and how many runs are left."""

    def rm(*words: str) -> tuple[int, list[str], str, int]:
        status, out, err = cli("rm", *words, "--store", path)
        with Store(path, read_only=True) as store:
            return status, out.splitlines(), err, len(store.entries())

    return rm


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["--suite", "quick"], 2),
        (["--suite", "quick@1"], 2),
        (["--task", "compression"], 2),
        (["--architecture", "mamba swiglu"], 2),
        (["--architecture", "mine"], 2),
        (["--status", "failed"], 1),
        (["--study", "study1"], 1),
        (["--task", "in-context-recall", "--status", "ok"], 2),
    ],
)
def test_options_select_and_remove_with_yes_alone(
    path: Path, words: list[str], count: int, rm: Remove
) -> None:
    status, out, err, left = rm(*words)
    assert (status, len(out), left) == (2, count, 7)
    assert f"{count} run" in err and "nothing was removed; to remove them, add --yes" in err
    status, again, err, left = rm(*words, "--dry-run")
    assert (status, again[:-1], err, left) == (0, out, "", 7)
    status, again, err, left = rm(*words, "--yes")
    assert (status, again[:-1], err, left) == (0, out, "", 7 - count)
    assert again[-1] == f"{count} run{'s' * (count > 1)} removed from {path}"


def test_ids_are_removed_as_they_are_named(path: Path, rm: Remove) -> None:
    with Store(path, read_only=True) as store:
        gone, kept = store.records()[0].id, store.records()[1]
        model = store.records(LanguageRecord)[0].id
    status, out, _, left = rm(gone[:6], gone, model)
    assert (status, left) == (0, 5)
    assert [line.split()[0] for line in out[:-1]] == [gone, model]
    with Store(path, read_only=True) as store:
        assert store.get(gone) is None and store.get(kept.id) == kept
        assert store.get(model, LanguageRecord) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing is selected; give ids, or an option such as --status failed"),
        (["000000"], "no run in"),
        (["not-an-id"], "no run in"),
        (["--status", "fine", "--yes"], "no run in .* matches"),
        (["--unreadable", "--yes"], "no run in .* matches"),
        (["--imported", "--yes"], "no run in .* matches"),
    ],
)
def test_nothing_goes_that_was_not_named(path: Path, words: list[str], message: str, rm: Remove) -> None:
    status, _, err, left = rm(*words)
    assert (status, left) == (2, 7)
    assert re.search(message, err), err


def test_what_cannot_be_understood_is_removed_by_id_or_all_at_once(path: Path, rm: Remove) -> None:
    with Store(path, read_only=True) as store:
        first, second, *_ = store.records()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE runs SET record = '{\"\u202e' WHERE id = ?", [first.id])
        db.execute("UPDATE runs SET id = CAST(x'1bff' AS TEXT) WHERE id = ?", [second.id])
        db.execute("UPDATE language SET record = '[]' WHERE rowid = 1")
    db.close()
    for option in (["--status", "failed"], ["--imported"]):
        status, out, _, left = rm(*option, "--dry-run")
        assert not any("not understood" in line for line in out) and left == 7
    status, out, _, left = rm(first.id)
    assert (status, left) == (0, 6)
    assert out[0].startswith(f"{first.id}  not understood: the line: Invalid JSON") and out[0].isprintable()
    status, out, _, left = rm("--unreadable", "--yes")
    assert (status, left, len(out)) == (0, 4, 3) and all(line.isprintable() for line in out)


def test_what_was_imported_goes_and_what_was_made_here_stays(path: Path, tmp_path: Path, rm: Remove) -> None:
    with Store(tmp_path / "theirs.sqlite") as theirs:
        theirs.commit([record(RECALL, 9e-3), *group(RECALL, 0.5, 0.6)])
        export_records(theirs, tmp_path / "runs.jsonl")
    with Store(path) as store:
        store.merge(read_records(tmp_path / "runs.jsonl"))
        assert len(store.entries()) == 8
    status, out, _, left = rm("--imported", "--yes")
    assert (status, left, len(out)) == (0, 7, 2) and ", imported" in out[0]


def test_removing_makes_no_store(tmp_path: Path, cli: Command) -> None:
    assert "no store at" in cli("rm", "abcdef", "--store", tmp_path / "none.sqlite").err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("id", [b"\x1b\xff", None, 7])
def test_a_row_whose_id_is_no_text_is_named_and_removed(id: object, path: Path, rm: Remove) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE language SET id = ? WHERE rowid = 1", [id])
    db.close()
    status, out, _, left = rm("--unreadable", "--yes")
    assert (status, left, len(out)) == (0, 6, 2) and "its text is that of run" in out[0]
