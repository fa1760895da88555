"""The task under question, the rows that it draws, and what a question may answer.

A question is a function `(subject) -> str`: it returns what was seen where the contract holds, raises
`Violation` where it does not, and `NotApplicable` where it cannot be asked. Whatever else the task raises is
a violation too.
"""

import inspect
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from synthetic_tasks.task import IGNORE, Batch, Task, Tokens

# Numbers in a draw, where a question needs many rows; and rows, at the least and at the most.
NUMBERS, FEWEST, MOST = 2**20, 64, 2048
# Standard errors beyond which a difference is not chance.
SURE = 5.0


class Violation(Exception):
    """The contract does not hold; the message says what was seen."""


class NotApplicable(Exception):
    """The question cannot be asked of this task; the message says why."""


class Finding(NamedTuple):
    """What one check came to. seen: what was measured; where it failed, what is wrong and what to do."""

    check: str
    result: Literal["passed", "failed", "not applicable", "not run"]
    seen: str


@dataclass(frozen=True)
class Subject:
    """A task and what it has drawn."""

    task: Task
    drawn: dict[tuple[int, str, int], Batch] = field(default_factory=dict)

    def draw(self, seed: int, split: str, n: int) -> Batch:
        key = (seed, split, n)
        if key not in self.drawn:
            self.drawn[key] = self.task.draw(seed, split, n)
        return self.drawn[key]

    def many(self, seed: int, split: str) -> Batch:
        """As many rows as are needed to see what is rare."""
        return self.draw(seed, split, min(MOST, max(FEWEST, NUMBERS // self.task.seq_len)))

    @property
    def file(self) -> str:
        return inspect.getfile(type(self.task))


def scored(batch: Batch) -> np.ndarray:
    """(n, seq_len), where an answer is asked for."""
    return np.asarray(batch.targets != IGNORE)


def first(wrong: np.ndarray) -> tuple[int, int]:
    """Row and position of the first that is wrong."""
    row, position = np.argwhere(wrong)[0]
    return int(row), int(position)


def rows_of(tokens: Tokens) -> list[bytes]:
    """Each row as something that can be compared."""
    return [row.tobytes() for row in np.ascontiguousarray(tokens)]


def describe(error: BaseException, file: str) -> str:
    """What an exception says, on one line, and the line of the task's file that it came through last."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 240 else f"{text[:240]}..."
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    place = f" ({Path(file).name}, line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"
