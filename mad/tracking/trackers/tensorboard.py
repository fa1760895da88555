"""Event files for TensorBoard, a folder a run: `tensorboard --logdir FOLDER`. Extra `tensorboard`."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mad.data.trails import Head, Row, Tail, Trail, axis_of
from mad.tracking import By, Place

# Bytes of a folder's name that file systems hold, less the end that keeps two runs apart.
LONGEST_NAME = 150


class Mirror:
    """See `mad.tracking.Tracker`. Events cannot be taken back, so a run that is shown again begins anew."""

    by: ClassVar[By] = "run"

    def __init__(self, folder: Path, place: Place) -> None:
        self.folder = folder / "tensorboard"
        self.writers: dict[str, Any] = {}

    @staticmethod
    def require() -> None:
        if importlib.util.find_spec("tensorboardX") is None:
            raise ValueError(
                "tracker tensorboard needs tensorboardX, which is not installed: "
                "pip install 'mad-suite[tensorboard]'"
            )

    def begin(self, head: Head) -> None:
        from tensorboardX import SummaryWriter

        where = self.folder / _file_name(head.group) / f"{_file_name(head.name)} {head.id[:6]}"
        for old in where.glob("events.out.tfevents.*"):
            old.unlink()
        self.writers[head.id] = SummaryWriter(str(where))
        settings = "\n".join(f"    {name}: {value}" for name, value in head.config.items())
        self.writers[head.id].add_text("configuration", settings)
        self.writers[head.id].flush()

    def log(self, id: str, rows: Sequence[Row]) -> None:
        for row in rows:
            axis = axis_of(row)
            for name, value in row.items():
                if name != axis:
                    self.writers[id].add_scalar(name, value, int(row[axis]))
        self.writers[id].flush()

    def end(self, id: str, tail: Tail) -> None:
        writer = self.writers.pop(id)
        for name, value in tail.summary.items():
            if isinstance(value, int | float):
                writer.add_scalar(f"summary/{name}", value, 0)
        writer.add_text("status", tail.status)
        writer.close()

    def show(self, trail: Trail) -> None:
        self.begin(trail.head)
        self.log(trail.head.id, trail.rows)
        self.end(trail.head.id, trail.tail)

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.@+=,()\[\] -]", "_", text).encode()[:LONGEST_NAME].decode(errors="ignore").strip()
