"""What continuous integration does with a change under results/."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SUBMITTED = "quick-1-mlp-0123456789ab.jsonl"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with results, and a `mad` that notes how it is called and with what."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / "results").mkdir()
    shutil.copy(ROOT / ".ci" / "verify-results", tmp_path / ".ci")
    (tmp_path / "mad").write_text(
        '#!/bin/sh\necho "$1 $2 $3 $4 $5 $6" | sed "s#/[^ ]*/##" >> "$NOTES"\n'
        '[ "$1" = verify ] && cat "$2" >> "$NOTES"\n[ "$1" != "$BAD" ]\n'
    )
    (tmp_path / "mad").chmod(0o755)
    (tmp_path / "results" / "old.jsonl").write_text('{"id":"1"}\n')
    (tmp_path / "results" / "gone.jsonl").write_text('{"id":"9"}\n')
    git(tmp_path, "init", "-q", "-b", "main")
    commit(tmp_path)
    git(tmp_path, "branch", "base")
    return tmp_path


def git(where: Path, *words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *who, *words], cwd=where, check=True, capture_output=True)


def commit(where: Path) -> None:
    git(where, "add", "-A", "--", ":!notes")
    git(where, "commit", "-qm", "results")


def ask(where: Path, bad: str = "nothing") -> tuple[int, str, list[str]]:
    notes = where / "notes"
    notes.write_text("")
    env = {"MAD": "./mad", "NOTES": str(notes), "BAD": bad, "SEED": "4294967303", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([".ci/verify-results", "base"], cwd=where, env=env, capture_output=True, text=True)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout, notes.read_text().splitlines()


def test_new_lines_of_every_file_are_run_again_and_submissions_looked_through(repository: Path) -> None:
    results = repository / "results"
    (results / "old.jsonl").write_text('{"id":"1"}\n{"kind":"language","id":"2"}\n{"id":"3"}\n')
    (results / SUBMITTED).write_text('{"kind":"submission"}\n{"id":"4"}\n')
    (results / "odd name.jsonl").write_text('{"kind":"language","id":"5"}\n')
    (results / "picture.png").write_bytes(b"\x89PNG")
    (results / "gone.jsonl").unlink()
    commit(repository)
    status, said, notes = ask(repository)
    assert status == 0
    assert notes == [
        "verify added.jsonl --sample 1 --seed 7",
        '{"id":"3"}',
        f"submit --check {SUBMITTED}   ",
        "verify added.jsonl --sample 1 --seed 7",
        '{"id":"4"}',
    ]
    for sentence in (
        "judge: results/gone.jsonl",
        "judge: results/picture.png",
        "added: results/odd name.jsonl",
    ):
        assert sentence in said


@pytest.mark.parametrize("bad", ["verify", "submit"])
def test_one_that_fails_fails_all_and_the_others_are_still_asked(bad: str, repository: Path) -> None:
    (repository / "results" / SUBMITTED).write_text('{"id":"4"}\n')
    (repository / "results" / "z.jsonl").write_text('{"id":"5"}\n')
    commit(repository)
    status, _, notes = ask(repository, bad)
    assert status == 1 and '{"id":"5"}' in notes


def test_nothing_added_is_nothing_to_do(repository: Path) -> None:
    (repository / "readme").write_text("x")
    commit(repository)
    assert ask(repository) == (0, "", [])
