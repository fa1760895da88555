"""A run has one driver: the code of a user's layer can neither make a second one nor end it unseen."""

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import torch

from architectures.outside.surroundings import kept

FORKS = ("os.fork", "os.forkpty")
# How deep in `one_driver` each process is.
_inside: dict[int, int] = {}


class _Thread(threading.local):
    """How deep this thread is."""

    depth = 0


_thread = _Thread()


@contextlib.contextmanager
def one_driver() -> Iterator[None]:
    """Refuse os.fork while it is entered, but to multiprocessing, whose children end by themselves; and
    os._exit, after which nobody would know that the run came to nothing.

    A child that came about in another way, and would go on as a driver, ends where it would leave. Other
    programs may be run (subprocess). As a decorator it guards a function.
    """
    _listen()
    driver = os.getpid()
    _inside[driver] = _inside.get(driver, 0) + 1
    _thread.depth += 1
    try:
        with kept():
            # As records say that runs are made, whatever the program has set.
            torch.set_default_dtype(torch.float32)
            torch.set_default_device(None)
            torch.set_grad_enabled(True)
            yield
    finally:
        if os.getpid() != driver:
            os._exit(1)
        _inside[driver] -= 1
        _thread.depth -= 1


@functools.cache
def _listen() -> None:
    sys.addaudithook(_refuse)
    leave = os._exit

    def exit(status: int) -> NoReturn:
        """Python tells nobody of its own; other threads and processes end as they like."""
        if _inside.get(os.getpid()) and _thread.depth:
            raise RuntimeError(
                f"os._exit({status}) is refused here: the run would end unseen; raise an error"
            )
        leave(status)

    os._exit = exit


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in FORKS or not _inside.get(os.getpid()):
        return
    if not sys._getframe(1).f_globals.get("__name__", "").startswith("multiprocessing."):
        raise RuntimeError(
            f"{event}() is refused here: the child would go on as a second driver of the run; start other "
            "programs with subprocess"
        )
