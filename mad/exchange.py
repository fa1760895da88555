"""Records in files: JSON lines or parquet, a run a line, of the battery and of language models alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError

from architectures.files import whole_file
from mad.config import Record
from mad.language import LanguageRecord
from mad.store import AnyRecord, ImportReport, Store, check


def export_records(store: Store, file: str | Path, *, overwrite: bool = False) -> int:
    """Write every record, one line or row a run; the file appears whole or not at all.

    Runs of the battery come first, sorted by id, then language-model runs, which say so: "kind": "language".
    """
    path = Path(file).expanduser()
    _suffix(path)
    with whole_file(path, force=overwrite, sources=[store.path]) as part:
        records: list[AnyRecord] = [
            *sorted(store.records(), key=lambda record: record.id),
            *sorted(store.language_records(), key=lambda record: record.id),
        ]
        if _suffix(path) == ".parquet":
            _write_parquet(part, records)
        else:
            part.write_text("".join(f"{record.model_dump_json()}\n" for record in records), encoding="utf-8")
    return len(records)


def import_records(store: Store, file: str | Path) -> ImportReport:
    """Add the records of an exported file, all or none. Nothing that a record names is run."""
    return store.merge(read_records(file))


def read_records(file: str | Path) -> list[AnyRecord]:
    """The records of an exported file, every line of them checked."""
    path = Path(file).expanduser()
    suffix = _suffix(path)
    if not path.is_file():
        raise ValueError(f"{path} is no file; give one that `mad export` wrote")
    lines: Sequence[bytes | str] = (
        _read_parquet(path) if suffix == ".parquet" else path.read_bytes().splitlines()
    )
    word = "row" if suffix == ".parquet" else "line"
    return [_parse(line, f"{path.name} {word} {i}") for i, line in enumerate(lines, 1) if line.strip()]


def _parse(line: bytes | str, where: str) -> AnyRecord:
    kind = LanguageRecord if _is_language(line) else Record
    try:
        record = kind.model_validate_json(line)
        check(record)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the line"
        raise ValueError(
            f"{where}: {field}: {first['msg']}; give a file that `mad export` of this release wrote"
        ) from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return record


def _is_language(line: bytes | str) -> bool:
    try:
        content = json.loads(line)
    except ValueError:
        return False  # What is wrong with the line is said when it is read as a record.
    return isinstance(content, dict) and content.get("kind") == "language"


def _suffix(path: Path) -> str:
    known = [".jsonl", ".json", ".parquet"]
    if path.suffix not in known:
        close = get_close_matches(path.suffix, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"{path} has the unknown suffix {path.suffix!r}{hint}; choose one of {', '.join(known)}"
        )
    return path.suffix


def _write_parquet(path: Path, records: list[AnyRecord]) -> None:
    import pandas

    # A few columns to look at; the record itself is the JSON text, so that both formats carry the same.
    columns = ("id", "kind", "group", "status", "given", "suite", "study", "created")
    rows = [
        {name: getattr(r, name, None) for name in columns} | {"record": r.model_dump_json()} for r in records
    ]
    with _pyarrow_needed():
        pandas.DataFrame(rows, columns=[*columns, "record"]).to_parquet(path, index=False)


def _read_parquet(path: Path) -> list[str]:
    import pandas

    with _pyarrow_needed():
        try:
            frame = pandas.read_parquet(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as parquet ({error}); export it again") from None
    if "record" not in frame:
        raise ValueError(f"{path} has no column 'record'; give a file that `mad export` wrote")
    return [str(text) for text in frame["record"]]


@contextmanager
def _pyarrow_needed() -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise ValueError(
            "parquet needs pyarrow; `pip install pyarrow`, or choose the suffix .jsonl"
        ) from None
