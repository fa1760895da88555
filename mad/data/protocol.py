"""Protocols and suites: how a run is trained, selected and scored, and what is run. Data, with versions.

A protocol is the referee: optimiser, schedule, selection, metric, stopping. A suite is the exam: settings,
grid, budget and seeds. A change of either is a new version, and an old result keeps the version that it was
made with.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

import synthetic_tasks
from mad.data.bounds import MOST_ENTRIES, Amount, Fraction, Seed, Signed, Whole, Word
from synthetic_tasks import Task

_T = TypeVar("_T")


class Data(BaseModel):
    """Frozen and strict: an unknown field is an error, and so is a number that JSON cannot hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Protocol(Data):
    """The referee. `select_on`: the split that chooses the grid point and that early stopping watches."""

    name: Word
    version: Whole
    betas: tuple[Fraction, Fraction]
    eps: Amount = 1e-8
    schedule: Literal["cosine", "constant"]
    select_on: Literal["validation", "test"]
    # "macro-batches" is the public code's accuracy: macro over classes in batches of 128, then their mean.
    metric: Literal["micro", "macro", "macro-batches"]
    solved_at: Fraction = 0.999
    # Honour what a layer says about decay and learning rates; the public code decays every tensor.
    hints: bool
    variant: Literal["repaired", "public"]
    # Model options under this protocol, where they differ from the architecture's own.
    model: dict[Word, Signed] = Field(default_factory=dict, max_length=MOST_ENTRIES)
    # Keys the validation and test data, which are the same for every architecture and seed.
    data_seed: Seed = 0


PROTOCOLS = {
    "sound": Protocol(
        name="sound",
        version=1,
        betas=(0.9, 0.98),
        schedule="cosine",
        select_on="validation",
        metric="micro",
        hints=True,
        variant="repaired",
    ),
    "public-code": Protocol(
        name="public-code",
        version=1,
        betas=(0.9, 0.999),
        schedule="constant",
        select_on="test",
        metric="macro-batches",
        hints=False,
        variant="public",
        model={"embedding_std": 0.02},
    ),
}


class Setting(Data):
    """One question at one difficulty with its budget: a row of a suite."""

    task: str
    train_examples: int = Field(ge=1)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    lrs: tuple[float, ...]
    weight_decays: tuple[float, ...]
    evaluations: int = Field(default=10, ge=1)
    validation_examples: int = Field(default=1280, ge=1)
    test_examples: int = Field(default=1280, ge=1)

    def resolve(self, protocol: Protocol) -> Task:
        """The task of this setting, with the generators that the protocol wants."""
        return _resolved(self.task, protocol.variant)

    @property
    def steps(self) -> int:
        return self.epochs * -(-self.train_examples // self.batch_size)

    @property
    def grid(self) -> list[tuple[float, float]]:
        """Every (learning rate, weight decay)."""
        return [(lr, wd) for lr in self.lrs for wd in self.weight_decays]


@functools.lru_cache
def _resolved(text: str, variant: str) -> Task:
    task = synthetic_tasks.parse(text)
    if "variant" in {field.name for field in dataclasses.fields(task)}:
        changes: dict[str, Any] = {"variant": variant}
        task = dataclasses.replace(task, **changes)
    return task


class Suite(Data):
    """The exam: settings, model width and seeds."""

    name: str
    version: int
    about: str
    dim: int
    seeds: int
    settings: tuple[Setting, ...]

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


PUBLISHED_GRID: dict[str, Any] = {"lrs": (1e-4, 5e-4, 1e-3), "weight_decays": (0.0, 0.1)}


def _published(task: str, train_examples: int) -> Setting:
    return Setting(
        task=task, train_examples=train_examples, epochs=200, batch_size=128, evaluations=40, **PUBLISHED_GRID
    )


def _mad_2024() -> tuple[Setting, ...]:
    """The 66 settings of arXiv:2403.17844: a baseline of each task, then one variable changed at a time."""
    vocabulary, examples = (32, 64, 128), (6400, 3200, 1600, 800)
    recall_lengths, copying_lengths, compression_lengths = (256, 512, 1024), (512, 1024), (64, 128, 256)
    axes: dict[str, list[tuple[str, tuple[float, ...]]]] = {
        "in-context-recall": [("vocab_size", vocabulary), ("seq_len", recall_lengths)],
        "noisy-in-context-recall": [
            ("vocab_size", (48, 80, 144)),
            ("seq_len", recall_lengths),
            ("frac_noise", (0.4, 0.6, 0.8)),
        ],
        "fuzzy-in-context-recall": [("vocab_size", vocabulary), ("seq_len", recall_lengths)],
        "selective-copying": [
            ("vocab_size", vocabulary),
            ("seq_len", copying_lengths),
            ("num_tokens_to_copy", (32, 64, 96)),
        ],
        "compression": [("vocab_size", vocabulary), ("seq_len", compression_lengths)],
    }
    settings = []
    for name, changes in axes.items():
        settings.append(_published(name, 12_800))
        settings += [_published(f"{name}[{field}={v}]", 12_800) for field, values in changes for v in values]
        settings += [_published(name, n) for n in examples]
    settings.append(_published("memorization", 256))
    settings += [_published(f"memorization[vocab_size={v}]", 256) for v in (512, 1024, 2048, 4096, 8192)]
    return tuple(settings)


def _baseline() -> tuple[Setting, ...]:
    """Of those the first of each task."""
    first: dict[str, Setting] = {}
    for setting in _mad_2024():
        first.setdefault(setting.task.partition("[")[0], setting)
    return tuple(first.values())


def _smoke(task: str) -> Setting:
    return Setting(
        task=task,
        train_examples=64,
        epochs=2,
        batch_size=16,
        lrs=(1e-3, 2e-3),
        weight_decays=(0.0,),
        evaluations=2,
        validation_examples=64,
        test_examples=64,
    )


def _quick(task: str, epochs: int, train_examples: int = 12_800) -> Setting:
    # One learning rate: at these budgets 3e-3 beat 1e-3 for every architecture and task that was calibrated.
    return Setting(
        task=task,
        train_examples=train_examples,
        epochs=epochs,
        batch_size=32,
        lrs=(3e-3,),
        weight_decays=(0.0,),
        evaluations=10,
    )


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            name="smoke",
            version=1,
            about="six tiny tasks: does everything run? Its scores mean nothing",
            dim=32,
            seeds=1,
            settings=tuple(
                _smoke(task)
                for task in (
                    "in-context-recall[vocab_size=8, seq_len=16]",
                    "noisy-in-context-recall[vocab_size=12, seq_len=16, noise_vocab_size=4]",
                    "fuzzy-in-context-recall[vocab_size=10, seq_len=24, key_motif_max=2, value_motif_max=2]",
                    "selective-copying[vocab_size=8, seq_len=16, num_tokens_to_copy=4]",
                    "compression[vocab_size=8, seq_len=8]",
                    "memorization[vocab_size=32, seq_len=8]",
                )
            ),
        ),
        Suite(
            name="quick",
            version=1,
            about="six small tasks, calibrated to tell architectures apart in minutes on a laptop",
            dim=64,
            seeds=1,
            settings=(
                _quick("in-context-recall[vocab_size=32, seq_len=32, train_targets=answers]", 2),
                _quick("noisy-in-context-recall[seq_len=32, train_targets=answers]", 2),
                _quick(
                    "fuzzy-in-context-recall[vocab_size=12, seq_len=48, key_motif_max=2, value_motif_max=2, "
                    "train_targets=answers]",
                    2,
                ),
                _quick("selective-copying[seq_len=32, num_tokens_to_copy=8]", 2),
                _quick("compression[seq_len=8]", 3),
                _quick("memorization[vocab_size=1024]", 50, train_examples=256),
            ),
        ),
        Suite(
            name="baseline",
            version=1,
            about="the six baseline settings of the published protocol, three seeds: one GPU, minutes",
            dim=128,
            seeds=3,
            settings=_baseline(),
        ),
        Suite(
            name="mad-2024",
            version=1,
            about="all 66 settings of arXiv:2403.17844 x 6 grid points = 396 runs an architecture",
            dim=128,
            seeds=1,
            settings=_mad_2024(),
        ),
    )
}


def get_protocol(name: str) -> Protocol:
    return _get("protocol", name, PROTOCOLS)


def get_suite(name: str) -> Suite:
    """A suite by name, or by name@version."""
    bare, _, version = name.partition("@")
    suite = _get("suite", bare, SUITES)
    if version and version != str(suite.version):
        raise ValueError(
            f"suite {name!r} is not in this release, which has {suite.label}; install the release that has it"
        )
    return suite


def _get(kind: str, name: str, known: dict[str, _T]) -> _T:
    if name not in known:
        close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown {kind} {name!r}{hint}; available: {', '.join(known)}")
    return known[name]
