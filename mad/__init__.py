"""Mechanistic architecture design: benchmark sequence-model architectures on synthetic tasks.

    >>> import mad
    >>> mad.bench("2*(mh-attention swiglu)", suite="quick")        # doctest: +SKIP
    >>> mad.leaderboard(suite="quick")                             # doctest: +SKIP

The functions are imported on first use: importing this is cheap.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mad.api import Setting, Suite, bench, check, compare, leaderboard, leaderboard_page, runs, train

    __version__: str

__all__ = [
    "Setting",
    "Suite",
    "bench",
    "check",
    "compare",
    "leaderboard",
    "leaderboard_page",
    "runs",
    "train",
]

# Lightning takes one of these for a number when it is imported. We start our own processes and need none.
for _name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
    if not os.environ.get(_name, "0").strip().lstrip("+-").isdecimal():
        del os.environ[_name]


def __getattr__(name: str) -> Any:
    value: Any
    if name == "__version__":
        try:
            value = importlib.metadata.version("mad-suite")
        except importlib.metadata.PackageNotFoundError:  # It runs from a folder that was not installed.
            value = "0+unknown"
    elif name in __all__:
        value = getattr(importlib.import_module("mad.api"), name)
    else:
        raise AttributeError(f"module 'mad' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
