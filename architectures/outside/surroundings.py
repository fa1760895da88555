"""What code that is not ours may change for all that comes after it, and how it is put back."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Put back torch's defaults and modes, the current folder and the handlers of signals.

    Variables of the environment stay: what a module sets when it is imported, it sets once.
    """
    before = [(read, write, read()) for read, write in STATE]
    try:
        yield
    finally:
        for read, write, value in before:
            if value is not None and read() != value:
                write(value)


def _precision() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # It was set in two ways, of which torch refuses to make one.
        return None


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # It was removed.
        return None


def _device() -> torch.device:
    """The one that was set as the default, whatever a `with` around says."""
    context = getattr(getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None), "device_context", None)
    return torch.device("cpu") if context is None else context.device


def _set_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)


def _handlers() -> dict[int, Any] | None:
    if threading.current_thread() is not threading.main_thread():
        return None
    return {number: signal.getsignal(number) for number in SIGNALS}


def _set_handlers(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None:  # else it is not Python's
            signal.signal(number, handler)


STATE: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
    (torch.get_default_dtype, torch.set_default_dtype),
    (_device, _set_device),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (_precision, torch.set_float32_matmul_precision),
    (_folder, os.chdir),
    (_handlers, _set_handlers),
]
