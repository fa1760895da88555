"""The process between the driver and a worker: it starts the worker and, however that or the driver ends, it
ends all that the worker started, what left the worker's process group too.

It is a program of its own, in which no code of a layer runs. Its arguments are the code of the worker, whose
arguments are where jobs come in and answers go out: what are the keeper's own standard input and output.
"""

import contextlib
import ctypes
import glob
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

# Of prctl, which only Linux has: a signal where the parent dies, and orphans become children of this process.
LINUX = sys.platform == "linux"
PARENT_DIED, ADOPT = 1, 36


def main(code: str) -> None:
    started: list[int] = []

    def end(*_: object) -> None:
        # It may have been waited for a moment ago; what it has left is still to be ended.
        for worker in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    control(ADOPT, 1)
    ways = os.dup(0), os.dup(1)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code, *map(str, ways)],
        stdin=subprocess.DEVNULL,
        stdout=2,
        pass_fds=ways,
        start_new_session=not LINUX,
        preexec_fn=lambda: control(PARENT_DIED, signal.SIGKILL),
    )
    started.append(process.pid)
    threading.Thread(target=_watch, args=(end,), daemon=True).start()
    status = _wait(process.pid)
    started.clear()
    if not LINUX:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    _end_others()
    _end_as(status)


def control(what: int, value: int) -> None:
    if LINUX:
        ctypes.CDLL(None).prctl(what, value, 0, 0, 0)


def _watch(end: Callable[[], None]) -> None:
    """End the worker where nobody can send jobs any more. What was sent is not ours to read."""
    poll = select.poll()
    poll.register(0, 0)  # A hang-up needs no asking.
    poll.poll()
    end()


def _wait(worker: int) -> int:
    """How the worker ended. Orphans that end before it are waited for on the way."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == worker:
            return status


def _end_others() -> None:
    """End whatever the worker left, until nothing is: the children of those that end become ours."""
    with contextlib.suppress(ChildProcessError):
        while True:
            for child in children():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(child, signal.SIGKILL)
            os.waitpid(-1, 0)


def children() -> list[int]:
    """Of this process, where the system lists them."""
    found: list[int] = []
    for path in glob.glob("/proc/self/task/*/children"):
        with open(path) as file:
            found += map(int, file.read().split())
    return found


def _end_as(status: int) -> None:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # The worker's is enough.
        with contextlib.suppress(OSError):  # SIGKILL has no other way.
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    main(sys.argv[1])
