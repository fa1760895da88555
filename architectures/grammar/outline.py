"""A spec as text: its tokens, its errors, its shape. No name is looked up, so reading one runs no code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from architectures.sizes.bounds import MAX_LAYERS, MAX_NESTING

TOKEN = re.compile(
    r"\s*(?:(?P<number>-?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?(?![\w.]))"
    r"|(?P<name>[A-Za-z_][\w.\-]*(?:\+\+)?(?::[A-Za-z_]\w*)?)"
    r"|(?P<mark>[*()\[\]{}+,=]))"
)

# A layer as it is spelled, with the parts inside it: those of a body, or the branches of "+".
Item = tuple[str, tuple["Item", ...]]
_T = TypeVar("_T")


def outline(text: str) -> tuple[Item, ...]:
    """The layers of a spec in their order, repeats written out; SpecError where the text is not a spec."""
    return tuple(_Outline(text).parse())


def depth(items: Sequence[Item]) -> int:
    """The number of layers, those in branches and bodies too."""
    return sum((name not in ("+", "()")) + depth(inner) for name, inner in items)


def spell(value: Any) -> str:
    """A value as the grammar writes it: none, true, false, 4, 0.5, word."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def spell_options(options: Mapping[str, Any]) -> str:
    """[name=value, name=value], "" for none."""
    return f"[{', '.join(f'{name}={spell(value)}' for name, value in options.items())}]" if options else ""


class SpecError(ValueError):
    """A spec that cannot be read; the message shows the string with a caret."""

    def __init__(self, message: str, text: str, column: int) -> None:
        # A line break or a control character would move the caret away from what it points at.
        line = "".join(c if c.isprintable() else " " for c in text)
        if len(line) > 120:
            start = max(0, column - 60)
            before, after = "..." if start else "", "..." if len(line) > column + 40 else ""
            line, column = before + line[start : column + 40] + after, column - start + len(before)
        super().__init__(f"{message}\n  {line}\n  {' ' * column}^")


class Reader(Generic[_T]):
    """Recursive descent over the tokens, `here` the place of the current one; a subclass makes the layers."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        position, end = 0, len(text.rstrip())
        while position < end:
            match = TOKEN.match(text, position)
            if not match:
                column = end - len(text[position:end].lstrip())
                raise SpecError(
                    f"{text[column]!r} is not part of the grammar; expected a layer", text, column
                )
            kind = str(match.lastgroup)
            self.tokens.append((kind, match[kind], match.start(kind)))
            position = match.end()
        self.tokens.append(("end", "", len(text)))
        self.here = self.nesting = 0

    def layer(self) -> list[_T]:
        """What the name at `here` stands for, read to its end."""
        raise NotImplementedError

    def parallel(self, branches: list[list[_T]]) -> _T:
        raise NotImplementedError

    def count(self, items: list[_T]) -> int:
        """The number of layers as they are run."""
        raise NotImplementedError

    def parse(self) -> list[_T]:
        items = self.items()
        if self.kind != "end":
            expected = "parentheses around '+'" if self.word == "+" else "a layer, a number or the end"
            raise self.error(f"unexpected {self.word!r}; expected {expected}")
        return items

    @property
    def kind(self) -> str:
        return self.tokens[self.here][0]

    @property
    def word(self) -> str:
        return self.tokens[self.here][1]

    @property
    def column(self) -> int:
        return self.tokens[self.here][2]

    @property
    def found(self) -> str:
        return repr(self.word) if self.word else "the end"

    def error(self, message: str, column: int | None = None) -> SpecError:
        return SpecError(message, self.text, self.column if column is None else column)

    def take(self, word: str, why: str) -> None:
        if self.word != word:
            raise self.error(f"expected {word!r} {why}, found {self.found}")
        self.here += 1

    def items(self) -> list[_T]:
        """item+"""
        items: list[_T] = []
        size = 0
        while self.kind in ("number", "name") or self.word == "(":
            start = self.column
            repeats = self.repeats() if self.kind == "number" else 1
            if self.word != "(" and self.kind != "name":
                raise self.error(f"expected a layer or '(', found {self.found}")
            new = self.group() if self.word == "(" else self.layer()
            # Counted before anything is repeated: nested repeats multiply.
            size += repeats * self.count(new)
            if size > MAX_LAYERS:
                raise self.error(
                    f"more than {MAX_LAYERS} layers; expected a smaller number of repeats", start
                )
            items += repeats * new
        if not items:
            raise self.error(f"expected a layer, a number of repeats or '(', found {self.found}")
        return items

    def repeats(self) -> int:
        """INT '*'"""
        digits = self.word.lstrip("0")
        if not self.word.isdigit() or not digits:
            raise self.error(f"{self.word} repeats; expected a whole number of at least 1")
        if len(digits) > len(str(MAX_LAYERS)) or int(digits) > MAX_LAYERS:
            raise self.error(f"too many repeats; expected at most {MAX_LAYERS} layers")
        self.here += 1
        self.take("*", "after a number of repeats")
        return int(digits)

    def group(self) -> list[_T]:
        """'(' spec ('+' spec)* ')'"""
        self.open()
        branches = [self.items()]
        while self.word == "+":
            self.here += 1
            branches.append(self.items())
        self.close(")", "to close the group")
        return branches[0] if len(branches) == 1 else [self.parallel(branches)]

    def body(self, name: str) -> list[_T]:
        """'{' spec '}'"""
        self.open()
        items = self.items()
        self.close("}", f"to close the body of {name}")
        return items

    def open(self) -> None:
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise self.error(f"nested too deeply; expected at most {MAX_NESTING} brackets inside each other")
        self.here += 1

    def close(self, word: str, why: str) -> None:
        self.take(word, why)
        self.nesting -= 1


class _Outline(Reader[Item]):
    def parse(self) -> list[Item]:
        self.options()  # of the model
        return super().parse()

    def options(self) -> None:
        if self.word == "[":
            while self.word != "]" and self.kind != "end":
                self.here += 1
            self.take("]", "to close the options")

    def layer(self) -> list[Item]:
        name, here = self.word, self.here
        self.here += 1
        if self.word == "[":
            self.options()
            name = "".join(word for _, word, _ in self.tokens[here : self.here])
        return [(name, tuple(self.body(name)) if self.word == "{" else ())]

    def parallel(self, branches: list[list[Item]]) -> Item:
        return "+", tuple(("()", tuple(branch)) for branch in branches)

    def count(self, items: list[Item]) -> int:
        return depth(items)
