"""An architecture as a value: layers, branches, and their canonical spelling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from architectures.grammar.outline import spell_options
from architectures.grammar.presets import PRESETS


@dataclass(frozen=True)
class Layer:
    """One layer: its registered name, the options that differ from its defaults, the body of a wrapper."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()
    body: Spec | None = None

    def __str__(self) -> str:
        return f"{self.name}{spell_options(dict(self.options))}" + (
            f"{{{_fold(self.body.layers)}}}" if self.body else ""
        )


@dataclass(frozen=True)
class Parallel:
    """Branches that read the same normed input and are averaged."""

    branches: tuple[Spec, ...]

    def __str__(self) -> str:
        return f"({' + '.join(_fold(b.layers) for b in self.branches)})"


@dataclass(frozen=True)
class Spec:
    """An architecture: the flat sequence of its layers. Equal specs are equal architectures.

    `str` is canonical, and `parse` reads it back.
    """

    layers: tuple[Layer | Parallel, ...]

    def __str__(self) -> str:
        text = _fold(self.layers)
        return f"1*{text}" if text in PRESETS else text

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer | Parallel]:
        return iter(self.layers)

    def walk(self) -> Iterator[Layer]:
        """Every layer, those in branches and bodies too, in the order of reading."""
        for item in self.layers:
            if isinstance(item, Parallel):
                for branch in item.branches:
                    yield from branch.walk()
            else:
                yield item
                if item.body:
                    yield from item.body.walk()

    def map(self, change: Callable[[Layer], Layer]) -> Spec:
        """The spec with every layer changed, in the order of reading; `change` leaves bodies as they are."""
        items: list[Layer | Parallel] = []
        for item in self.layers:
            if isinstance(item, Parallel):
                items.append(Parallel(tuple(branch.map(change) for branch in item.branches)))
            else:
                new, body = change(item), item.body
                items.append(replace(new, body=body.map(change)) if body and new.body else new)
        return Spec(tuple(items))


def _fold(layers: tuple[Layer | Parallel, ...]) -> str:
    """The layers with one level of repetition: at each place, the repeat that covers most of them."""
    known: dict[Layer | Parallel, int] = {}
    ids = [known.setdefault(layer, len(known)) for layer in layers]  # integers compare faster than layers
    words, i = [], 0
    while i < len(layers):
        best, period = 0, 1
        for p in range(1, (len(layers) - i) // 2 + 1):
            if best == len(layers) - i:
                break
            if ids[i + p] != ids[i]:
                continue
            n = 1
            while ids[i + n * p : i + (n + 1) * p] == ids[i : i + p]:
                n += 1
            if n > 1 and n * p > best:
                best, period = n * p, p
        if best:
            inner = " ".join(str(x) for x in layers[i : i + period])
            words.append(f"{best // period}*{inner}" if period == 1 else f"{best // period}*({inner})")
            i += best
        else:
            words.append(str(layers[i]))
            i += 1
    return " ".join(words)
