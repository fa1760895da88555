"""The contract of a task: its difficulty, its questions and answers, its streams of random numbers."""

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

IGNORE = -100  # the target of a position that is not scored
SPLITS = ("train", "validation", "test")

LARGEST = 2**20  # of a number in a field
MOST_NUMBERS = 2**28  # that one draw handles

Tokens = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """Questions and answers, row by row."""

    inputs: Tokens  # (n, seq_len), ids from 0 to vocab_size - 1
    targets: Tokens  # (n, seq_len), the right answer at each position, IGNORE where nothing is scored


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A question for sequence models.

    A subclass is a frozen keyword-only dataclass. Its fields are its difficulty, of type int, float, bool or
    Literal of words, each with a default. It adds `sample`, `solve` and `chance`, extends `__post_init__`
    with the rules of its fields, and is registered with `@task`.
    """

    vocab_size: int  # counts every id, special and noise tokens included
    seq_len: int
    train_targets: Literal["answers", "next-token"] = "answers"

    name: ClassVar[str]  # `name`, `version` and `heading` are set by the decorator `@task`
    version: ClassVar[int]
    heading: ClassVar[str]
    readout: ClassVar[Literal["every", "last"]] = "every"  # "last": all answers come from the last position
    ceiling: ClassVar[float] = 1.0  # the accuracy of the best possible model
    shared: ClassVar[tuple[str, ...]] = ()  # what the splits have in common on purpose

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value, hint = getattr(self, field.name), hints[field.name]
            if hint is float and type(value) in (int, float):
                self.require(field.name, abs(value) <= LARGEST, f"choose a number of at most {LARGEST:,}")
                # 0, -0.0 and 0.0 shall have one spelling and one hash.
                object.__setattr__(self, field.name, float(value) + 0.0)
            elif get_origin(hint) is Literal:
                known = isinstance(value, str) and value in get_args(hint)
                self.require(field.name, known, f"choose {' or '.join(get_args(hint))}")
            else:
                self.require(field.name, type(value) is hint, f"write it as a plain {hint.__name__}")
                self.require(
                    field.name, type(value) is not int or abs(value) <= LARGEST, f"at most {LARGEST:,}"
                )
        self.require("vocab_size", self.vocab_size >= 2, "there are two ids at least; choose 2 or more")
        self.require("seq_len", self.seq_len >= 1, "a row has a token at least; choose 1 or more")

    def require(self, field: str, holds: bool, rule: str) -> None:
        """Refuses the value of a field unless its rule holds; `rule` also says what to write instead."""
        if not holds:
            value = getattr(self, field)
            word = repr(value) if type(value) is not int or abs(value) < 10**30 else "(over 30 digits)"
            raise ValueError(f"{self.name}: {field}={word} is refused: {rule}")

    @abstractmethod
    def sample(self, rng: np.random.Generator, n: int, *, split: str = "test") -> Batch:
        """Draws n rows: a pure function of the task, the generator's state, n and the split."""

    @abstractmethod
    def solve(self, inputs: Tokens) -> Tokens:
        """The oracle: (n, seq_len) answers, right wherever a target is scored.

        With readout "every" the answer at a position depends on the tokens up to it only, as a model's would.
        """

    @property
    @abstractmethod
    def chance(self) -> float:
        """The accuracy of a uniform guess among the tokens that can be an answer."""

    def ceiling_for(self, train: Batch, test: Batch) -> float:
        """The best accuracy that these test rows allow to a model that saw these training rows."""
        return self.ceiling

    def training_targets(self, batch: Batch) -> Tokens:
        """What a model is trained on: the answers only, or every next token of the inputs."""
        if self.train_targets == "answers":
            return batch.targets
        return np.concatenate([batch.inputs[:, 1:], batch.targets[:, -1:]], axis=1)

    def content(self) -> dict[str, Any]:
        """What fixes the data: name, version and every field but `train_targets`, which no stream knows."""
        options = sorted(field.name for field in fields(self) if field.name != "train_targets")
        return {"name": self.name, "version": self.version, **{name: getattr(self, name) for name in options}}

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the content as canonical JSON, in hexadecimal."""
        canonical = json.dumps(self.content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def content_words(self) -> list[int]:
        """The content hash as eight 32-bit words, to seed a generator."""
        return [int(self.content_hash[i : i + 8], 16) for i in range(0, 64, 8)]

    def stream(self, seed: int, split: str) -> np.random.Generator:
        """The random numbers of a split; no two of (seed, split, content) share a stream."""
        check_draw(1, split)
        # Each entry is one 32-bit word of the seed material: no two keys can spell the same words.
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise ValueError(f"seed {seed!r} is refused: choose an int from 0 to 2**32 - 1")
        return np.random.default_rng([seed, SPLITS.index(split), *self.content_words])

    def draw(self, seed: int, split: str, n: int) -> Batch:
        """The first n rows of a split's stream, drawn at once."""
        return self.sample(self.stream(seed, split), n, split=split)

    def __str__(self) -> str:
        """The canonical spelling, as `parse` reads it: the name and the options that are not default."""
        changed = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        options = ",".join(f"{name}={_spell(getattr(self, name))}" for name in changed)
        return f"{self.name}[{options}]" if options else self.name


def check_draw(n: int, split: str, row: int = 1) -> None:
    """Refuses an unknown split, and more rows of `row` numbers than fit; every `sample` begins with it."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose train, validation or test")
    most = MOST_NUMBERS // row
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 1 <= n <= most:
        rule = f"choose an int from 1 to {most:,}" if most else "one takes too many numbers; shorten it"
        raise ValueError(f"cannot draw {n!r} rows; {rule}")


def _spell(value: bool | int | float | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
