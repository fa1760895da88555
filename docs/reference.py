"""The reference of the site: our docstrings, which read as plain text, as Markdown.

A paragraph of `name   what it is` becomes a list; what is indented further, as formulas are, stays as it is.
"""

import re
from typing import Any

import griffe

ARGUMENT = re.compile(r"([\w.*]+(?:, [\w.*]+)*) {2,}(\S.*)")


def as_markdown(text: str) -> str:
    """A docstring with its lists of arguments as Markdown lists, and its indented parts as blocks of code."""
    out: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.split("\n")
        if ARGUMENT.fullmatch(lines[0]):
            for line in lines:
                found = ARGUMENT.fullmatch(line)
                out.append(f"- `{found[1]}`: {found[2]}" if found else f"    {line.strip()}")
            out.append("")
        elif all(line.startswith("    ") for line in lines):
            language = "pycon" if lines[0].lstrip().startswith(">>>") else "text"
            out += [f"```{language}", *(line[4:] for line in lines), "```", ""]
        else:
            out += [*lines, ""]
    return "\n".join(out)


class PlainDocstrings(griffe.Extension):
    """Applied to whatever the reference shows."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
