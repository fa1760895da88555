"""A table from a file: CSV with any usual separator, JSON or JSON lines, each also as .gz.

    a,b          commas, semicolons, tabs or bars, whichever parts the header into most fields; a first line
                 "sep=;" decides. Decimal commas are read where commas do not separate
    [{...}]      a JSON array of objects (by itself or under one name), an object of columns, or an object per
                 line

Every row must have as many fields as the header. What is read beyond plain CSV is said in a note.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.laws.runs.columns import BLANK

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
EXCEL = re.compile(r'"?sep=([,;\t])"?\r?\n', re.IGNORECASE)
DECIMAL_COMMA = re.compile(r"[+-]?\d+(,\d+)?([eE][+-]?\d+)?")
# A file that unpacks to more bytes than this is not a table of runs.
LARGEST = 2**30
SHOWN = 5


def read_table(path: str | Path) -> pd.DataFrame:
    """The table of a file as it stands; `scaling.laws.runs` says what its columns must hold."""
    return read_noted(path)[0]


def read_noted(path: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """The table of a file, and what was assumed in reading it."""
    path = Path(os.path.expanduser(path))
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give a CSV of runs with the columns params, tokens and loss")
    text = _text(path)
    if "\0" in text:
        raise ValueError(f"{path} is not text: it holds NUL bytes; save it as UTF-8 CSV")
    if not text.strip():
        raise ValueError(f"{path} cannot be read as CSV: it is empty; give a header and a row per run")
    return _json(path.name, text) if text.lstrip()[0] in "[{" else _csv(path.name, text)


def _text(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} has more than {LARGEST:,} bytes; give the table of runs alone")
    content = path.read_bytes()
    try:
        if content.startswith(b"\x1f\x8b"):
            with gzip.open(io.BytesIO(content)) as opened:
                content = opened.read(LARGEST + 1)
            if len(content) > LARGEST:
                raise ValueError(f"{path} unpacks to more than {LARGEST:,} bytes; give the table alone")
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} cannot be read as CSV ({error}); save it as UTF-8 CSV") from None


def _csv(name: str, text: str) -> tuple[pd.DataFrame, list[str]]:
    first = EXCEL.match(text)
    if first:
        text, separator = text[first.end() :], first[1]
    else:
        found = {mark: len(_header(text, mark)) for mark in SEPARATORS}
        separator = max(found, key=lambda mark: found[mark])
    lines = list(_lines(name, text, separator, 1 if first else 0))
    if not lines:
        raise ValueError(f"{name} cannot be read as CSV: it has no header; give one and a row per run")
    (_, header), *rows = lines
    if len(header) == 1 and len(header[0].split()) > 1 and rows:
        raise ValueError(
            f"{name}: the header {header[0]!r} has neither comma nor semicolon nor tab; put one of them "
            "between its fields, and take away what stands above it"
        )
    _same_length(name, header, rows)
    full = next((i for i in range(len(rows), 0, -1) if any(rows[i - 1][1])), 0)
    cells = [[row[place] for _, row in rows[:full]] for place in range(len(header))]
    # A column without a name is what a spreadsheet or an index leaves behind.
    kept = [place for place, column in enumerate(header) if column]
    notes = []
    if separator != ",":
        decimal = _decimal_commas([cells[place] for place in kept])
        with_commas = " and decimal commas" if decimal else ""
        notes.append(f"{name} was read with {SEPARATORS[separator]} between its fields{with_commas}")
    if full < len(rows):
        notes.append(f"{len(rows) - full} blank rows at the end of {name} were passed over")
    columns = [_typed(pd.Series(cells[place], dtype=object)) for place in kept]
    frame = pd.concat(columns, axis=1) if columns else pd.DataFrame()
    frame.columns = pd.Index([header[place] for place in kept], dtype=object)
    return frame, notes


def _header(text: str, separator: str) -> list[str]:
    """The first line with anything in it, were it separated so; not strict, for most guesses are wrong."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        return next((row for row in reader if row), [])
    except csv.Error:
        return []


def _lines(name: str, text: str, separator: str, before: int) -> Iterator[tuple[int, list[str]]]:
    """The number of each line that is not empty, and its cells; `before` lines were cut off."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    try:
        for row in reader:
            if row:
                yield reader.line_num + before, [cell.strip() for cell in row]
    except csv.Error as error:
        raise ValueError(
            f"{name} cannot be read as CSV (line {reader.line_num + before}: {error}); save it as UTF-8 CSV"
        ) from None


def _same_length(name: str, header: list[str], rows: list[tuple[int, list[str]]]) -> None:
    odd = [(line, row) for line, row in rows if len(row) != len(header)]
    if not odd:
        return
    fields = len(odd[0][1])
    where = [str(line) for line, row in odd if len(row) == fields]
    more = f" and {len(where) - SHOWN} more" if len(where) > SHOWN else ""
    ends = all(len(row) == len(header) + 1 and not row[-1] for _, row in odd)
    cure = "take the separator at their ends away" if ends else "give each row the fields of the header"
    raise ValueError(
        f"{name}: line{'s' * (len(where) > 1)} {', '.join(where[:SHOWN])}{more} "
        f"{'have' if len(where) > 1 else 'has'} {fields} fields, the header has {len(header)}; {cure}"
    )


def _decimal_commas(columns: Sequence[list[str]]) -> bool:
    """Turn decimal commas into points, in place, where every number of the table is written so."""
    found = [
        cells
        for cells in columns
        if any("," in cell for cell in cells)
        and all(DECIMAL_COMMA.fullmatch(cell) or cell.lower() in BLANK for cell in cells)
    ]
    if any("." in cell and _is_number(cell) for cells in columns for cell in cells):
        return False
    for cells in found:
        cells[:] = [cell.replace(",", ".") for cell in cells]
    return bool(found)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _typed(cells: pd.Series) -> pd.Series:
    """Numbers where every cell that holds anything is one, truths likewise, else the words."""
    words = cells.astype(str).str.strip()
    blank = cells.isna() | words.str.lower().isin(BLANK | {"-"})
    there = words[~blank]
    if len(there) and there.str.fullmatch(r"[-+.\w]+").all():
        numbers = pd.to_numeric(there, errors="coerce")
        if numbers.notna().all():
            if blank.any() or numbers.dtype.kind == "f":
                # By Python's own rounding, as everywhere else.
                return there.astype(float).reindex(cells.index)
            return numbers
        if there.str.lower().isin(("true", "false")).all() and not blank.any():
            return words.str.lower() == "true"
    return words.where(~cells.isna() & (words != ""), None)


def _json(name: str, text: str) -> tuple[pd.DataFrame, list[str]]:
    try:
        whole, lines = json.loads(text, object_pairs_hook=once, parse_int=_whole), False
    except json.JSONDecodeError:
        whole, lines = [_parsed(name, number, line) for number, line in _full_lines(text)], True
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as JSON ({error}); give an array of objects") from None
    if isinstance(whole, dict):
        # {"made": "in May", "runs": [{...}, ...]}
        lists = [held for held in whole.values() if held and isinstance(held, list) and _all(held, dict)]
        whole = lists[0] if len(lists) == 1 else whole
    if isinstance(whole, dict):
        whole = _by_column(name, whole) if all(map(_holds, whole.values())) else [whole]
    odd = next((i for i, row in enumerate(whole, 1) if not isinstance(row, dict)), None)
    if odd is not None:
        raise ValueError(
            f'{name}: element {odd} is not an object; give an object per run, {{"params": 1e9, ...}}'
        )
    try:
        frame = pd.DataFrame(whole)
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds half of a surrogate pair ({error.object!a}); write UTF-8") from None
    for column in frame:
        held = frame[column].dropna()
        if len(held) and held.map(lambda cell: isinstance(cell, str)).all():
            frame[column] = _typed(frame[column])
    kind = "JSON lines" if lines else "JSON"
    return frame, [f"{name} was read as {kind}: {len(frame)} row{'s' * (len(frame) != 1)}"]


def _by_column(name: str, whole: dict[str, Any]) -> list[Any]:
    """An object of columns, all lists of one length or all objects by row, as rows."""
    held = list(whole.values())
    if not (_all(held, dict) or (_all(held, list) and len({len(cells) for cells in held}) == 1)):
        raise ValueError(
            f"{name} is an object of {', '.join(map(repr, list(whole)[:SHOWN]))}, neither a run nor columns "
            'of one length; give an array of objects, [{"params": 1e9, ...}, ...]'
        )
    return pd.DataFrame(whole).to_dict("records")


def _holds(cell: object) -> bool:
    return isinstance(cell, list | dict)


def _all(cells: Iterable[object], kind: type) -> bool:
    return all(isinstance(cell, kind) for cell in cells)


def _full_lines(text: str) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _parsed(name: str, number: int, line: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=once, parse_int=_whole)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{name}, line {number} is not JSON ({error.msg}); give an array of objects, or one per line"
        ) from None
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{name}, line {number} cannot be read as JSON ({error})") from None


def _whole(digits: str) -> float:
    """A number that a table can hold, however many digits it has."""
    return int(digits) if len(digits) < 19 else float(digits)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, whose names must differ."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} is there twice in one object")
    return found
