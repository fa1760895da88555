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
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.laws.runs.columns import BLANK

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
EXCEL = re.compile(r'"?sep=([,;\t])"?\r?\n', re.IGNORECASE)
DECIMAL_COMMA = re.compile(r"[+-]?\d+(,\d+)?([eE][+-]?\d+)?")
DECIMAL_POINT = re.compile(r"[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d+)?")
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
    if first := EXCEL.match(text):
        text, separator = text[first.end() :], first[1]
    else:
        separator = max(SEPARATORS, key=lambda mark: _fields(text, mark))
    (_, header), *rows = _lines(name, text, separator, bool(first)) or [(0, [])]
    if not header:
        raise ValueError(f"{name} cannot be read as CSV: it has no header; give one and a row per run")
    if len(header) == 1 and len(header[0].split()) > 1 and rows:
        raise ValueError(
            f"{name}: the header {header[0]!r} has neither comma nor semicolon nor tab; put one of them "
            "between its fields, and take away what stands above it"
        )
    _same_length(name, header, rows)
    full = next((i for i in range(len(rows), 0, -1) if any(rows[i - 1][1])), 0)
    # A column without a name is what a spreadsheet or an index leaves behind.
    kept = [place for place, column in enumerate(header) if column]
    cells = [[row[place] for _, row in rows[:full]] for place in kept]
    notes = []
    if separator != ",":
        with_commas = " and decimal commas" if _decimal_commas(cells) else ""
        notes.append(f"{name} was read with {SEPARATORS[separator]} between its fields{with_commas}")
    if full < len(rows):
        notes.append(f"{len(rows) - full} blank rows at the end of {name} were passed over")
    columns = [_typed(pd.Series(column, dtype=object)) for column in cells]
    frame = pd.concat(columns, axis=1) if columns else pd.DataFrame()
    frame.columns = pd.Index([header[place] for place in kept], dtype=object)
    return frame, notes


def _fields(text: str, separator: str) -> int:
    """Of the first line with anything in it, were it separated so; not strict, for most guesses are wrong."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        return next((len(row) for row in reader if row), 0)
    except csv.Error:
        return 0


def _lines(name: str, text: str, separator: str, before: int) -> list[tuple[int, list[str]]]:
    """The number of each line that is not empty, and its cells; `before` lines were cut off."""
    source = io.StringIO(text, newline="")
    reader = csv.reader(source, delimiter=separator, skipinitialspace=True, strict=True)
    try:
        return [(reader.line_num + before, [cell.strip() for cell in row]) for row in reader if row]
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


def _decimal_commas(columns: list[list[str]]) -> bool:
    """Turn decimal commas into points, in place, where every number of the table is written so."""
    if any(DECIMAL_POINT.fullmatch(cell) for cells in columns for cell in cells):
        return False
    found = [
        cells
        for cells in columns
        if any("," in cell for cell in cells)
        and all(DECIMAL_COMMA.fullmatch(cell) or cell.lower() in BLANK for cell in cells)
    ]
    for cells in found:
        cells[:] = [cell.replace(",", ".") for cell in cells]
    return bool(found)


def _typed(cells: pd.Series) -> pd.Series:
    """Numbers where every cell that holds anything is one, truths likewise, else the words."""
    words = cells.astype(str).str.strip()
    blank = cells.isna() | words.str.lower().isin(BLANK | {"-"})
    there = words[~blank]
    if len(there) and there.str.fullmatch(r"[-+.\w]+").all():
        numbers = pd.to_numeric(there, errors="coerce")
        if numbers.notna().all():
            # By Python's own rounding, as everywhere else.
            real = blank.any() or numbers.dtype.kind == "f"
            return there.astype(float).reindex(cells.index) if real else numbers
        if there.str.lower().isin(("true", "false")).all() and not blank.any():
            return words.str.lower() == "true"
    return words.where(~cells.isna() & (words != ""), None)


def _json(name: str, text: str) -> tuple[pd.DataFrame, list[str]]:
    try:
        whole, kind = json.loads(text, object_pairs_hook=once, parse_int=_whole), "JSON"
    except json.JSONDecodeError:
        lines = enumerate(text.split("\n"), 1)
        whole, kind = [_line(name, number, line) for number, line in lines if line.strip()], "JSON lines"
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as JSON ({error}); give an array of objects") from None
    if isinstance(whole, dict):
        # {"made": "in May", "runs": [{...}, ...]}
        lists = [held for held in whole.values() if held and isinstance(held, list) and _all(held, dict)]
        whole = lists[0] if len(lists) == 1 else whole
    if isinstance(whole, dict):
        whole = _by_column(name, whole) if _all(whole.values(), (list, dict)) else [whole]
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
        if len(held := frame[column].dropna()) and _all(held, str):
            frame[column] = _typed(frame[column])
    return frame, [f"{name} was read as {kind}: {len(frame)} row{'s' * (len(frame) != 1)}"]


def _by_column(name: str, whole: dict[str, Any]) -> list[Any]:
    """An object of columns, all lists of one length or all objects by row, as rows."""
    held = list(whole.values())
    if not (_all(held, dict) or (_all(held, list) and len(set(map(len, held))) == 1)):
        raise ValueError(
            f"{name} is an object of {', '.join(map(repr, list(whole)[:SHOWN]))}, neither a run nor columns "
            'of one length; give an array of objects, [{"params": 1e9, ...}, ...]'
        )
    return pd.DataFrame(whole).to_dict("records")


def _all(cells: Iterable[object], kind: type | tuple[type, ...]) -> bool:
    return all(isinstance(cell, kind) for cell in cells)


def _line(name: str, number: int, line: str) -> Any:
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
