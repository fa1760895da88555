"""Scaling laws: from language-model runs to compute-optimal and state-optimal laws.

    >>> import scaling
    >>> law = scaling.fit(frame)                                   # doctest: +SKIP
    >>> law.n_opt(1e21), law.tokens_per_param(1e21)                # doctest: +SKIP

A frame has one row per run, with columns params, tokens and loss (nats per token) or ppl, and where known
arch, flops, state and budget; `scaling.runs` says what is refused. `scaling.read` takes files and frames with
other names. The functions are imported on first use.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaling.compare import compare
    from scaling.fit import FittedLaw, fit
    from scaling.isoflop import isoflop
    from scaling.law import Law
    from scaling.overtraining import overtraining
    from scaling.relate import relate
    from scaling.rows import read
    from scaling.runs import NotIdentified, Status
    from scaling.state import state_law

_HOMES = {
    "FittedLaw": "fit",
    "Law": "law",
    "NotIdentified": "runs",
    "Status": "runs",
    "compare": "compare",
    "fit": "fit",
    "isoflop": "isoflop",
    "overtraining": "overtraining",
    "read": "rows",
    "relate": "relate",
    "state_law": "state",
}

__all__ = [
    "FittedLaw",
    "Law",
    "NotIdentified",
    "Status",
    "compare",
    "fit",
    "isoflop",
    "overtraining",
    "read",
    "relate",
    "state_law",
]


class _Package(ModuleType):
    """`scaling.fit` is the function, although a module has the same name: importing one sets the other."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOMES.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'scaling' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"scaling.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
