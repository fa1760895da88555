"""A right task, and one for each thing that can be wrong: what `mad check` is tested with."""

# As users write them:
# mypy: disable-error-code="no-untyped-def, no-untyped-call, override, assignment"

from dataclasses import dataclass
from typing import Literal

import numpy as np

from synthetic_tasks import IGNORE, Batch, Task, task


@task("say-again", version=1)
@dataclass(frozen=True, kw_only=True)
class Good(Task):
    """Data tokens in the first half of a row, then markers: say the data tokens again."""

    vocab_size: int = 8
    seq_len: int = 12

    @property
    def chance(self) -> float:
        return 1 / (self.vocab_size - 1)

    def data(self, rng: np.random.Generator, n: int, split: str) -> np.ndarray:
        return rng.integers(self.vocab_size - 1, size=(n, self.seq_len // 2))

    def sample(self, rng: np.random.Generator, n: int, *, split: str = "test") -> Batch:
        half = self.seq_len // 2
        inputs = np.full((n, self.seq_len), self.vocab_size - 1)
        inputs[:, :half] = self.data(rng, n, split)
        targets = np.full_like(inputs, IGNORE)
        targets[:, half : 2 * half] = inputs[:, :half]
        return Batch(inputs, targets)

    def solve(self, inputs: np.ndarray) -> np.ndarray:
        return np.roll(inputs, self.seq_len // 2, axis=1)


FAULTS: dict[type[Task], tuple[str, ...]] = {}


def fault(*checks: str):
    """Registers a task that fails in these checks."""

    def register(cls):
        made = dataclass(frozen=True, kw_only=True)(cls)
        FAULTS[task(f"faulty-{len(FAULTS)}", version=1)(made)] = checks
        return made

    return register


@fault("declared")
class NoDocstring(Good):
    pass


@fault("declared")
class NoSuchReadout(Good):
    """Readout is a word that there is not."""

    readout = "end"


@fault("declared")
class NoSuchTraining(Good):
    """What is trained is a word that there is not."""

    train_targets: Literal["answers", "shifted"] = "answers"


@fault("shapes")
class Narrow(Good):
    """Tokens of 32 bits."""

    def sample(self, rng, n, *, split="test"):
        inputs, targets = super().sample(rng, n, split=split)
        return Batch(inputs.astype(np.int32), targets)


@fault("shapes")
class View(Good):
    """Rows that are read backwards, which torch does not take."""

    def sample(self, rng, n, *, split="test"):
        inputs, targets = super().sample(rng, n, split=split)
        return Batch(inputs, targets[::-1])


@fault("shapes")
class Short(Good):
    """A row short of a token where there are two."""

    def sample(self, rng, n, *, split="test"):
        inputs, targets = super().sample(rng, n, split=split)
        return Batch(inputs[:, :-1].copy(), targets) if n == 2 else Batch(inputs, targets)


@fault("shapes")
class Pair(Good):
    """A pair instead of a batch."""

    def sample(self, rng, n, *, split="test"):
        return tuple(super().sample(rng, n, split=split))


@fault("repeatable")
class Elsewhere(Good):
    """Draws from the global generator."""

    def data(self, rng, n, split):
        return np.random.randint(self.vocab_size - 1, size=(n, self.seq_len // 2))


@fault("repeatable")
class Remembers(Good):
    """Rows that no two calls share."""

    def data(self, rng, n, split):
        CALLS.append(n)
        return (super().data(rng, n, split) + len(CALLS)) % (self.vocab_size - 1)


CALLS: list[int] = []


@fault("ids")
class Minus(Good):
    """-1 where nothing is scored."""

    def sample(self, rng, n, *, split="test"):
        inputs, targets = super().sample(rng, n, split=split)
        return Batch(inputs, np.where(targets == IGNORE, -1, targets))


@fault("ids")
class Beyond(Good):
    """A token that the vocabulary does not count."""

    def sample(self, rng, n, *, split="test"):
        inputs, targets = super().sample(rng, n, split=split)
        inputs[:, -1] = self.vocab_size
        return Batch(inputs, targets)


@fault("asked")
class Silent(Good):
    """Rows without a question."""

    def sample(self, rng, n, *, split="test"):
        inputs, targets = super().sample(rng, n, split=split)
        targets[inputs[:, 0] == 0] = IGNORE
        return Batch(inputs, targets)


@fault("asked")
class Otherwise(Good):
    """Trained on the next token, which is not the answer."""

    train_targets: Literal["answers", "next-token"] = "next-token"


@fault("fields")
class Unchecked(Good):
    """Takes any value."""

    def __post_init__(self):
        pass


@fault("fields")
class Raises(Good):
    """Refuses with another error."""

    def __post_init__(self):
        if not isinstance(self.vocab_size, int):
            raise TypeError("no")
        super().__post_init__()


@fault("options")
class Idle(Good):
    """An option that does nothing."""

    depth: int = 3


@fault("oracle")
class Misses(Good):
    """Solves all but one token."""

    def solve(self, inputs):
        return np.where(super().solve(inputs) == 3, 4, super().solve(inputs))


@fault("oracle", "causality")
class Scribbles(Good):
    """Solves in place."""

    def solve(self, inputs):
        inputs[:] = np.roll(inputs, self.seq_len // 2, axis=1)
        return inputs


@fault("oracle")
class Breaks(Good):
    """Raises where a row begins with two zeros."""

    def solve(self, inputs):
        if len(inputs) > 100 and (inputs[:, :2] == 0).all(axis=1).any():
            raise KeyError("zeros")
        return super().solve(inputs)


@fault("causality")
class Foresees(Good):
    """Asks for the next token."""

    def sample(self, rng, n, *, split="test"):
        inputs, targets = super().sample(rng, n, split=split)
        targets[:, 0] = inputs[:, 1]
        return Batch(inputs, targets)

    def solve(self, inputs):
        answers = super().solve(inputs)
        answers[:, 0] = inputs[:, 1]
        return answers


@fault("chance")
class Uneven(Good):
    """Answers more often 0 than chance says."""

    def data(self, rng, n, split):
        data = super().data(rng, n, split)
        return np.where(rng.random(data.shape) < 0.1, 0, data)


@fault("chance")
class Marker(Good):
    """Scores the marker, which is the same in every row."""

    def sample(self, rng, n, *, split="test"):
        inputs, targets = super().sample(rng, n, split=split)
        targets[:, self.seq_len // 2 - 1] = self.vocab_size - 1
        return Batch(inputs, targets)

    def solve(self, inputs):
        answers = super().solve(inputs)
        answers[:, self.seq_len // 2 - 1] = self.vocab_size - 1
        return answers


@fault("chance", "ceiling")
class Percent(Good):
    """Chance in percent."""

    @property
    def chance(self):
        return 100 / (self.vocab_size - 1)


@fault("ceiling")
class Humble(Good):
    """A ceiling below what the row allows."""

    ceiling = 0.9

    def ceiling_for(self, train, test):
        return 0.9


@fault("ceiling")
class Sinks(Good):
    """A ceiling that falls with more training."""

    shared = ("something",)

    def ceiling_for(self, train, test):
        return 1 - len(train.inputs) / 10_000


@fault("ceiling")
class Boasts(Good):
    """A ceiling above 1."""

    def ceiling_for(self, train, test):
        return 1.5


@fault("streams", "rows", "overlap")
class Half(Good):
    """Half of the rows are those of every draw."""

    def data(self, rng, n, split):
        data, same = super().data(rng, n, split), super().data(np.random.default_rng(n), n, split)
        return np.where(np.arange(n)[:, None] % 2 == 0, same, data)


@fault("chance", "rows")
class Together(Good):
    """One shift for all rows of a draw."""

    def data(self, rng, n, split):
        first = rng.integers(self.vocab_size - 1)
        data = super().data(rng, n, split)
        data[:, 0] = first
        return data


@fault("rows")
class Ordered(Good):
    """Rows whose first token follows from their place."""

    def data(self, rng, n, split):
        data = super().data(rng, n, split)
        data[:, 0] = np.arange(n) % (self.vocab_size - 1)
        return data


@fault("rows")
class Counting(Good):
    """Other rows where there are many."""

    def data(self, rng, n, split):
        data = super().data(rng, n, split)
        return np.where(rng.random((n, 1)) < 0.5, data, data[:, ::-1] // 2 * 2) if n == 768 else data


@fault("overlap")
class Leaks(Good):
    """Half of the test rows are training rows."""

    def data(self, rng, n, split):
        data = super().data(rng, n, split)
        if split != "test" or n < 1000:
            return data
        known = super().data(self.stream(0, "train"), n, "train")
        return np.where(rng.random((n, 1)) < 0.5, rng.permutation(known), data)
