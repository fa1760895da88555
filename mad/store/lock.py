"""Several programs on one machine take turns at a store: one transaction at a time, one driver per group."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# Seconds that a writer waits for another, which holds the store for one transaction: milliseconds, or as long
# as an import takes. POLL: between two tries.
WAIT, POLL = 60.0, 0.02
# Characters of the holder's command line that are kept.
LONGEST_COMMAND = 200


class Lock:
    """The lock file of a store: its first byte is held for a transaction, and one of the others by the driver
    that runs a group. The system lets go of all of them when the process dies, however it dies.

    Locks are those of a process: two stores that one process opens are kept apart by SQLite alone, and where
    there are no such locks (Windows) nobody knows what another driver runs.
    """

    def __init__(self, store: Path) -> None:
        self._store, self.path = store, store.with_name(f"{store.name}.lock")
        self._open()

    def _open(self) -> None:
        self._file = open(self.path, "a+b", buffering=0)

    def close(self) -> None:
        """Let go of everything."""
        self._file.close()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The right to write; a ValueError names who did not let go of it for `WAIT` seconds."""
        end = time.monotonic() + WAIT
        while not self._take(0) or self._is_replaced():
            if time.monotonic() > end:
                raise ValueError(
                    f"store {self._store} has been held for {WAIT:g} s by {self._holder()}; wait for it to "
                    "end, or pass another --store and merge later with `mad export` and `mad import`"
                )
            time.sleep(POLL)
        try:
            self._sign()
            yield
        finally:
            self._let_go(0)

    def claim(self, group: str) -> bool:
        """Take a group by its id, for as long as the lock is open or until `release`; False where another
        program has it.
        """
        return self._take(_byte(group))

    def release(self, group: str) -> None:
        self._let_go(_byte(group))

    def _take(self, byte: int) -> bool:
        if sys.platform == "win32":
            return True
        import fcntl

        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):  # Systems differ.
            return False
        return True

    def _let_go(self, byte: int) -> None:
        if sys.platform != "win32":
            import fcntl

            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)

    def _is_replaced(self) -> bool:
        """Whether the file was removed, so that others lock another one; from now on we do, too."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path)):
                return False
        self._file.close()
        self._open()
        return True

    def _sign(self) -> None:
        """Say who holds the lock, if there is room for that."""
        self._file.truncate(0)
        with contextlib.suppress(OSError):
            command = " ".join(sys.argv)[:LONGEST_COMMAND]
            self._file.write(f"process {os.getpid()} ({command})".encode(errors="replace"))

    def _holder(self) -> str:
        self._file.seek(0)
        return self._file.read(4 * LONGEST_COMMAND).decode(errors="replace") or "another process"


def _byte(group: str) -> int:
    """The place of a group in the lock file, which need not be as long: 60 bits of its id."""
    return 1 + int(group[:15], 16)
