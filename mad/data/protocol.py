"""Protocols and suites: how a run is trained, selected and scored, and what is run. Data, with versions.

A protocol is the referee: optimiser, schedule, selection, metric, stopping. A suite is the exam: settings,
grid, budget and seeds. A change of either is a new version, and an old result keeps the version that it was
made with.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mad.data import suites
from mad.data.bounds import MOST_ENTRIES, Amount, Fraction, Positive, Seed, Signed, Text, Whole, Word
from mad.data.tasks import identify, read_task
from mad.messages import near
from synthetic_tasks import Task


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


SOUND = Protocol(
    name="sound",
    version=1,
    betas=(0.9, 0.98),
    schedule="cosine",
    select_on="validation",
    metric="micro",
    hints=True,
    variant="repaired",
)
PROTOCOLS = {
    "sound": SOUND,
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


def _different(values: tuple[float, ...]) -> tuple[float, ...]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value:g} is given twice; give each point of the grid once")
    return values


Axis = Annotated[tuple[Amount, ...], Field(min_length=1, max_length=MOST_ENTRIES), AfterValidator(_different)]


class Setting(Data):
    """One question at one difficulty with its budget: a row of a suite.

    task                  with its options, "in-context-recall[seq_len=64]"; or package.module:Task
    train_examples        sequences that are trained on
    epochs                passes over them
    batch_size            sequences per step
    lrs, weight_decays    the grid: every learning rate with every weight decay
    evaluations           points of the curve
    validation_examples, test_examples  sequences that choose the grid point, and that score it
    """

    task: Annotated[Text, Field(min_length=1)]
    train_examples: Positive
    epochs: Positive
    batch_size: Positive
    lrs: Axis
    weight_decays: Axis
    evaluations: Positive = 10
    validation_examples: Positive = 1280
    test_examples: Positive = 1280

    def resolve(self, protocol: Protocol) -> Task:
        """The task of this setting, with the generators that the protocol wants."""
        return read_task(self.task, protocol.variant)

    @property
    def budget(self) -> dict[str, int]:
        """What of a setting, beside its task, decides what its runs can be compared with."""
        return {name: getattr(self, name) for name in BUDGET}

    @property
    def steps(self) -> int:
        return self.epochs * -(-self.train_examples // self.batch_size)

    @property
    def grid(self) -> list[tuple[float, float]]:
        """Every (learning rate, weight decay)."""
        return [(lr, wd) for lr in self.lrs for wd in self.weight_decays]


BUDGET = ("train_examples", "epochs", "batch_size", "evaluations", "validation_examples", "test_examples")


class Suite(Data):
    """The exam. Its identity is its content; its name is a label.

    name, version  its label, name@version
    about          what it is for, in a line
    dim            width of the models
    seeds          how many seeds each architecture is trained with
    settings       the questions, each a `Setting`
    """

    name: Annotated[Word, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: Positive = 1
    about: Text = ""
    dim: Positive
    seeds: Positive = 1
    settings: Annotated[tuple[Setting, ...], Field(min_length=1, max_length=MOST_ENTRIES)]

    @property
    def label(self) -> str:
        """name@version; of one that is not ours with the hash of its content, for two may have one name."""
        label = f"{self.name}@{self.version}"
        ours = SUITES.get(label)
        if ours is not None and all(getattr(ours, part) == getattr(self, part) for part in CONTENT):
            return label
        settings = [(identify(s.resolve(SOUND)), s.budget, s.lrs, s.weight_decays) for s in self.settings]
        text = json.dumps([self.dim, self.seeds, settings], sort_keys=True)
        return f"{label}+{hashlib.sha256(text.encode()).hexdigest()[:4]}"

    @property
    def runs(self) -> int:
        """How often an architecture is trained."""
        return self.seeds * sum(len(setting.grid) for setting in self.settings)

    @property
    def steps(self) -> int:
        """Of all these runs together, if none ends early."""
        return self.seeds * sum(len(setting.grid) * setting.steps for setting in self.settings)

    @classmethod
    def read(cls, path: str | Path) -> "Suite":
        """The suite of a TOML file (docs/own-task.md); a ValueError names what is wrong in it, and where."""
        from mad.data.suite_files import read

        return read(path)

    def toml(self) -> str:
        """The suite as `read` reads it."""
        from mad.data.suite_files import write

        return write(self)


CONTENT = ("dim", "seeds", "settings")


class _Suites(dict[str, Suite]):
    """Suites by label; a bare name is the newest version."""

    def __missing__(self, name: str) -> Suite:
        versions = [suite for suite in self.values() if suite.name == name]
        if not versions:
            raise KeyError(name)
        return max(versions, key=lambda suite: suite.version)


def _ours() -> _Suites:
    found = _Suites()
    for label, data in suites.SUITES.items():
        name, _, version = label.partition("@")
        found[label] = Suite(name=name, version=int(version), **data)
    return found


SUITES = _ours()


def get_protocol(name: str) -> Protocol:
    if name not in PROTOCOLS:
        hint = near(name, PROTOCOLS, cutoff=0.5)
        raise ValueError(f"unknown protocol {name!r}{hint}; available: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def get_suite(suite: str | Path | Suite) -> Suite:
    """A suite by name or name@version, of ours or of another package; package.module:NAME; a TOML file, which
    ends in .toml or has a folder before it; or a suite as it is. Its tasks are read, so that their code runs.
    """
    if isinstance(suite, Suite):
        return _checked(suite, f"suite {suite.name}@{suite.version}")
    if isinstance(suite, Path) or suite.endswith(".toml") or "/" in suite or os.sep in suite:
        return Suite.read(suite)
    if ":" in suite:
        from architectures.registry import load_object  # Loads torch.

        return _checked(_suite(load_object(suite), suite), suite)
    found = _named(suite, known_suites())
    return found if found in SUITES.values() else _checked(found, f"suite {suite}")


def known_suites() -> dict[str, Suite]:
    """The suites that have a name, ours first, by name@version."""
    return _Suites(SUITES | _announced())


def _named(name: str, known: dict[str, Suite]) -> Suite:
    bare, _, version = name.partition("@")
    versions = sorted(found.version for found in known.values() if found.name == bare)
    if not versions:
        names = dict.fromkeys(found.name for found in known.values())
        hint = near(bare, names, cutoff=0.5)
        raise ValueError(
            f"unknown suite {name!r}{hint}; available: {', '.join(names)}, or a file of your own: mine.toml"
        )
    if version and version not in map(str, versions):
        those = ", ".join(f"{bare}@{number}" for number in versions)
        raise ValueError(
            f"suite {name!r} is not in this release, which has {those}; choose one, or install the release "
            "that has it"
        )
    return known[name]


def fault(suite: Suite) -> tuple[int, str] | None:
    """The place of the first setting that cannot be run, or is there twice, and why."""
    seen: dict[str, int] = {}
    for place, setting in enumerate(suite.settings):
        try:
            # The variant is the protocol's: two that differ by it alone are one.
            asked = json.dumps([identify(setting.resolve(SOUND)), setting.budget], sort_keys=True)
        except ValueError as error:
            return place, str(error)
        if asked in seen:
            return place, f"it is setting {seen[asked] + 1} again; change its task or budget, or leave it out"
        seen[asked] = place
    return None


def _checked(suite: Suite, where: str) -> Suite:
    if (found := fault(suite)) is not None:
        place, why = found
        raise ValueError(f"{where}, setting {place + 1} ({suite.settings[place].task}): {why}")
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
        label = f"{suite.name}@{suite.version}"
        if label in found or suite.name in suites.NAMES:
            raise ValueError(f"{where}: the name {suite.name!r} is taken; choose another")
        found[label] = suite
    return found


def _suite(found: object, where: str) -> Suite:
    if not isinstance(found, Suite):
        raise ValueError(f"{where} is a {type(found).__name__}; name a mad.data.protocol.Suite")
    return found
