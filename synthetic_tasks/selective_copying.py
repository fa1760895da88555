"""Selective copying: repeat the data tokens of a row in order, without the blanks between them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from synthetic_tasks.registry import task
from synthetic_tasks.task import IGNORE, Batch, Task, Tokens, check_draw


@task("selective-copying", version=1, heading="copying")
@dataclass(frozen=True, kw_only=True)
class SelectiveCopying(Task):
    """Repeat the data tokens of a row in order, without the blanks between them.

    Ids: data 0 to vocab_size - 3, blank vocab_size - 2, copy vocab_size - 1. A row is num_tokens_to_copy
    uniform data tokens among blanks, the copy token, then one blank for each token to copy: there the answers
    are scored.

    >>> task = SelectiveCopying(vocab_size=8, seq_len=14, num_tokens_to_copy=3)
    >>> batch = task.draw(seed=0, split="test", n=1)
    >>> batch.inputs.tolist()
    [[5, 6, 6, 6, 6, 1, 6, 6, 4, 6, 7, 6, 6, 6]]
    >>> batch.targets.tolist()
    [[-100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, 5, 1, 4]]

    Differs from the public code: the positions of the data tokens are a uniformly random subset, from the
    task's own stream. variant="public" places them as the public code does: each blank goes before one of the
    data tokens, chosen uniformly, so the last data token always touches the copy token and positions hardly
    vary.
    """

    vocab_size: int = 16
    seq_len: int = 256
    train_targets: Literal["answers"] = "answers"
    num_tokens_to_copy: int = 16
    variant: Literal["repaired", "public"] = "repaired"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("vocab_size", self.vocab_size >= 4, "two data ids, blank and copy; choose 4 or more")
        self.require("num_tokens_to_copy", self.num_tokens_to_copy >= 1, "choose at least 1")
        shortest = 2 * self.num_tokens_to_copy + 1
        rule = f"{self.num_tokens_to_copy} tokens shown, copy and as many answers need at least {shortest}"
        self.require("seq_len", self.seq_len >= shortest, rule)

    @property
    def prefix_len(self) -> int:
        """The positions before the copy token."""
        return self.seq_len - self.num_tokens_to_copy - 1

    @property
    def chance(self) -> float:
        return 1 / (self.vocab_size - 2)

    def sample(self, rng: np.random.Generator, n: int, *, split: str = "test") -> Batch:
        check_draw(n, split, self.seq_len)
        count, copy, blank = self.num_tokens_to_copy, self.vocab_size - 1, self.vocab_size - 2
        data = rng.integers(blank, size=(n, count))
        if self.variant == "repaired":
            lots = rng.random((n, self.prefix_len))
            positions = np.sort(np.argpartition(lots, count - 1, axis=1)[:, :count], axis=1)  # (n, count)
        else:
            blanks_before = rng.multinomial(self.prefix_len - count, np.full(count, 1 / count), size=n)
            positions = np.cumsum(blanks_before, axis=1) + np.arange(count)
        inputs = np.full((n, self.seq_len), blank)
        inputs[:, self.prefix_len] = copy
        np.put_along_axis(inputs, positions, data, axis=1)
        targets = np.full((n, self.seq_len), IGNORE)
        targets[:, -count:] = data
        return Batch(inputs, targets)

    def solve(self, inputs: Tokens) -> Tokens:
        prefix = inputs[:, : self.prefix_len]
        # A stable sort by "is not a data token" lists the data tokens first, in their order.
        positions = np.argsort(prefix >= self.vocab_size - 2, axis=1, kind="stable")
        data = np.take_along_axis(prefix, positions[:, : self.num_tokens_to_copy], axis=1)
        answers = np.zeros_like(inputs)
        answers[:, -self.num_tokens_to_copy :] = data
        return answers
