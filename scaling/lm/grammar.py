"""A generated corpus without end, whose entropy is known exactly: the ground truth of scaling fits.

A token is followed by one of `successors` tokens. Which is drawn by rank alone, rank r with probability
proportional to 1/r, whatever came before; which token has which rank is decided by the last `order` tokens.
So each token costs exactly

    H = -sum_r p_r ln p_r    nats,

in every context, at every position and for every length of window. A row begins with token 0, which stands
for a context of zeros: no target has a context that the model does not see.

What there is to learn is the table of successors, context by context. The likeliest ranks follow from the
last token, the next from the last two, the rarest from all `order`; and tokens are drawn into the table with
Zipf frequencies, so that contexts are rare or frequent. Deeper rules of rarer contexts are learned later and
need more parameters, and the loss falls to H like a power law (the quanta of arXiv:2303.13506): with order 1
measurably so, with order 2 not at small budgets (docs/scaling-study.md).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from mad.messages import near
from scaling.lm.config import CorpusConfig
from scaling.lm.windows import Tokens, check_draw, check_window

# Raise it whenever the same options would give other tokens than before.
VERSION = 1
LARGEST = 2**26
VALIDATION_TOKENS = 2**17
# Streams of random numbers that never meet: of the table, of training and of validation.
TABLE, TRAIN, VALIDATION = 0x7461626C65, 0x747261696E, 0x76616C6964


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """A seeded table of successors, and the corpus that it generates.

    vocab_size  tokens V; vocab_size ** (order + 1) is at most 2^26
    order       how many of the last tokens decide what may follow, at least 1
    successors  tokens that can follow a context, from `order` to vocab_size
    zipf        exponent of the frequency with which tokens stand in the table
    seed        of the table
    """

    vocab_size: int = 256
    order: int = 2
    successors: int = 8
    zipf: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "zipf" and type(value) is int:
                object.__setattr__(self, "zipf", float(value))
            elif type(value) is not type(field.default):
                raise ValueError(
                    f"grammar: {field.name}={value!r} must be of type {type(field.default).__name__}"
                )
        v, k = self.vocab_size, self.order
        self._require("seed", self.seed >= 0, "take 0 or more")
        self._require("zipf", 0 <= self.zipf <= 4, "take a number from 0 to 4")
        self._require("vocab_size", 2 <= v <= 2**13, "take 2 to 8192")
        self._require("order", 1 <= k <= 25, "take 1 to 25")
        self._require("successors", k <= self.successors <= v, f"take {k} (order) to {v} (vocab_size)")
        self._require(
            "order", v ** (k + 1) <= LARGEST, f"vocab_size ** (order + 1) is {v}^{k + 1}, above 2^26"
        )

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"grammar: {name}={getattr(self, name)} is refused: {rule}")

    def __str__(self) -> str:
        """The canonical spelling, which `parse` reads back."""
        words = [
            f"{f.name}={getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name) != f.default
        ]
        return f"grammar[{', '.join(words)}]" if words else "grammar"

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Of each rank, (successors,)."""
        weights = 1.0 / np.arange(1, self.successors + 1)
        return weights / weights.sum()

    @property
    def entropy(self) -> float:
        """Nats per token, the least mean loss that any model can have."""
        return float(-(self.probabilities * np.log(self.probabilities)).sum())

    @cached_property
    def table(self) -> np.ndarray:
        """The successors of each context by rank, (V^order, successors); all in a row differ.

        Context c = sum_j x_(t-j) V^j, so that c mod V^j is the context of the last j tokens.
        """
        rng = np.random.default_rng([TABLE, self.seed])
        v, s, k = self.vocab_size, self.successors, self.order
        preference = -self.zipf * np.log(np.arange(1, v + 1))
        table = np.empty((1, 0), np.int64)
        for depth in range(1, k + 1):
            new = s * depth // k - s * (depth - 1) // k
            table = np.tile(table, (v, 1))
            found = np.empty((len(table), new), np.int64)
            for start in range(0, len(table), 4096):
                taken = table[start : start + 4096]
                # Gumbel's trick: the largest of log weight + noise are a draw without replacement.
                keys = preference + rng.gumbel(size=(len(taken), v))
                np.put_along_axis(keys, taken, -np.inf, 1)
                found[start : start + 4096] = np.argsort(-keys, 1, kind="stable")[:, :new]
            table = np.concatenate([table, found], 1)
        return table

    @cached_property
    def config(self) -> CorpusConfig:
        content = f"{VERSION} {self.successors} {self.vocab_size} {self.order} ".encode()
        return CorpusConfig(
            name=str(self),
            sha256=hashlib.sha256(content + self.table.astype("<u2").tobytes()).hexdigest(),
            tokenizer="none",
            vocab_size=self.vocab_size,
            validation=0.0,
            validation_tokens=VALIDATION_TOKENS,
            entropy=self.entropy,
            version=VERSION,
        )

    def batch(self, step: int, *, batch_size: int, seq_len: int, seed: int) -> Tokens:
        """Rows (batch_size, seq_len + 1) of a training step: a pure function of its arguments."""
        check_draw(step, batch_size, seq_len, seed)
        return self._rows(np.random.default_rng([TRAIN, seed, step]).random((batch_size, seq_len)))

    def validation(self, seq_len: int, tokens: int | None = None) -> Tokens:
        """Fixed rows (n, seq_len + 1) with about `tokens` targets, from a stream that training never reads.

        The ranks are stratified: each occurs as often as its probability says, so that the oracle's loss on
        these rows is the entropy to about 1/tokens, and a model's excess over it has no sampling noise
        from the ranks.
        """
        check_window(seq_len, tokens)
        rows = max(1, (tokens or VALIDATION_TOKENS) // seq_len)
        rng, n = np.random.default_rng(VALIDATION), rows * seq_len
        return self._rows(((rng.permutation(n) + rng.random(n)) / n).reshape(rows, seq_len))

    @cached_property
    def _next(self) -> np.ndarray:
        """The context after each context and rank, flat."""
        contexts = np.arange(len(self.table))[:, None]
        return ((contexts * self.vocab_size + self.table) % len(self.table)).ravel()

    def _rows(self, uniform: np.ndarray) -> Tokens:
        """Rows (n, T + 1) from numbers in [0, 1) that choose the ranks, (n, T)."""
        ranks = np.searchsorted(np.cumsum(self.probabilities)[:-1], uniform.T, side="right")
        contexts = np.zeros((len(ranks) + 1, len(uniform)), np.int64)
        for t, rank in enumerate(ranks):
            contexts[t + 1] = self._next[contexts[t] * self.successors + rank]
        return np.ascontiguousarray(contexts.T % self.vocab_size)


def parse(text: str) -> Grammar:
    """Reads "grammar" or "grammar[vocab_size=16, order=2]"; errors name the nearest option."""
    found = re.fullmatch(r"\s*grammar\s*(?:\[(.*)\])?\s*", text, re.DOTALL)
    if not found:
        raise ValueError(f"{text!r} is not a grammar; write grammar or grammar[vocab_size=16, order=2]")
    kinds: dict[str, type[int] | type[float]] = {
        field.name: float if field.name == "zipf" else int for field in fields(Grammar)
    }
    options: dict[str, int | float] = {}
    for word in found[1].split(",") if found[1] is not None else ():
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals:
            raise ValueError(f"{text!r}: expected option=value, found {word.strip()!r}")
        if name not in kinds:
            hint = near(name, kinds, cutoff=0.4) or ";"
            raise ValueError(f"unknown option of grammar {name!r}{hint} Available: {', '.join(kinds)}")
        if name in options:
            raise ValueError(f"{text!r}: {name} is given twice; give it once")
        try:
            options[name] = kinds[name](value)
        except ValueError:
            raise ValueError(f"{text!r}: {name}={value} must be of type {kinds[name].__name__}") from None
    return Grammar(**options)  # type: ignore[arg-type]
