"""Processes that tests start, watch and look for when they should be gone."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

MARK = "MAD_TEST_RUN"


class Run:
    """A program in a session of its own, and whatever it starts: known by a mark in the environment, and by
    the processes that were seen below it.
    """

    def __init__(self, words: list[str], env: dict[str, str] | None = None) -> None:
        self.mark = uuid.uuid4().hex
        self.seen: set[int] = set()
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=os.environ | {"OMP_NUM_THREADS": "1", MARK: self.mark} | (env or {}),
            start_new_session=True,
        )

    def watch(self, until: Callable[[], bool]) -> bool:
        """Look at what runs until something holds: False where the program ended before."""
        while not until():
            self.below()
            if self.process.poll() is not None:
                return False
            time.sleep(0.05)
        return True

    def watch_for(self, seconds: float) -> bool:
        """Until so many seconds have passed since its start."""
        return self.watch(lambda: time.monotonic() - self.started > seconds)

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self.started

    def below(self) -> list[int]:
        """The processes that it started and that run."""
        found = below(self.process.pid)
        self.seen.update(found)
        return found

    def end(self, seconds: float = 300.0) -> tuple[int, str, str]:
        """Its status and what it said, once it has ended."""
        while self.process.poll() is None and time.monotonic() - self.started < seconds:
            self.below()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.communicate(timeout=0.2)
        out, err = self.process.communicate(timeout=10)
        return self.process.returncode, out, err

    def left(self, seconds: float = 20.0) -> list[int]:
        """What is left of it after these seconds; returns as soon as nothing is."""
        end = time.monotonic() + seconds
        while (found := [n for n in self.seen | marked(self.mark) if alive(n)]) and time.monotonic() < end:
            time.sleep(0.05)
        return found


def below(number: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    try:
        found = [
            int(n)
            for task in Path(f"/proc/{number}/task").iterdir()
            for n in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return found + [number for child in found for number in below(child)]


def marked(mark: str) -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in path.read_bytes():
                found.add(int(path.parent.name))
    return found


def alive(number: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{number}/status").read_text()
    except OSError:
        return False


def catches(number: int, signal: int) -> bool:
    """Whether a process handles a signal itself."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{number}/status").read_text()
        return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (signal - 1) & 1)
    return False


def called(number: int) -> str:
    """The command line of a process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def gone(numbers: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(map(alive, numbers)):
            return True
        time.sleep(0.05)
    return False


def mad(*words: str) -> list[str]:
    return [sys.executable, "-m", "mad.cli", *words]
