"""Sections as commands print them: text, where a number stands beside its interval, or JSON."""

from __future__ import annotations

import itertools
import json
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from mad.messages import printable
from scaling.laws.law import Interval
from scaling.report.section import Listing, Section, Table

WIDTH = 100


def writer(format: str) -> Callable[[Section], str]:
    """What writes a section as "text" or "json"."""
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    return FORMATS[format]


def as_text(section: Section) -> str:
    """Its blocks, with a blank line between them."""
    return "\n\n".join(filter(None, map(_block, section.text)))


def _block(block: str | Table | Listing) -> str:
    if isinstance(block, Table):
        return "\n".join(filter(None, [block.caption, table(block.frame)]))
    return block if isinstance(block, str) else listing(block.heading, block.sentences)


def table(frame: pd.DataFrame) -> str:
    """A frame as aligned text; intervals from columns NAME_low and NAME_high stand behind NAME."""
    names = list(map(str, frame.columns))
    ends = {
        name: (names.index(f"{name}_low"), names.index(f"{name}_high"))
        for name in names
        if {f"{name}_low", f"{name}_high"} <= set(names)
    }
    kept = [i for i in range(len(names)) if i not in itertools.chain(*ends.values())]
    rows = [[names[i].replace("_", " ") for i in kept]]
    for row in frame.astype(object).itertuples(index=False, name=None):
        rows.append([_cell(row[i], *(row[end] for end in ends.get(names[i], ()))) for i in kept])
    columns = [_aligned(list(map(printable, column))) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True))


def _aligned(column: list[str]) -> list[str]:
    """Cells of one width: numbers to the right, words to the left."""
    width, right = max(map(len, column)), all(map(_is_number, column[1:]))
    return [cell.rjust(width) if right else cell.ljust(width) for cell in column]


def _cell(value: object, low: object = None, high: object = None) -> str:
    """Four digits of a float and of the ends of its interval; a dash for what is missing."""
    if pd.notna(low) and pd.notna(high):
        return f"{_cell(value)} [{_cell(low)}, {_cell(high)}]"
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4g}"
    return "-" if value is None else str(value)


def _is_number(text: str) -> bool:
    word = text.split(" ")[0]
    try:
        float(word)
    except ValueError:
        return word in ("", "-")
    return True


def listing(heading: str, sentences: Iterable[str]) -> str:
    """Sentences as a list, wrapped; nothing for none."""
    wrapped = [
        textwrap.fill(str(sentence), WIDTH, initial_indent="- ", subsequent_indent="  ")
        for sentence in dict.fromkeys(sentences)
    ]
    return printable("\n".join([heading, *wrapped]), lines=True) if wrapped else ""


def as_json(section: Section) -> str:
    """Its data; a number that JSON has no word for is refused."""
    return json.dumps(section.data, indent=1, allow_nan=False)


FORMATS = {"text": as_text, "json": as_json}


def intervals(found: Mapping[str, Interval]) -> dict[str, list[float]]:
    """Intervals as JSON holds them; what has no draws has none."""
    return {name: [end.low, end.high] for name, end in found.items() if not math.isnan(end.low)}


def records(frame: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Rows as JSON holds them: what is missing is null."""
    return [] if frame is None else list(json.loads(frame.to_json(orient="records", double_precision=15)))


def brackets(interval: Interval | None) -> str:
    """An interval; what has no draws has none."""
    if interval is None or math.isnan(interval.low):
        return ""
    return f"[{interval.low:.4g}, {interval.high:.4g}]"
