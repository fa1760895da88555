"""Memorization: say the value of a key by a dictionary that only training can teach."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from synthetic_tasks.registry import task
from synthetic_tasks.task import IGNORE, Batch, Task, Tokens, check_draw


@task("memorization", version=1, heading="memor.")
@dataclass(frozen=True, kw_only=True)
class Memorization(Task):
    """Say the value of a key by a dictionary that only training can teach.

    Ids: keys 0 to (vocab_size - 1) // 2 - 1, then values, then the insert token, vocab_size - 1. A row is
    "key insert" over and over, keys uniform; the answer, scored at the insert tokens, is never shown. The
    dictionary is a random one-to-one map, fixed by the task's content alone and shared by all splits and
    seeds.

    >>> task = Memorization(vocab_size=10, seq_len=8)
    >>> task.dictionary.tolist()
    [7, 5, 6, 4]
    >>> batch = task.draw(seed=0, split="test", n=1)
    >>> batch.inputs.tolist()
    [[0, 9, 1, 9, 1, 9, 0, 9]]
    >>> batch.targets.tolist()
    [[-100, 7, -100, 5, -100, 5, -100, 7]]

    A fact that no training row holds cannot be learned: `ceiling_for` is the exact share of the others.

    Differs from the public code: the dictionary depends on the whole setting, not on vocab_size alone.
    """

    vocab_size: int = 256
    seq_len: int = 32
    train_targets: Literal["answers"] = "answers"

    shared = ("dictionary",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("vocab_size", self.vocab_size >= 5, "two keys, two values, insert; choose 5 or more")
        even = self.seq_len % 2 == 0 and self.seq_len >= 2
        self.require("seq_len", even, "a row is keys and insert tokens in turn; choose an even number from 2")

    @property
    def num_keys(self) -> int:
        return (self.vocab_size - 1) // 2

    @cached_property
    def dictionary(self) -> Tokens:
        """The value of each key: (num_keys,). One value stays unused when vocab_size is even."""
        values = np.arange(self.num_keys, self.vocab_size - 1)
        return np.random.default_rng(self.content_words).permutation(values)[: self.num_keys]

    @property
    def chance(self) -> float:
        return 1 / (self.vocab_size - 1 - self.num_keys)

    def sample(self, rng: np.random.Generator, n: int, *, split: str = "test") -> Batch:
        check_draw(n, split, self.seq_len)
        keys = rng.integers(self.num_keys, size=(n, self.seq_len // 2))
        inputs = np.full((n, self.seq_len), self.vocab_size - 1)
        inputs[:, ::2] = keys
        targets = np.full((n, self.seq_len), IGNORE)
        targets[:, 1::2] = self.dictionary[keys]
        return Batch(inputs, targets)

    def solve(self, inputs: Tokens) -> Tokens:
        answers = np.zeros_like(inputs)
        is_key = inputs[:, :-1] < self.num_keys
        answers[:, 1:] = np.where(is_key, self.dictionary[np.where(is_key, inputs[:, :-1], 0)], 0)
        return answers

    def ceiling_for(self, train: Batch, test: Batch) -> float:
        """The share of the scored test targets whose key, the token before, is asked in training."""
        seen = np.unique(train.inputs[:, :-1][train.targets[:, 1:] != IGNORE])
        asked = test.inputs[:, :-1][test.targets[:, 1:] != IGNORE]
        return float(np.isin(asked, seen).mean())
