"""In-context recall: say the value that a key had earlier in the same row."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from synthetic_tasks._recall import recall_rows, solve_recall
from synthetic_tasks.registry import task
from synthetic_tasks.task import Batch, Task, Tokens, check_draw


@task("in-context-recall", version=1, heading="recall")
@dataclass(frozen=True, kw_only=True)
class InContextRecall(Task):
    """Say the value that a key had earlier in the same row.

    A row is seq_len / 2 pairs "key value"; the lower half of the ids are keys, the upper half values. A key
    is uniform; its value is drawn when it first appears and then kept for the row. The last pair is the
    probe: its key is uniform among the distinct keys already shown. Scored: every key that was shown before.

    >>> batch = InContextRecall(vocab_size=8, seq_len=12).draw(seed=0, split="test", n=1)
    >>> batch.inputs.tolist()
    [[1, 4, 3, 7, 2, 4, 1, 4, 3, 7, 2, 4]]
    >>> batch.targets.tolist()
    [[-100, -100, -100, -100, -100, -100, 4, -100, 7, -100, 4, -100]]

    With multi_query=False the last id is the copy prefix: seq_len / 2 - 1 pairs, the prefix, the probe key;
    only the probe is scored. Keys and values are then (vocab_size - 1) // 2 ids each.

    Differs from the public code: rows keep the last value, which is not scored (it drops it: 127 tokens for
    128); an odd number of ids is refused in multi-query mode, and rounds down in single-query mode for keys
    and values alike.
    """

    vocab_size: int = 16
    seq_len: int = 128
    train_targets: Literal["answers", "next-token"] = "next-token"
    multi_query: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.multi_query:
            self.require("vocab_size", self.vocab_size % 2 == 0, "half are keys; choose an even number")
        self.require("vocab_size", self.num_keys >= 2, "two keys and two values; choose 6 or more")
        even = self.seq_len % 2 == 0 and self.seq_len >= 4
        self.require("seq_len", even, "a row is pairs shown and a pair asked; choose an even number from 4")

    @property
    def num_keys(self) -> int:
        """Keys are 0 to num_keys - 1; as many values follow them."""
        return self.vocab_size // 2 if self.multi_query else (self.vocab_size - 1) // 2

    @property
    def chance(self) -> float:
        return 1 / self.num_keys

    def sample(self, rng: np.random.Generator, n: int, *, split: str = "test") -> Batch:
        check_draw(n, split, self.seq_len)
        shape = (n, self.seq_len // 2 - 1)
        keys = rng.integers(self.num_keys, size=shape)
        values = rng.integers(self.num_keys, 2 * self.num_keys, size=shape)
        return recall_rows(rng, keys, values, copy_prefix=None if self.multi_query else self.vocab_size - 1)

    def solve(self, inputs: Tokens) -> Tokens:
        return solve_recall(inputs, self.num_keys)
