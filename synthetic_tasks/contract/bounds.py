"""What a score of a task lies between: chance and ceiling."""

import math

import numpy as np

from synthetic_tasks.contract.answers import ROWS
from synthetic_tasks.contract.subject import SURE, Subject, Violation, scored
from synthetic_tasks.task import IGNORE, Batch, Tokens


def chance(subject: Subject) -> str:
    """No guess that does not look at the row beats it: the most frequent answer, of all or at a position."""
    task = subject.task
    if not (isinstance(task.chance, float) and 0 < task.chance < 1):
        raise Violation(f"chance is {task.chance!r}; it is the accuracy of a guess, a float between 0 and 1")
    train, test = subject.many(0, "train").targets, subject.many(0, "test")
    guesses = {
        "of all": np.full(task.seq_len, _most_frequent(train)),
        "at its position": np.array([_most_frequent(column) for column in train.T]),
    }
    told = []
    for name, guess in guesses.items():
        counts = scored(test).sum(axis=1)
        hits = ((test.targets == guess) & scored(test)).sum(axis=1)
        got = hits.sum() / counts.sum()
        error = np.sqrt(((hits - got * counts) ** 2).sum()) / counts.sum()
        if got > task.chance + SURE * error:
            raise Violation(
                f"the most frequent answer {name} is right {got:.4f} of the time, and chance is declared as "
                f"{task.chance:.4f}; declare what such a guess gets, or make the answers even"
            )
        told.append(f"{got:.4f} {name}")
    return f"{task.chance:.4f}; the most frequent answer gets {', '.join(told)}"


def _most_frequent(targets: Tokens) -> int:
    """IGNORE where nothing is scored."""
    values, counts = np.unique(targets[targets != IGNORE], return_counts=True)
    return int(values[counts.argmax()]) if len(values) else IGNORE


def ceiling(subject: Subject) -> str:
    """Above chance; at most 1, and 1 where every answer stands in its row; not lower after more training."""
    task = subject.task
    train, test = subject.draw(0, "train", ROWS), subject.draw(0, "test", ROWS)
    few = Batch(train.inputs[:8], train.targets[:8])
    found, less = (task.ceiling_for(rows, test) for rows in (train, few))
    for value in (task.ceiling, found):
        if not (isinstance(value, float) and math.isfinite(value) and task.chance < value <= 1):
            raise Violation(
                f"a ceiling is {value!r}; it is a float above chance ({task.chance:.4f}), at most 1"
            )
    if found < 1 and not task.shared:
        raise Violation(
            f"the ceiling is {found:.4f}, and yet solve finds every answer in its row; leave it 1, or say in "
            "`shared` what has to be learned from training"
        )
    if less > found:
        told = f"ceiling_for says {less:.4f} of 8 training rows and {found:.4f} of {ROWS}"
        raise Violation(f"{told}; more rows cannot lower it")
    shared = f"; shared: {', '.join(task.shared)}" if task.shared else ""
    return f"{found:.4f} after {ROWS} training rows{shared}"
