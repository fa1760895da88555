"""How large a number in a spec or in a call may be: what no machine can hold is answered at once, by name."""

from __future__ import annotations

import functools
import math
import os
import sys
from pathlib import Path
from typing import Any

# Of a whole number and of a real one in a layer's options, unless the option declares less.
MOST, MOST_REAL = 2**24, 1e30
# Of a model: the vocabulary, the width of the stream and the tokens of a sequence.
SIZES = {"vocab_size": 2**24, "dim": 2**18, "from_dim": 2**18, "max_len": 2**20, "seq_len": 2**20}
# Of what `solve` is asked for: parameters, state elements, FLOPs per token.
MOST_GOAL = 1e18
# Of a spec: layers as they are run, brackets inside each other, characters.
MAX_LAYERS, MAX_NESTING, MAX_CHARACTERS = 4096, 64, 1_000_000
CONTAINER = Path("/sys/fs/cgroup/memory.max")


def check_sizes(**sizes: Any) -> None:
    """Refuse a size of a model that is not a whole number from 1 to its bound."""
    for name, value in sizes.items():
        if type(value) is not int:
            raise ValueError(f"{name}={shown(value)} is not a whole number; give one such as {name}=128")
        if value < 1:
            raise ValueError(f"{name}={shown(value)} must be at least 1")
        if value > SIZES[name]:
            raise ValueError(f"{name}={shown(value)} must be at most {SIZES[name]:,}; give a smaller one")


def check_goal(name: str, value: Any) -> None:
    """Refuse a goal of `solve` that is not a number from 1 to its bound."""
    if type(value) not in (int, float) or value != value:
        raise ValueError(f"{name}={shown(value)} is not a number; give one such as {name}=4096")
    if not 1 <= value <= MOST_GOAL:
        rule = "least 1" if value < 1 else f"most {MOST_GOAL:g}"
        raise ValueError(f"{name}={shown(value)} must be at {rule}; give another, such as {name}=4096")


def check_number(where: str, value: Any, most: float | None = None) -> None:
    """Refuse a number that is not finite, or further from 0 than `most`; anything else is none and passes."""
    if type(value) not in (int, float):
        return
    if type(value) is float and not math.isfinite(value):
        raise ValueError(f"{where}={value} is refused; expected a finite number")
    bound = most if most is not None else MOST if type(value) is int else MOST_REAL
    if abs(value) > bound:
        limit = f"{int(bound):,}" if bound < 1e15 else f"{bound:g}"
        word = f"least -{limit}" if value < 0 else f"most {limit}"
        raise ValueError(f"{where}={shown(value)} is refused; expected a number of at {word}")


def shown(value: Any) -> str:
    """A value for a message, shortened where it is long; Python spells no integer beyond 4,300 digits."""
    if type(value) is int and abs(value) >= 10**30:
        return f"{'-' if value < 0 else ''}(a number of more than 30 digits)"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


@functools.cache
def _physical() -> int:
    found = [sys.maxsize]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if CONTAINER.is_file() and (text := CONTAINER.read_text().strip()).isdigit():
        found.append(int(text))
    return min(found)


def machine_memory() -> int:
    """Bytes that this process can have at most: the machine's, or what a container or `ulimit -v` leaves."""
    try:
        import resource
    except ImportError:  # There is none on Windows.
        return _physical()
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return _physical() if limit == resource.RLIM_INFINITY else min(_physical(), limit)
