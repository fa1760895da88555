"""Well-formed extremes are answered or refused in one line, soon and in little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytest.importorskip("resource")


def ask(seed: int, count: int, seconds: float) -> None:
    command = [sys.executable, "-m", "tests.extremes", str(seed), str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, f"{done.stdout[-5000:]}\n{done.stderr[-3000:]}"


def test_some_extremes_are_answered_or_refused() -> None:
    ask(seed=0, count=150, seconds=300)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 110))
def test_ten_thousand_extremes_are_answered_or_refused(seed: int) -> None:
    ask(seed, count=1000, seconds=3600)
