"""The shape of a spec from its text alone. No name in it is looked up, so reading one runs no code."""

from __future__ import annotations

import re
from collections.abc import Sequence

from architectures.sizes.bounds import MAX_LAYERS, MAX_NESTING

TOKEN = re.compile(
    r"\s*(?:(?P<number>-?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?(?![\w.]))"
    r"|(?P<name>[A-Za-z_][\w.\-]*(?:\+\+)?(?::[A-Za-z_]\w*)?)"
    r"|(?P<mark>[*()\[\]{}+,=]))"
)

# A layer as it is spelled, with the parts inside it: those of a body, or the branches of "+".
Item = tuple[str, tuple["Item", ...]]


def outline(text: str) -> tuple[Item, ...]:
    """The layers of a spec in their order, repeats written out; ValueError where the text is not a spec."""
    return _Outline(text).whole()


def depth(items: Sequence[Item]) -> int:
    """The number of layers, those in branches and bodies too."""
    return sum((name not in ("+", "()")) + depth(inner) for name, inner in items)


class _Outline:
    def __init__(self, text: str) -> None:
        self.words: list[str] = []
        position, end = 0, len(text.rstrip())
        while position < end:
            match = TOKEN.match(text, position)
            if not match:
                raise ValueError(f"not a spec: unexpected {text[position:end].strip()[:1]!r}")
            self.words.append(match[str(match.lastgroup)])
            position = match.end()
        self.words.append("")
        self.here = self.nesting = 0

    def whole(self) -> tuple[Item, ...]:
        items = self.items()
        self.take("")
        return items

    def take(self, word: str | None = None) -> str:
        found = self.words[self.here]
        if word is not None and found != word:
            raise ValueError(f"not a spec: expected {word or 'the end'}, found {found or 'the end'}")
        self.here += 1
        return found

    def items(self) -> tuple[Item, ...]:
        found: list[Item] = []
        size = 0
        while self.words[self.here] not in ("", ")", "}", "+"):
            count = 1
            if self.words[self.here].isdecimal():
                count = int(self.take().lstrip("0")[:5] or 0)
                self.take("*")
            new = self.group() if self.words[self.here] == "(" else (self.layer(),)
            size += count * depth(new)
            if not 1 <= count <= MAX_LAYERS or size > MAX_LAYERS:
                raise ValueError(f"not a spec: expected from 1 to {MAX_LAYERS} layers")
            found += count * new
        if not found:
            raise ValueError("not a spec: expected a layer")
        return tuple(found)

    def group(self) -> tuple[Item, ...]:
        branches = [self.inside("(", ")", more=True)]
        while self.words[self.here - 1] == "+":
            branches.append(self.inside(None, ")", more=True))
        if len(branches) == 1:
            return branches[0]
        return (("+", tuple(("()", branch) for branch in branches)),)

    def layer(self) -> Item:
        name = self.take()
        if not name.replace("_", "a")[:1].isalpha():
            raise ValueError(f"not a spec: expected a layer, found {name or 'the end'}")
        if self.words[self.here] == "[":
            while (word := self.take()) != "]":
                name += word
                if not word:
                    raise ValueError("not a spec: expected ']' to close the options")
            name += word
        return name, self.inside("{", "}") if self.words[self.here] == "{" else ()

    def inside(self, opened: str | None, closed: str, *, more: bool = False) -> tuple[Item, ...]:
        """The items up to `closed`, or with `more` up to a "+"."""
        if opened is not None:
            self.take(opened)
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise ValueError(f"not a spec: more than {MAX_NESTING} brackets inside each other")
        items = self.items()
        self.nesting -= 1
        self.take("+" if more and self.words[self.here] == "+" else closed)
        return items
