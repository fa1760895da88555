"""Trackers of a user, which do what trackers should not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mad.data.trails import Head, Row, Tail, Trail
from mad.tracking import By, Place


class Diary:
    """Writes down what it is told, into a file."""

    by: ClassVar[By] = "run"

    def __init__(self, folder: Path, place: Place) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = open(folder / "diary.txt", "a", buffering=1, encoding="utf-8")

    @staticmethod
    def require() -> None:
        pass

    def write(self, *words: Any) -> None:
        print(*words, file=self.file)

    def begin(self, head: Head) -> None:
        self.write("begin", head.id)

    def log(self, id: str, rows: Sequence[Row]) -> None:
        for row in rows:
            self.write("log", id, next(iter(row.values())))

    def end(self, id: str, tail: Tail) -> None:
        self.write("end", id, tail.status)

    def show(self, trail: Trail) -> None:
        self.write("show", trail.head.id)

    def close(self) -> None:
        self.write("close")


class Families(Diary):
    by = "architecture"


class Raises(Diary):
    def log(self, id: str, rows: Sequence[Row]) -> None:
        raise RuntimeError("the tracker is broken")


class Hangs(Diary):
    def begin(self, head: Head) -> None:
        super().begin(head)
        time.sleep(3600)


class Ends(Diary):
    def begin(self, head: Head) -> None:
        raise SystemExit(3)


class Lacks(Diary):
    @staticmethod
    def require() -> None:
        raise ValueError("tracker lacks needs a thing; install it")
