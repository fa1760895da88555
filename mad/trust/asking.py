"""Probes in processes of their own: whatever becomes of one, the others answer, and all have an end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mad.children import environment


@dataclass(frozen=True)
class Answer:
    """What a probe saw, or what was `raised`; `late` where it had not ended in time."""

    seen: dict[str, Any] | None
    raised: str = ""
    late: bool = False


def ask(groups: Mapping[tuple[str, ...], float]) -> dict[str, Answer]:
    """The answers of all probes. Those of a group share a process, and after one that ends it go on in a new
    one; groups run side by side, each for so many seconds at the most.
    """
    start = time.monotonic()
    answers: dict[str, Answer] = {}
    askers = [
        threading.Thread(target=_ask, args=(names, start + seconds, answers))
        for names, seconds in groups.items()
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    late = {
        name: Answer(None, f"it had not ended after {seconds:g} s", late=True)
        for names, seconds in groups.items()
        for name in names
    }
    return late | answers


def _ask(names: Sequence[str], end: float, answers: dict[str, Answer]) -> None:
    """Ask one after another, and note what each says."""
    left = list(names)
    while left and time.monotonic() < end:
        printed, status = _run(left, end)
        for name, answer in _read(printed):
            if name in left:
                answers[name] = answer
                left = left[left.index(name) + 1 :]
        if status is not None and left:  # It ended with one of them.
            answers[left[0]] = Answer(None, f"{_ended(status)} {_last(printed)}".strip())
            left = left[1:]


def _run(names: Sequence[str], end: float) -> tuple[str, int | None]:
    """What the process prints, and its exit status; None where it had to be ended."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "mad.trust.probes", *names],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,
        )
        status: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(max(end - time.monotonic(), 0))
        if sys.platform == "win32":
            process.kill()
        else:  # With whatever it has started.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        said.seek(0)
        return said.read().decode(errors="replace"), status


def _read(printed: str) -> list[tuple[str, Answer]]:
    """The answers among what libraries have printed."""
    found = []
    for line in printed.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            content = json.loads(line)
            found.append((content["name"], Answer(content.get("seen"), content.get("raised", ""))))
    return found


def _ended(status: int) -> str:
    if status < 0:
        return f"the process was ended by {signal.Signals(-status).name}"
    return f"the process ended with status {status}"


def _last(printed: str) -> str:
    """The last line of what was printed, of a traceback what was raised."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return f"({lines[-1][:300]})" if lines else ""
