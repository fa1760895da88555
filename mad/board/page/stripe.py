"""The layers of a spec as blocks to draw: each with its name and its kind. No layer is looked up or run."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from architectures.grammar import index
from architectures.grammar.outline import Item, SpecError, outline
from mad.messages import printable

# More blocks than these say nothing that their number does not.
MOST_BLOCKS = 48

# [name, kind], and for a wrapper or branches their blocks: [name, kind, [blocks]].
Block = list[Any]


def stripe(spec: str) -> list[Block]:
    """The blocks of a spec in its order, repeats written out; one of kind "other" where it cannot be read."""
    try:
        items = outline(spec)
    except (SpecError, RecursionError):
        return [[printable(spec), "other"]]
    blocks = [_block(item) for item in items[:MOST_BLOCKS]]
    more = len(items) - len(blocks)
    return [*blocks, [f"and {more} more", "other"]] if more else blocks


def _block(item: Item) -> Block:
    name, inside = item
    if not inside:
        return [name, _kind(name)]
    if name == "+":
        return ["in parallel", "branches", [_block(branch) for branch in inside]]
    kind = "branch" if name == "()" else _kind(name)
    return ["" if name == "()" else name, kind, [_block(part) for part in inside[:MOST_BLOCKS]]]


def _kind(name: str) -> str:
    return _known().get(re.split(r"\[", name)[0]) or "other"


@cache
def _known() -> dict[str, str]:
    return {row["name"]: row["kind"] for row in index.read()}
