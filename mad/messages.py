"""What people are told: on one line where it is an error or a note, and without control characters."""

import difflib
import logging
import re
import sys
from collections.abc import Iterable

# Printable to Python, shown as nothing: fillers, joiners, selectors of variants, the empty braille cell.
INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)

LONGEST_LINE = 4000


def printable(text: str, *, lines: bool = False) -> str:
    """The text with "?" for what a terminal would obey, hide or reorder; `lines` keeps its line breaks.

    Names and errors come from other people's records and files: control characters, marks that turn the
    direction of writing and characters without width can make a table say what is not there.
    """
    text = INVISIBLE.sub("?", text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or (lines and c == "\n") else "?" for c in text)


def say(text: str) -> None:
    """Print a text of several lines, whatever names are in it."""
    sys.stdout.write(printable(text if text.endswith("\n") else f"{text}\n", lines=True))


def one_line(message: str) -> str:
    """A message on one line; where a caret pointed at a column, it stands in the text instead.

    Of one longer than `LONGEST_LINE` characters, which a layer or a file brought, the end is left out.
    """
    lines = [line for line in message.splitlines() if line.strip()]
    if len(lines) >= 3 and lines[-1].strip() == "^":
        text = lines[-2].strip()
        column = lines[-1].index("^") - lines[-2].index(text)
        words = [*lines[:-2], f"(here ^): {text[:column]}^{text[column:]}".replace("  ", " ")]
    else:
        words = [line.strip() for line in lines]
    return brief(" ".join(words))


def brief(text: str) -> str:
    """The text as it can be shown on a line of its own: printable, the end of a very long one left out."""
    text = printable(text)
    return text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]} ... ({len(text):,} characters)"


def counted(count: int, noun: str) -> str:
    """The number with its noun: 1 run, 2 runs."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def near(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The nearest of the known names, for the message that refuses one: "; did you mean 'quick'?"."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def note(message: str) -> None:
    """Tell the user, in Python as on the command line, of something that does not stop the work."""
    logging.getLogger("mad").warning("%s", f"mad: {one_line(message)}")


class Failed(RuntimeError):
    """A run came to nothing, and its record says so: exit status 1."""


def last_words(trace: str | None) -> str:
    """Of a traceback what was raised, without where."""
    lines = (trace or "").strip().splitlines()
    start = max((i + 1 for i, line in enumerate(lines) if line.startswith("  ")), default=0)
    return " ".join(lines[start:]) or "nothing is known of it"
