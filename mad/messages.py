"""What an error looks like on the command line."""

from __future__ import annotations


def one_line(message: str) -> str:
    """A message on one line; where a caret pointed at a column, it stands in the text instead."""
    lines = [line for line in message.splitlines() if line.strip()]
    if len(lines) >= 3 and lines[-1].strip() == "^":
        text = lines[-2].strip()
        column = lines[-1].index("^") - lines[-2].index(text)
        return " ".join([*lines[:-2], f"(here ^): {text[:column]}^{text[column:]}".replace("  ", " ")])
    return " ".join(line.strip() for line in lines)
