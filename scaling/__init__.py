"""Scaling laws: from language-model runs to compute-optimal and state-optimal laws.

    >>> import scaling
    >>> law = scaling.fit(frame)                                   # doctest: +SKIP
    >>> law.n_opt(1e21), law.tokens_per_param(1e21)                # doctest: +SKIP

A frame has one row per run, with columns params, tokens and loss (nats per token) or ppl, and where known
arch, flops, state and budget; `scaling.laws.runs` says what is refused. `scaling.read` takes files and
frames with other names. The functions are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaling.laws.comparison import compare
    from scaling.laws.fitting import FittedLaw, fit
    from scaling.laws.isoflops import isoflop
    from scaling.laws.law import Law
    from scaling.laws.penalty import overtraining
    from scaling.laws.runs.cleaning import NotIdentified, Status
    from scaling.laws.runs.rows import Runs, read
    from scaling.laws.state import state_law
    from scaling.scores.relation import relate

# The kinds of records that stores hold for this package.
RECORDS = ("scaling.lm.records:LanguageRecord",)

_HOMES = {
    "FittedLaw": "laws.fitting",
    "Law": "laws.law",
    "NotIdentified": "laws.runs.cleaning",
    "Runs": "laws.runs.rows",
    "Status": "laws.runs.cleaning",
    "compare": "laws.comparison",
    "fit": "laws.fitting",
    "isoflop": "laws.isoflops",
    "overtraining": "laws.penalty",
    "read": "laws.runs.rows",
    "relate": "scores.relation",
    "state_law": "laws.state",
}

__all__ = [
    "FittedLaw",
    "Law",
    "NotIdentified",
    "Runs",
    "Status",
    "compare",
    "fit",
    "isoflop",
    "overtraining",
    "read",
    "relate",
    "state_law",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'scaling' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"scaling.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
