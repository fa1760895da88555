"""Records in files: JSON lines or parquet, one run per line, of every kind alike."""

import codecs
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from architectures.files import whole_file
from mad.data.records import Record
from mad.data.stored import StoredRecord
from mad.messages import near
from mad.store.checking import LONGEST, kinds, understood
from mad.store.store import Store

# Of parquet: the rows of a part that we write; the rows of a file and the bytes of a part that we read.
ROWS_PER_GROUP, MOST_ROWS, MOST_GROUP_BYTES = 256, 10**6, 2**30
# How the first line of a submission begins: it is about the file, and no run (mad.trust.submission).
SUBMISSION = '{"kind":"submission",'
PARQUET_TEXT = "dictionary<values=string, indices=int32, ordered=0>"


def export_records(store: Store, file: str | Path, *, overwrite: bool = False) -> int:
    """Write every record, one line or row per run; the file appears whole or not at all.

    Runs of the battery come first, sorted by id, then those of other kinds, which say so: "kind": "language".
    """
    path = Path(os.path.expanduser(file))
    _suffix(path)
    with whole_file(path, force=overwrite, sources=[store.path]) as part:
        runs = (sorted(store.records(kind), key=lambda run: run.id) for kind in kinds().values())
        records = [record for found in runs for record in found]
        if _suffix(path) == ".parquet":
            _write_parquet(part, records)
        else:
            part.write_text(lines_of(records), encoding="utf-8")
    return len(records)


def lines_of(records: Iterable[StoredRecord]) -> str:
    """JSON lines, one a record, in this order."""
    return "".join(f"{_line(record)}\n" for record in records)


def _line(record: StoredRecord) -> str:
    """Without the mark of imported records: it says what one store did not make, and files go to others."""
    return record.model_dump_json(exclude={"imported"})


def read_records(file: str | Path) -> list[StoredRecord]:
    """The records of an exported file or a submission, every one of them checked. Nothing that a record names
    is run.
    """
    path = Path(os.path.expanduser(file))
    suffix = _suffix(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give one that `mad export` wrote")
    word, lines = ("row", _read_parquet(path)) if suffix == ".parquet" else ("line", _read_lines(path))
    return [
        _parse(line, f"{path.name} {word} {i}")
        for i, line in enumerate(lines, 1)
        if line.strip() and not (i == 1 and line.startswith(SUBMISSION.encode()))
    ]


def _read_lines(path: Path) -> Iterator[bytes]:
    """Lines one by one; of one without end, no more than tells that it is too long."""
    with open(path, "rb") as file:
        yield file.readline(LONGEST + 2).removeprefix(codecs.BOM_UTF8)
        while line := file.readline(LONGEST + 2):
            yield line


def _parse(line: bytes, where: str) -> StoredRecord:
    try:
        if len(line) > LONGEST + 1:
            raise ValueError(f"it is longer than the {LONGEST:,} characters that a record may have")
        return understood(_kind(line), line)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; give a file that `mad export` of this release wrote") from None


def _kind(line: bytes) -> type[StoredRecord]:
    """What kind of record a line says that it is; refuses what is said twice."""
    try:
        content = json.loads(line.decode(), object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deeply for a record") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"Invalid JSON: {error}") from None
    return kinds().get(str(content.get("kind")) if isinstance(content, dict) else "", Record)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, whose names must differ: readers do not agree on which of two counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice")
    return found


def _suffix(path: Path) -> str:
    known = [".jsonl", ".json", ".parquet"]
    if path.suffix not in known:
        said = f"{path.suffix!r}{near(path.suffix, known)}; choose one of {', '.join(known)}"
        raise ValueError(f"{path} has the unknown suffix {said}")
    return path.suffix


def _write_parquet(path: Path, records: list[StoredRecord]) -> None:
    import pandas

    # A few columns to look at; the record itself is the JSON text, so that both formats carry the same.
    columns = ("id", "kind", "group", "status", "given", "suite", "study", "created")
    rows = [{name: getattr(r, name, None) for name in columns} | {"record": _line(r)} for r in records]
    frame = pandas.DataFrame(rows, columns=[*columns, "record"])
    with _pyarrow_needed():
        frame.to_parquet(path, index=False, row_group_size=ROWS_PER_GROUP)


def _read_parquet(path: Path) -> Iterator[bytes]:
    """The column of records, a few rows at a time, so that a small file cannot unpack to a large one."""
    with _pyarrow_needed():
        from pyarrow import ArrowException, parquet
    try:
        # Read as a dictionary, a text that many rows share is there once.
        file = parquet.ParquetFile(path, read_dictionary=["record"])
        about = file.metadata
        kinds = dict(zip(file.schema_arrow.names, map(str, file.schema_arrow.types), strict=True))
        if kinds.get("record") != PARQUET_TEXT:
            raise ValueError(f"{path} has no column 'record' of text; give a file that `mad export` wrote")
        largest = max((about.row_group(i).total_byte_size for i in range(about.num_row_groups)), default=0)
        if about.num_rows > MOST_ROWS or largest > MOST_GROUP_BYTES:
            raise ValueError(
                f"{path} unpacks to {about.num_rows:,} rows, {largest:,} bytes in one part; at most "
                f"{MOST_ROWS:,} and {MOST_GROUP_BYTES:,} are read: export it in parts, or as .jsonl"
            )
        for batch in file.iter_batches(batch_size=ROWS_PER_GROUP, columns=["record"]):
            texts = batch.column(0)
            for place in texts.indices.to_pylist():
                text = b"" if place is None else texts.dictionary[place].as_buffer()
                yield bytes(text[: LONGEST + 2])
    except (OSError, ArrowException) as error:
        raise ValueError(f"{path} cannot be read as parquet ({error}); export it again") from None


@contextmanager
def _pyarrow_needed() -> Iterator[None]:
    try:
        yield
    except ImportError:
        remedy = "`pip install pyarrow`, or choose the suffix .jsonl"
        raise ValueError(f"parquet needs pyarrow; {remedy}") from None
