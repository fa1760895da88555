"""A process of ours: started, listened to, ended whole, with all that it started."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from mad.children import GLIBC, environment
from mad.run.workers import keeper
from mad.run.workers.worker import receive, send

# Of what a process prints between two messages to it, what is kept, and what is too much, in bytes.
KEPT, FLOOD = 4096, 2**24
# Seconds that it may take to end, and in which what it had sent before arrives.
ENDING, LAST_WORDS = 10.0, 5.0


class Process:
    """A Python program and its keeper. `code` is what it runs, with the numbers of two pipes as arguments:
    where messages come in, and where it sends pairs of a kind and a value, which `said` is called with, in a
    thread. At last it is "lost", and the value says why.

    threads  how many the libraries of arithmetic use; None: as the environment says
    """

    def __init__(self, code: str, *, said: Callable[[str, Any], object], threads: int | None = None) -> None:
        self.code, self.said = code, said
        self.stopped = False
        self._limit = threads
        self._process: subprocess.Popen[bytes] | None = None
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._printed, self._count = b"", 0
        self._counting = threading.Lock()

    def start(self) -> None:
        """Raises OSError or RuntimeError where no process, no thread or no file handle is left."""
        self._process = process = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, self.code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env=GLIBC | environment(self._limit),
        )
        for work in (self._hear, self._drain, self._send, self._await):
            thread = threading.Thread(target=work, args=(process,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def send(self, message: Any) -> None:
        """What was printed before belongs to another message. A process that stands still reads nothing, so
        nobody waits until it has read.
        """
        with self._counting:
            self._printed, self._count = b"", 0
        self._outbox.put(message)

    def stop(self) -> None:
        """Begin to end the process and whatever it started."""
        self.stopped = True
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.terminate()
            self._process.stdin.close()

    def wait(self) -> None:
        """Until it has ended; one that the system does not let go is left to it."""
        if self._process is not None and self._threads:
            self._threads[-1].join(ENDING)
            self._process.kill()
            self._threads[-1].join(ENDING)

    @property
    def printed(self) -> str:
        """The end of what it printed."""
        return self._printed.decode(errors="replace").strip()

    def _send(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # It is gone, and that is said.
            while (message := self._outbox.get()) is not None:
                send(process.stdin, message)

    def _hear(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            try:
                while True:
                    self.said(*receive(stream))
            except (EOFError, OSError):
                pass
            except Exception as error:  # Whatever reading a pickle raises.
                self.said("lost", f"its answer cannot be read ({type(error).__name__}: {error})")

    def _drain(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        with process.stderr as stream:
            while chunk := stream.read(65536):
                with self._counting:
                    self._printed = (self._printed + chunk)[-KEPT:]
                    before, self._count = self._count, self._count + len(chunk)
                if before <= FLOOD < self._count:
                    self.said("lost", f"it printed more than {FLOOD >> 20} MiB")

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        # What a keeper that was killed has left, while the number of the group still belongs to it.
        if hasattr(os, "waitid"):
            with contextlib.suppress(ChildProcessError, ProcessLookupError, PermissionError):
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
                os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
        assert process.stdin is not None
        process.stdin.close()
        self._outbox.put(None)
        for thread in self._threads[:2]:
            thread.join(LAST_WORDS)
        self.said("lost", _ended(status))


def _ended(status: int) -> str:
    if status >= 0:
        return f"its process ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = ", perhaps because the system ran out of memory: try fewer --workers" if name == "SIGKILL" else ""
    return f"its process was killed ({name}){hint}"
