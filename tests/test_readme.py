"""The README is executed: its examples run as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mad.api import scores_of
from mad.board import render
from mad.data.protocol import SUITES
from mad.data.suites import NAMES
from mad.store import Store
from mad.store.exchange import read_records

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def files() -> dict[str, str]:
    return dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", README, flags=re.S))


def blocks(language: str) -> list[str]:
    """The code blocks of a language that are not files."""
    rest = re.sub(r"<!-- file: \S+ -->\n```python\n.*?```", "", README, flags=re.S)
    return re.findall(rf"```{language}\n(.*?)```", rest, flags=re.S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in files().items():
        (tmp_path / name).write_text(text)
    return tmp_path


def execute(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "MAD_STORE": str(folder / "store.sqlite"),
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_examples_of_a_layer_and_a_task_are_short() -> None:
    assert set(files()) == {"ema.py", "reverse.py"}
    for name, text in files().items():
        lines = [
            line for line in text.splitlines() if line.strip() and not line.startswith(("import", "from"))
        ]
        assert len(lines) <= 25, f"{name} has {len(lines)} lines besides its imports"


LINES = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("mad ")]
COMMANDS = sorted({line.split("#")[0].strip() for line in LINES})
QUICK = [c for c in COMMANDS if "ema:Ema" in c or c.startswith(("mad show", "mad tasks", "mad primitives"))]


@pytest.mark.parametrize("command", QUICK)
def test_commands_run(command: str, folder: Path) -> None:
    result = execute(["sh", "-c", command.replace("mad ", f"{sys.executable} -m mad.cli ", 1)], folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_every_suite_and_command_is_named() -> None:
    import typer

    from mad.cli import app

    named = README + (ROOT / "docs" / "concepts.md").read_text()
    assert all(f"`{name}`" in named for name in (*NAMES, *SUITES))
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert all(f"mad {name}" in README for name in commands)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


def test_the_printed_leaderboard_is_that_of_the_records_that_come_along(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    with Store(store) as opened:
        opened.merge(read_records(ROOT / "results" / "quick.jsonl"))
    printed = render(scores_of(suite="quick", store=store), "table", width=120).splitlines()
    # Of a row without its rank: the records have an architecture more.
    rows = {tuple(line.split()[1:]) for line in printed}
    shown = README.split("<!-- output of: mad leaderboard --suite quick -->\n```text\n")[1].split("```")[0]
    for line in filter(None, (line.split()[1:] for line in shown.splitlines()[:7])):
        assert tuple(line) in rows
    assert SUITES["quick"].label in shown
