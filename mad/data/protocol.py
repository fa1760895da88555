"""Protocols and suites: how a run is trained, selected and scored, and what is run. Data, with versions.

A protocol is the referee: optimiser, schedule, selection, metric, stopping. A suite is the exam: settings,
grid, budget and seeds. A change of either is a new version, and an old result keeps the version that it was
made with.
"""

import dataclasses
import functools
import importlib.metadata
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

import synthetic_tasks
from mad.data import suites
from mad.data.bounds import MOST_ENTRIES, Amount, Fraction, Seed, Signed, Whole, Word
from mad.messages import near
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


SUITES = {name: Suite(name=name, **data) for name, data in suites.SUITES.items()}


def get_protocol(name: str) -> Protocol:
    return _get("protocol", name, PROTOCOLS)


def get_suite(name: str) -> Suite:
    """A suite by name or name@version, of ours or of another package; or package.module:NAME."""
    if ":" in name:
        from architectures.registry import load_object  # Loads torch.

        return _suite(load_object(name), name)
    bare, _, version = name.partition("@")
    suite = _get("suite", bare, SUITES | _announced())
    if version and version != str(suite.version):
        raise ValueError(
            f"suite {name!r} is not in this release, which has {suite.label}; install the release that has it"
        )
    return suite


@functools.cache
def _announced() -> dict[str, Suite]:
    """The suites of other packages, by their entry points in the group mad.suites."""
    found: dict[str, Suite] = {}
    for point in importlib.metadata.entry_points(group="mad.suites"):
        where = f"entry point {point.name!r} of group mad.suites ({point.value})"
        try:
            loaded = point.load()
        except Exception as error:
            raise ValueError(f"{where} cannot be loaded: {error}; repair or uninstall its package") from error
        suite = _suite(loaded, where)
        if suite.name in SUITES | found:
            raise ValueError(f"{where}: the name {suite.name!r} is taken; choose another")
        found[suite.name] = suite
    return found


def _suite(found: object, where: str) -> Suite:
    if not isinstance(found, Suite):
        raise ValueError(f"{where} is a {type(found).__name__}; name a mad.data.protocol.Suite")
    return found


def _get(kind: str, name: str, known: dict[str, _T]) -> _T:
    if name not in known:
        hint = near(name, known, cutoff=0.5)
        raise ValueError(f"unknown {kind} {name!r}{hint}; available: {', '.join(known)}")
    return known[name]
