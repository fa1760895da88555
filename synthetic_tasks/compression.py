"""Compression: give back a whole row of random tokens from the state at its last position."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from synthetic_tasks.registry import task
from synthetic_tasks.task import IGNORE, Batch, Task, Tokens, check_draw


@task("compression", version=1, heading="compr.")
@dataclass(frozen=True, kw_only=True)
class Compression(Task):
    """Give back a whole row of random tokens from the state at its last position.

    A row is seq_len - 1 uniform data tokens, 0 to vocab_size - 2, then the compress token, vocab_size - 1.
    The readout is "last": a decoder sees the last position only and answers for all of them. Scored: every
    data token.

    >>> batch = Compression(vocab_size=8, seq_len=6).draw(seed=0, split="test", n=1)
    >>> batch.inputs.tolist()
    [[1, 1, 6, 3, 6, 7]]
    >>> batch.targets.tolist()
    [[1, 1, 6, 3, 6, -100]]

    Differs from the public code: the compress token, which is the same in every row, is not scored.
    variant="public" scores it as well.
    """

    vocab_size: int = 16
    seq_len: int = 32
    train_targets: Literal["answers"] = "answers"
    variant: Literal["repaired", "public"] = "repaired"

    readout = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("vocab_size", self.vocab_size >= 3, "two data ids and compress; choose 3 or more")
        self.require("seq_len", self.seq_len >= 2, "a row is data, then compress; choose 2 or more")

    @property
    def chance(self) -> float:
        return 1 / (self.vocab_size - 1 if self.variant == "repaired" else self.vocab_size)

    def sample(self, rng: np.random.Generator, n: int, *, split: str = "test") -> Batch:
        check_draw(n, split, self.seq_len)
        inputs = rng.integers(self.vocab_size - 1, size=(n, self.seq_len))
        inputs[:, -1] = self.vocab_size - 1
        targets = inputs.copy()
        if self.variant == "repaired":
            targets[:, -1] = IGNORE
        return Batch(inputs, targets)

    def solve(self, inputs: Tokens) -> Tokens:
        return inputs
