"""The axes of a layer's tensors: what widths they are made of, and how each of them grows.

An axis is spelled by the letters whose product it is, the slowest first: "GRK" is G groups of R query heads
of K channels. "+" joins parts that lie behind each other, "." is an axis that never grows.

    G groups of heads, each with one key and value head    R query heads per group    H heads without groups
    K key width    V value width    D model width    F inner width    P rank of a controller
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What a layer says about its widths, for growth and for submodels.

    sizes       letter -> its size
    tensors     tensor -> its axes, separated by spaces; it may name tensors that an option leaves out
    zero        letter -> tensors whose new entries are zero when it grows; those of all others are free
    options     option that fixes a size -> the letters whose product it is, or its value where it is fixed
    proved      whether the rules were written for this layer, rather than read from its shapes
    rotated     key channels that RoPE turns in pairs (i, i + half), which come before the others
    scaled      the tensor that takes a factor where the score scale becomes that of a wider key
    unscalable  the option that would take this factor away
    fixed       letters that no layer inside may grow
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)
    zero: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    options: Mapping[str, str | int] = field(default_factory=dict)
    proved: bool = True
    rotated: int = 0
    scaled: str = ""
    unscalable: str = ""
    fixed: tuple[str, ...] = ()

    def options_at(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The options that give the layer these sizes."""
        return {
            name: value if isinstance(value, int) else math.prod(sizes[letter] for letter in value)
            for name, value in self.options.items()
        }

    def also(self, tensors: Mapping[str, str], **zero: tuple[str, ...]) -> Axes:
        """These axes and those of more tensors, some of them zero where a letter grows."""
        more = {letter: (*self.zero.get(letter, ()), *names) for letter, names in zero.items()}
        return dataclasses.replace(self, tensors={**self.tensors, **tensors}, zero={**self.zero, **more})

    def among(self, names: Iterable[str]) -> Axes:
        """The axes of those tensors that exist."""
        present = set(names)
        return dataclasses.replace(self, tensors={n: a for n, a in self.tensors.items() if n in present})


def inner_axes(inner: int, tensors: Mapping[str, str], *down: str) -> Axes:
    """The axes of a channel mixer of inner width F that writes with `down`."""
    zero = dict.fromkeys("FD", down)
    return Axes(sizes={"F": inner}, tensors=tensors, zero=zero, options={"inner": "F"})
