"""What the generated pages are made of: measurements that were written down, and tables of them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def measured(name: str) -> dict[str, Any]:
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [[*header], ["---" for _ in header], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def shown(columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> str:
    """The table that has under each heading its format, filled from the rows."""
    return table(columns, [[form.format_map(row) for form in columns.values()] for row in rows])
