"""Tasks on spawned processes that outlive the death of one: each worker serves tasks until there are no more.

The standard pool gives up all tasks when one worker is killed; here that task alone comes back as lost.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from mad.children import prepare_children

# Seconds that a worker has to end its step when it is told to.
GRACE = 10.0


@dataclass(frozen=True)
class Outcome:
    """What came of a task: a value, or why there is none. `lost`: its process died."""

    value: Any = None
    error: str | None = None
    lost: bool = False


def run_all(
    function: Callable[[Any, Any], Any],
    shared: Any,
    tasks: Sequence[Any],
    *,
    workers: int,
    begin: Callable[[int], bool] = lambda number: True,
) -> Iterator[tuple[int, Outcome]]:
    """`function(shared, task)` of every task, as (number of the task, outcome) in the order of ending.

    At most `workers` processes run at a time and begin the tasks in the given order; `shared` is sent once to
    each. `function` must be importable by name. A task whose number `begin` answers with False, when its turn
    has come, is left out. Leaving the loop, control-C too, ends the processes.
    """
    waiting = deque(enumerate(tasks))
    processes: dict[Connection, BaseProcess] = {}
    busy: dict[Connection, int] = {}
    idle: list[Connection] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                number, task = waiting.popleft()
                if not begin(number):
                    continue
                connection = idle.pop() if idle else _start(processes, function, shared)
                busy[connection] = number
                # A worker that died at its start is found out below, as one that dies at work.
                _send(connection, task)
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                number = busy.pop(ready)
                try:
                    outcome = ready.recv()
                except (EOFError, ConnectionResetError):
                    process = processes.pop(ready)
                    process.join()
                    ready.close()
                    yield number, Outcome(error=f"its process ended with {_exit(process)}", lost=True)
                else:
                    idle.append(ready)
                    yield number, outcome
    finally:
        for connection, process in processes.items():
            process.terminate()
            connection.close()
        for process in processes.values():
            process.join(GRACE)
            process.kill()  # One that does not end by itself; the others are gone.
            process.join()


def _start(
    processes: dict[Connection, BaseProcess], function: Callable[[Any, Any], Any], shared: Any
) -> Connection:
    """One more process, by its connection."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    prepare_children()
    process = context.Process(target=_serve, args=(theirs, function), daemon=True)
    process.start()
    theirs.close()
    processes[ours] = process
    _send(ours, shared)
    return ours


def _send(connection: Connection, value: Any) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.send(value)


def _serve(connection: Connection, function: Callable[[Any, Any], Any]) -> None:
    """A worker: the driver alone answers control-C, and a worker does not outlive the driver."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    shared = connection.recv()
    while True:
        task = connection.recv()
        try:
            outcome = Outcome(function(shared, task))
        except BaseException as error:  # What a task raises is its outcome; the worker serves the next.
            outcome = Outcome(error="".join(traceback.format_exception(error)))
        connection.send(outcome)


def _end_with_the_driver() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _exit(process: BaseProcess) -> str:
    code = process.exitcode
    return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
