"""Trackers as the process that trains sees them: told things, never waited for."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from mad.children import environment
from mad.data.stored import StoredRecord
from mad.data.trails import Head, Row
from mad.messages import last_words, note
from mad.tracking import Roster, Tracking
from mad.tracking.teller import Message, Opening

START = "from mad.tracking.teller import main; main()"
# Messages that wait for a tracker; what comes then is left out.
MOST_WAITING = 2000
# Seconds that a tracker has to end: after the runs, and where they were broken off.
PATIENCE, IMPATIENCE = 60.0, 10.0
# Seconds of them in which nothing is said.
QUIET = 3.0
# Bytes of what a tracker printed that are read where it fails.
KEPT = 65536


class Mirror:
    """Tells each tracker what happens, in a process of its own. As a context it ends them.

    live  what is told of happens here and now, and does not wait; else it happened before, and waits for the
          trackers as long as they take
    """

    def __init__(self, tracking: Tracking, roster: Roster, *, live: bool = True) -> None:
        self.tracking, self.roster, self.live = tracking, roster, live
        self.lines: list[_Line] = []

    def begin(self, heads: Sequence[Head]) -> None:
        """Runs that begin together: a grid."""
        self._tell(("begin", heads))

    def log(self, points: Mapping[str, Sequence[Row]]) -> None:
        """New points of their curves, by their ids."""
        self._tell(("log", points))

    def end(self, records: Sequence[StoredRecord]) -> None:
        """What came of them."""
        self._tell(("end", records))

    def show(self, records: Sequence[StoredRecord]) -> None:
        """Runs that were made before, or elsewhere."""
        self._tell(("show", records))

    def _tell(self, message: Message) -> None:
        if not self.lines:  # What is refused before it begins has begun no tracker.
            names = self.tracking.names
            self.lines = [_Line(name, self.tracking, self.roster, live=self.live) for name in names]
        for line in self.lines:
            line.tell(message)

    def __enter__(self) -> Mirror:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        patience = PATIENCE if kind is None else IMPATIENCE
        deadline = time.monotonic() + patience if self.live or kind is not None else None
        for line in self.lines:
            line.hang_up()
        try:
            for line in self.lines:
                line.close(deadline)
        except KeyboardInterrupt:
            for line in self.lines:
                line.kill()
            raise

    @property
    def failed(self) -> list[str]:
        """The trackers that did not hear all."""
        return [line.name for line in self.lines if line.failure is not None or line.missed]


class _Line:
    """To one tracker: a queue, a thread that empties it into a pipe, a process at its other end."""

    def __init__(self, name: str, tracking: Tracking, roster: Roster, *, live: bool) -> None:
        self.name, self.live = name, live
        self.failure: str | None = None
        self.missed = 0
        self._waiting: queue.Queue[Message | Opening | None] = queue.Queue(MOST_WAITING)
        self._printed = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-c", START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            start_new_session=True,
            env=environment(threads=1),
        )
        driver = os.getpid() if live else None
        self._waiting.put(
            Opening(name=name, tracking=tracking, roster=roster, driver=driver, patience=PATIENCE)
        )
        self._closing = False
        self._threads = [threading.Thread(target=f, daemon=True) for f in (self._send, self._hear)]
        for thread in self._threads:
            thread.start()

    def tell(self, message: Message) -> None:
        if not self._put(message) and self.failure is None:
            self.missed += 1

    def hang_up(self) -> None:
        """Nothing follows."""
        self._closing = True
        self._put(None)  # Where there is no room for it, `_send` finds out behind the last message.

    def _put(self, message: Message | None) -> bool:
        """Whether there was room for it. What happened before waits for room."""
        while self.failure is None:
            with contextlib.suppress(queue.Full):
                self._waiting.put(message, block=not self.live, timeout=None if self.live else 1.0)
                return True
            if self.live:
                break
        return False

    def close(self, deadline: float | None) -> None:
        """Wait until the tracker has ended, not beyond the deadline."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(QUIET)
        if deadline is not None and self._process.poll() is None:
            note(f"waiting for tracker {self.name}, {max(deadline - time.monotonic(), 0):.0f} s at the most")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(None if deadline is None else max(deadline - time.monotonic(), 0.1))
        if self._process.poll() is None:
            self.kill()
            self._fail("it did not end in time")
        for thread in self._threads:
            thread.join(5.0)
        if self.failure is None and self.missed:
            self._say(f"could not keep up, and missed {self.missed:,} messages")
        self._printed.close()

    def kill(self) -> None:
        """End the process and whatever it started."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()
        self._process.wait()

    def _send(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError), self._process.stdin as pipe:  # It is gone, and that is said.
            while (message := self._waiting.get()) is not None:
                pickle.dump(message, pipe)
                pipe.flush()
                if self._closing and self._waiting.empty():
                    break

    def _hear(self) -> None:
        """Pass on what the tracker says, and find out that it has ended."""
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            for line in pipe:
                note(f"tracker {self.name}: {line.decode(errors='replace')}")
        status = self._process.wait()
        if status or not self._closing:
            self._printed.seek(max(self._printed.seek(0, os.SEEK_END) - KEPT, 0))
            printed = self._printed.read().decode(errors="replace")
            self._fail(last_words(printed) if printed.strip() else f"its process ended with status {status}")

    def _fail(self, reason: str) -> None:
        if self.failure is None:
            self.failure = reason
            self._say(f"ended: {reason}")

    def _say(self, what: str) -> None:
        later = f"; `mad track push --track {self.name}` tells it later what the store holds"
        note(f"tracker {self.name} {what}{later if self.live else ''}")
