"""Sequence-model architectures as strings of layers.

Names are resolved on first use, so importing this package is cheap. The decorators for new layers,
`primitive` and `variant`, are in `architectures.registry`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from architectures.grammar.presets import ModelOptions
    from architectures.grammar.spec import Spec
    from architectures.grammar.stripe import SpecError, parse, scale
    from architectures.model import SequenceModel, build
    from architectures.primitive import Context, Hint, Primitive, State, option
    from architectures.registry import get, names
    from architectures.sizes.accounting import Account, account
    from architectures.sizes.solving import Solution, solve

_NAMES = {
    "sizes.accounting": ("Account", "account"),
    "sizes.solving": ("Solution", "solve"),
    "model": ("SequenceModel", "build"),
    "grammar.presets": ("ModelOptions",),
    "primitive": ("Context", "Hint", "Primitive", "State", "option"),
    "registry": ("get", "names"),
    "grammar.spec": ("Spec",),
    "grammar.stripe": ("SpecError", "parse", "scale"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Account",
    "Context",
    "Hint",
    "ModelOptions",
    "Primitive",
    "SequenceModel",
    "Solution",
    "Spec",
    "SpecError",
    "State",
    "account",
    "build",
    "get",
    "names",
    "option",
    "parse",
    "scale",
    "solve",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'architectures' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"architectures.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
