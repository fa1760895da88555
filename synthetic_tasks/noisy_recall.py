"""Noisy in-context recall: in-context recall with pairs of noise tokens in between."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from synthetic_tasks._recall import recall_rows, solve_recall
from synthetic_tasks.registry import task
from synthetic_tasks.task import Batch, Task, Tokens, check_draw


@task("noisy-in-context-recall", version=1, heading="noisy")
@dataclass(frozen=True, kw_only=True)
class NoisyInContextRecall(Task):
    """Say the value that a key had earlier in the same row, among noise.

    The row of in-context recall on the first vocab_size - noise_vocab_size ids; the last noise_vocab_size ids
    are noise. Each pair but the probe is replaced by two noise tokens with probability frac_noise, so pairs
    stay on even positions. One slot per row, chosen uniformly, is protected, so that there is always
    something to recall.

    >>> task = NoisyInContextRecall(vocab_size=12, seq_len=16, noise_vocab_size=4, frac_noise=0.4)
    >>> batch = task.draw(seed=0, split="test", n=1)
    >>> batch.inputs.tolist()
    [[9, 11, 0, 4, 11, 8, 11, 9, 9, 8, 2, 7, 1, 7, 2, 7]]
    >>> batch.targets.tolist()
    [[-100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, 7, -100]]

    With multi_query=False the copy prefix is the last id before the noise.

    Differs from the public code: rows keep the last value, which is not scored; the protected slot is one
    that the row uses (there it may be the unused last one, and then a row can lack a key); an odd number of
    ids without the noise is refused in multi-query mode.
    """

    vocab_size: int = 32
    seq_len: int = 128
    train_targets: Literal["answers", "next-token"] = "next-token"
    noise_vocab_size: int = 16
    frac_noise: float = 0.2
    multi_query: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("noise_vocab_size", self.noise_vocab_size >= 1, "choose at least 1")
        self.require("frac_noise", 0 <= self.frac_noise < 1, "choose a share of at least 0 and below 1")
        if self.multi_query:
            rule = f"half of the ids but the {self.noise_vocab_size} of noise are keys; leave an even number"
            self.require("vocab_size", self.first_noise % 2 == 0, rule)
        rule = f"two keys and two values besides noise; choose {self.noise_vocab_size + 6} or more"
        self.require("vocab_size", self.num_keys >= 2, rule)
        even = self.seq_len % 2 == 0 and self.seq_len >= 4
        self.require("seq_len", even, "a row is pairs shown and a pair asked; choose an even number from 4")

    @property
    def first_noise(self) -> int:
        return self.vocab_size - self.noise_vocab_size

    @property
    def num_keys(self) -> int:
        """Keys are 0 to num_keys - 1; as many values follow them."""
        return self.first_noise // 2 if self.multi_query else (self.first_noise - 1) // 2

    @property
    def chance(self) -> float:
        return 1 / self.num_keys

    def sample(self, rng: np.random.Generator, n: int, *, split: str = "test") -> Batch:
        check_draw(n, split, self.seq_len)
        pairs = self.seq_len // 2 - 1
        keys = rng.integers(self.num_keys, size=(n, pairs))
        values = rng.integers(self.num_keys, 2 * self.num_keys, size=(n, pairs))
        noise = rng.integers(self.first_noise, self.vocab_size, size=(n, pairs, 2))
        used = rng.random((n, pairs)) >= self.frac_noise
        used[np.arange(n), rng.integers(pairs, size=n)] = True
        copy_prefix = None if self.multi_query else self.first_noise - 1
        return recall_rows(rng, keys, values, copy_prefix=copy_prefix, noise=noise, used=used)

    def solve(self, inputs: Tokens) -> Tokens:
        return solve_recall(inputs, self.num_keys)
