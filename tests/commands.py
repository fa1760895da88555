"""The command line run inside a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Told(NamedTuple):
    """What a command line ended with and printed."""

    status: int
    out: str
    err: str


Command = Callable[..., Told]
