"""Reads back what an offline run of W&B wrote: its transaction log.

W&B's definitions of it are imported in a process of their own: W&B lays its hands on standard output.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
BLOCK, HEADER = 32768, struct.Struct("<IHB")  # checksum, length, kind
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """All of a run, later values over earlier ones; `exit` is None where it has not ended."""

    id: str = ""
    name: str = ""
    group: str = ""
    job: str = ""
    project: str = ""
    sweep: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    exit: int | None = None


def read(path: Path) -> OfflineRun:
    """The run in a folder `offline-run-...`."""
    import wandb.proto.wandb_internal_pb2 as wandb_internal

    make: Any = vars(wandb_internal)["Record"]
    run = OfflineRun()
    (file,) = path.glob("*.wandb")
    for data in _records(file.read_bytes()):
        record = make()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found = record.run
            run.id, run.name, run.project = found.run_id, found.display_name, found.project
            run.group, run.job, run.tags = found.run_group, found.job_type, list(found.tags)
            run.sweep = found.sweep_id
            run.config |= _values(found.config.update)
        elif kind == "config":
            run.config |= _values(record.config.update)
        elif kind == "history":
            run.history.append(_values(record.history.item))
        elif kind == "summary":
            run.summary |= _values(record.summary.update)
        elif kind == "metric" and record.metric.step_metric:
            run.axes[record.metric.name] = record.metric.step_metric
        elif kind == "artifact":
            run.artifacts.append(record.artifact.name)
        elif kind == "exit":
            run.exit = record.exit.exit_code
    return run


def runs_in(folder: Path) -> list[OfflineRun]:
    """Every run that is kept in the folder of trackers, the oldest first."""
    command = [sys.executable, "-m", "tests.mad.tracking.offline", str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return [OfflineRun(**run) for run in json.loads(found.stdout)]


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format, after a head of seven bytes; what is cut off is none."""
    at, parts = 7, b""
    while at + HEADER.size <= len(data):
        if BLOCK - at % BLOCK < HEADER.size:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(data, at)
        body = data[at + HEADER.size : at + HEADER.size + length]
        at += HEADER.size + length
        if len(body) < length or not kind:
            return
        parts = body if kind in (FULL, FIRST) else parts + body
        if kind in (FULL, LAST):
            yield parts


if __name__ == "__main__":
    folders = [path for path in Path(sys.argv[1]).glob("wandb/*run-*") if path.is_dir()]
    found = [read(path) for path in sorted(folders) if not path.is_symlink()]
    print(json.dumps([asdict(run) for run in found]))
