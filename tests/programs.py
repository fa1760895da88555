"""Programs beside a test that open the same store."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator

START = """
import os, sys
from mad.store import Store
from tests.mad.records import TWO, group, record

AT = TWO.settings[0]
"""


@contextlib.contextmanager
def program(code: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    """A program with the store and some words; killed at the end, if it has not ended."""
    command = [sys.executable, "-c", START + textwrap.dedent(code), *map(str, words)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def says(started: subprocess.Popen[str], word: str) -> None:
    assert started.stdout is not None
    line = started.stdout.readline().strip()
    assert line == word, (line, started.stderr and started.stderr.read())


def go_on(started: subprocess.Popen[str]) -> None:
    assert started.stdin is not None
    started.stdin.write("\n")
    started.stdin.flush()
