"""The formats of commands that print a section."""

from __future__ import annotations

from collections.abc import Callable

from scaling.report.data import as_json
from scaling.report.section import Section
from scaling.report.text import as_text

FORMATS = {"text": as_text, "json": as_json}


def writer(format: str) -> Callable[[Section], str]:
    """What writes a section as "text" or "json"."""
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    return FORMATS[format]
