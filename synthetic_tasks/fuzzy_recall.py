"""Fuzzy in-context recall: keys and values are short motifs of several tokens."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from synthetic_tasks._recall import draw_motifs, first_occurrence
from synthetic_tasks.registry import task
from synthetic_tasks.task import IGNORE, Batch, Task, Tokens, check_draw


@task("fuzzy-in-context-recall", version=1, heading="fuzzy")
@dataclass(frozen=True, kw_only=True)
class FuzzyInContextRecall(Task):
    """Say, token by token, the value motif that a key motif had earlier in the same row.

    Ids: keys 0 to (vocab_size - 1) // 2 - 1, then values, then pad, vocab_size - 1. A motif is up to
    key_motif_max or value_motif_max tokens without repetition. Value sizes are uniform; key sizes are uniform
    in training and maximal in validation and test. A row is pairs of motifs, and at its end the probe: a pair
    that was shown in a uniformly random slot. Pairs are added while the largest pair still fits; then pads on
    the left make seq_len + 1 tokens, of which the inputs are all but the last. Scored, at the position
    before: every value token of a key that was shown earlier (multi_query=False: those of the probe only).

    >>> batch = FuzzyInContextRecall(vocab_size=16, seq_len=16).draw(seed=0, split="test", n=1)
    >>> batch.inputs.tolist()
    [[15, 15, 15, 15, 15, 2, 5, 3, 13, 10, 12, 2, 5, 3, 13, 10]]
    >>> batch.targets.tolist()
    [[-100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, 13, 10, 12]]

    Differs from the public code: the probe is always shown before it is asked; motifs are drawn in batches,
    without listing all permutations; no copy prefix in single-query mode. variant="public" emulates the
    defect that some probes are never shown: the probe goes to the first slot from a uniformly random token of
    the row on, even if the row ends before it (2 percent of the rows at seq_len=128).
    """

    vocab_size: int = 16
    seq_len: int = 128
    train_targets: Literal["answers", "next-token"] = "next-token"
    key_motif_max: int = 3
    value_motif_max: int = 3
    multi_query: bool = True
    variant: Literal["repaired", "public"] = "repaired"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("vocab_size", self.vocab_size >= 5, "two keys, two values, pad; choose 5 or more")
        for field, ids in (("key_motif_max", self.num_keys), ("value_motif_max", self.num_values)):
            rule = f"vocab_size={self.vocab_size} allows 1 to {ids} different tokens per motif; change either"
            self.require(field, 1 <= getattr(self, field) <= ids, rule)
        few = self.key_motif_max * np.log2(self.num_keys + 1) <= 40  # it and its place must fit into int64
        self.require("key_motif_max", few, "more than 2**40 key motifs are too many; lower it or vocab_size")
        rule = f"a pair and its probe need {2 * self.longest + 1} or more; raise it or lower the motif sizes"
        self.require("seq_len", self.seq_len > 2 * self.longest, rule)

    @property
    def num_keys(self) -> int:
        return (self.vocab_size - 1) // 2

    @property
    def num_values(self) -> int:
        return self.vocab_size - 1 - self.num_keys

    @property
    def longest(self) -> int:
        """The tokens of the largest pair."""
        return self.key_motif_max + self.value_motif_max

    @property
    def chance(self) -> float:
        return 1 / self.num_values

    def sample(self, rng: np.random.Generator, n: int, *, split: str = "test") -> Batch:
        check_draw(n, split, self.longest**2 * self.seq_len)
        smallest_key = 1 if split == "train" else self.key_motif_max
        # As many pairs as a row can ever hold, the probe at its end included.
        columns = np.arange((self.seq_len - self.longest) // (smallest_key + 1) + 1)
        shape = (n, len(columns))

        # Column 0 is the probe, the others fill the row. A key has the value of its first column.
        keys = draw_motifs(rng, shape, self.num_keys, self.key_motif_max)  # (key_motif_max, n, columns)
        key_sizes = rng.integers(smallest_key, self.key_motif_max + 1, size=shape)
        codes = np.zeros(shape, dtype=np.int64)
        for index, token in enumerate(keys):
            codes = codes * (self.num_keys + 1) + np.where(index < key_sizes, token + 1, 0)
        source = first_occurrence(codes)
        value_sizes = rng.integers(1, self.value_motif_max + 1, size=shape)
        value_sizes = np.take_along_axis(value_sizes, source, axis=1)

        order, shown = self._place_probe(rng, key_sizes + value_sizes)
        columns = columns[: shown.max() + 1]
        order = np.where(columns < shown, order[:, : len(columns)], 0)  # after the pairs shown, the probe

        values = self.num_keys + draw_motifs(rng, order.shape, self.num_values, self.value_motif_max)
        codes, key_sizes, value_sizes, source = (
            np.take_along_axis(column, order, axis=1) for column in (codes, key_sizes, value_sizes, source)
        )
        repeated = (first_occurrence(codes) < columns) & self.multi_query | (columns == shown)

        # (places, n, columns): the tokens of a pair, the places it fills, and those of them that are scored.
        tokens = np.concatenate(
            [np.take_along_axis(keys, order[None], axis=2), np.take_along_axis(values, source[None], axis=2)]
        )
        place = np.arange(len(tokens))[:, None, None] - len(keys)  # of the value; negative for the key
        exists = np.where(place < 0, place + len(keys) < key_sizes, place < value_sizes) & (columns <= shown)
        scored = (place >= 0) & repeated

        # All tokens of a row that exist, in order, pushed to its right end.
        tokens, exists, scored = (np.moveaxis(array, 0, -1) for array in (tokens, exists, scored))
        row_len = self.seq_len + 1
        filled = np.arange(row_len) >= row_len - exists.sum(axis=(1, 2))[:, None]
        row, marks = np.full((n, row_len), self.vocab_size - 1), np.zeros((n, row_len), dtype=bool)
        row[filled], marks[filled] = tokens[exists], scored[exists]
        return Batch(row[:, :-1].copy(), np.where(marks, row, IGNORE)[:, 1:].copy())

    def _place_probe(self, rng: np.random.Generator, sizes: Tokens) -> tuple[Tokens, Tokens]:
        """The column in each slot, (n, columns), and the slots shown, (n, 1); column 0 is the probe."""
        columns, probe = np.arange(sizes.shape[1]), sizes[:, :1]
        room = self.seq_len - probe - self.longest  # a pair is added behind fewer tokens only
        starts = np.cumsum(sizes, axis=1) - sizes
        if self.variant == "repaired":
            # Moving the probe among the pairs shown leaves their total length as it was.
            shown = (starts < room).sum(axis=1, keepdims=True)
            slot = rng.integers(shown)
        else:
            token = rng.integers(self.seq_len - 2 * probe)
            slot = (starts[:, 1:] - probe < token).sum(axis=1, keepdims=True)
        order = np.where(columns < slot, columns + 1, np.where(columns == slot, 0, columns))
        if self.variant == "public":
            sizes = np.take_along_axis(sizes, order, axis=1)
            shown = (np.cumsum(sizes, axis=1) - sizes < room).sum(axis=1, keepdims=True)
        return order, shown

    def solve(self, inputs: Tokens) -> Tokens:
        # What may come next follows from the key so far and the number of its value tokens so far: the state.
        is_key, is_value = inputs < self.num_keys, (inputs >= self.num_keys) & (inputs < self.vocab_size - 1)
        state = np.zeros_like(inputs)
        code, taken = np.zeros((2, len(inputs)), dtype=np.int64)
        in_key = np.zeros(len(inputs), dtype=bool)
        for t in range(inputs.shape[1]):
            longer = np.where(in_key, code, 0) * (self.num_keys + 1) + inputs[:, t] + 1
            longer[longer >= (self.num_keys + 1) ** self.key_motif_max] = 0  # no key motif at all
            code = np.where(is_key[:, t], longer, code)
            taken = np.where(is_value[:, t], np.minimum(taken + 1, self.value_motif_max), 0)
            state[:, t], in_key = code * (self.value_motif_max + 1) + taken, is_key[:, t]
        followed = np.zeros_like(is_value)  # by a value token
        followed[:, :-1] = is_value[:, 1:]
        first = first_occurrence(state, preferred=followed)
        known = (first < np.arange(inputs.shape[1])) & np.take_along_axis(followed, first, axis=1)
        return np.where(known, np.take_along_axis(inputs, np.where(known, first + 1, 0), axis=1), 0)
