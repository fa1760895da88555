"""Numbers that a model computes with and that are not tensors: score scales, divisors and epsilons of norms.

A fresh model derives them from its widths. A grown one keeps those of the widths at which it was trained, so
they belong to the model as its weights do.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

STORED = ("scale", "divisor", "eps", "rotary_width", "head_scale", "offset")

Numbers = dict[str, dict[str, float]]


def stored_numbers(model: nn.Module) -> Numbers:
    """Dotted name of a module -> its stored numbers by name; "" is the model itself."""
    found = {}
    for path, module in model.named_modules():
        own = {name: vars(module)[name] for name in STORED if isinstance(vars(module).get(name), int | float)}
        if own:
            found[path] = own
    return found


def carry_numbers(old: nn.Module, new: nn.Module, source: Callable[[str], str] = lambda path: path) -> None:
    """Give a model the numbers of another; `source` tells what a module of the new one is called in the old.

    A module that the old one does not have keeps its own.
    """
    numbers, kept = stored_numbers(new), stored_numbers(old)
    for path, own in numbers.items():
        own.update({name: value for name, value in kept.get(source(path), {}).items() if name in own})
    restore_numbers(new, numbers)


def restore_numbers(model: nn.Module, numbers: Numbers) -> None:
    """Write them into a model that has the same ones; anything else is refused."""
    present = stored_numbers(model)
    if {p: set(n) for p, n in present.items()} != {p: set(n) for p, n in numbers.items()}:
        raise ValueError("the stored numbers are not those of this architecture")
    for path, values in numbers.items():
        module = model.get_submodule(path)
        for name, value in values.items():
            if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
                raise ValueError(f"the stored number {path}.{name}={value!r} is not a finite number >= 0")
            setattr(module, name, value)
