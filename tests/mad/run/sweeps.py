"""Small sweeps, and what of their records must be equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mad.api import execute, prepare
from mad.data.records import Record
from mad.store import Store

TASKS = ["in-context-recall", "compression"]
SPECS = ["2*(mh-attention swiglu)", "mamba", "gated-delta-net moe-mlp"]


def run(store: Path | None, specs: list[str], engine: str, tasks: list[str], **options: Any) -> list[Record]:
    prepared = prepare(specs, suite="smoke", protocol="sound", device="cpu", tasks=tasks)
    workers = None if engine == "inline" else 2
    return execute(prepared, store=store, engine=engine, workers=workers, **options)[0]


def results(records: list[Record]) -> dict[str, Any]:
    """What must not depend on the engine."""
    return {record.id: (record.status, record.metrics, record.group, record.given) for record in records}


def opened_records(path: Path) -> list[Record]:
    with Store(path, read_only=True) as opened:
        return opened.records()
