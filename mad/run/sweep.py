"""From architectures and a suite to cells: what there is to run, and in which groups."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import architectures
import synthetic_tasks
from architectures.builder import seeded
from architectures.contract.whole import Candidate
from architectures.grammar.outline import spell_options
from architectures.model import resolve_options
from architectures.outside.identity import code_hash
from architectures.registry import get, load_object
from mad.data import labels
from mad.data.protocol import Protocol, Setting, Suite
from mad.data.records import ArchitectureConfig, Cost, RunConfig, content_hash, setting_fields
from mad.data.tasks import name_of
from mad.messages import note
from mad.run.iso import Goals, equalise
from synthetic_tasks import Task

Factory = Callable[[Task], nn.Module]
Resize = Callable[[architectures.Spec], architectures.Spec]
CONTRACT_ROWS = 32


@dataclass(frozen=True)
class Architecture:
    """Who answers: `config` identifies it, `build` makes it from a spec or by a factory of whole models.

    `given` is what was typed, its label included, and `label` that label by itself, "" for none. `stored` is
    False for a nameless factory.
    """

    given: str
    config: ArchitectureConfig
    spec: architectures.Spec | None = None
    factory: Factory | None = None
    stored: bool = True
    label: str = ""

    def build(self, task: Task, seed: int) -> nn.Module:
        if self.factory is None:
            assert self.spec is not None and self.config.dim is not None
            return architectures.build(
                self.spec,
                vocab_size=task.vocab_size,
                dim=self.config.dim,
                max_len=task.seq_len,
                readout=task.readout,
                seed=seed,
                options=architectures.ModelOptions(**self.config.options),
            )
        with seeded(seed, "model"):
            model = self.factory(task)
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"{self.given} returned a {type(model).__name__} for task {task}; a factory returns an "
                "nn.Module that maps tokens (B, T) to logits (B, T, vocab_size)"
            )
        return model


def factory_named(text: str) -> Factory | None:
    """The function that "package.module:function" names; None where the text is a spec."""
    path = ":" in text and text.replace(":", "").replace(".", "").replace("_", "").isalnum()
    loaded = load_object(text) if path else None
    return loaded if inspect.isfunction(loaded) else None


def candidates(factory: Factory, suite: Suite, protocol: Protocol) -> list[Candidate]:
    """The models of a factory for the tasks of a suite, to be put to the contract."""
    return [
        Candidate(
            name=str(task),
            file=inspect.getfile(factory),
            make=functools.partial(factory, task),
            tokens=torch.from_numpy(task.draw(0, "train", CONTRACT_ROWS).inputs),
            vocab_size=task.vocab_size,
            causal=task.readout == "every",
        )
        for task in (setting.resolve(protocol) for setting in suite.settings)
    ]


def resolve(
    given: str | architectures.Spec | Factory,
    *,
    dim: int,
    protocol: Protocol,
    equalise: Resize | None = None,
) -> Architecture:
    """The architecture of a spec, a preset's name, package.module:name, each with a label before it if you
    like, or of a factory `(task) -> module`.

    `equalise` resizes a spec; a factory makes whole models, whose sizes are its own.
    """
    if not isinstance(given, str):
        return _resolved(given, dim, protocol, equalise)
    label, asked = labels.read(given)
    found = _resolved(asked, dim, protocol, equalise)
    # What was typed, and where it was resized what it became.
    typed = given.strip() if found.given == asked else f"{label}={found.given}" if label else found.given
    return dataclasses.replace(found, given=typed, label=label)


def _resolved(
    given: str | architectures.Spec | Factory, dim: int, protocol: Protocol, equalise: Resize | None
) -> Architecture:
    named = factory_named(given) if isinstance(given, str) else None
    if isinstance(given, str | architectures.Spec) and named is None:
        return _from_spec(given, dim, protocol, equalise)
    factory = named or given
    if not callable(factory):
        raise ValueError(
            f"{given!r} is not an architecture; give a spec, a preset's name or a factory (task) -> nn.Module"
        )
    if equalise is not None:
        what, remedy = (given, "") if named else (repr(given), " or give a spec")
        raise ValueError(f"{what} makes whole models, whose sizes cannot be turned; leave iso out{remedy}")
    path = f"{getattr(given, '__module__', '')}:{getattr(given, '__qualname__', '')}"
    return _from_factory(factory, str(given) if named else path)


def _from_spec(
    given: str | architectures.Spec, dim: int, protocol: Protocol, equalise: Resize | None
) -> Architecture:
    asked = architectures.parse(given)
    spec = asked if equalise is None else equalise(asked)
    entries = {layer.name: get(layer.name) for layer in spec.walk()}
    options = dataclasses.asdict(resolve_options(given)) | protocol.model
    default = dataclasses.asdict(architectures.ModelOptions())
    config = ArchitectureConfig(
        spec=str(spec),
        dim=dim,
        options={k: v for k, v in options.items() if v != default[k]},
        versions={name: entry.version for name, entry in sorted(entries.items())},
        sources={name: entry.source for name, entry in sorted(entries.items()) if entry.source},
    )
    # An architecture that was resized is no longer the one that was typed.
    own = {k: v for k, v in dataclasses.asdict(resolve_options(given)).items() if v != default[k]}
    resized = f"{spell_options(own)} {spec}".strip()
    return Architecture(given=str(given).strip() if spec == asked else resized, config=config, spec=spec)


def _from_factory(factory: Factory, name: str) -> Architecture:
    # A lambda, a local function or one typed into a session cannot be found again under its name.
    named = "<" not in name and not name.startswith("__main__:") and inspect.isfunction(factory)
    source = code_hash(factory) if named else ""
    version = int(getattr(factory, "version", 1))
    config = ArchitectureConfig(
        spec=name, dim=None, versions={name: version}, sources={name: source} if source else {}
    )
    return Architecture(given=name, config=config, factory=factory, stored=named)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One (architecture, setting): the unit of work. It holds one group per seed.

    cost      of its model, once that was built and tried
    failure   what the model raised then: the runs are not trained, and recorded so
    """

    architecture: Architecture
    setting: Setting
    protocol: Protocol
    seeds: tuple[int, ...]
    suite: str | None = None
    precision: str = "32-true"
    compile: bool = False
    cost: Cost | None = None
    failure: str | None = None

    @functools.cached_property
    def task(self) -> Task:
        return self.setting.resolve(self.protocol)

    def groups(self) -> list[Group]:
        return [Group(self, seed) for seed in self.seeds]


@dataclass(frozen=True)
class Group:
    """The grid points of one seed: replicas that share data, order and initial weights."""

    cell: Cell
    seed: int

    @functools.cached_property
    def runs(self) -> list[RunConfig]:
        cell = self.cell
        fixed: dict[str, Any] = {
            "architecture": cell.architecture.config,
            "seed": self.seed,
            "precision": cell.precision,
            "compile": cell.compile,
            **setting_fields(cell.setting, cell.protocol),
        }
        return [RunConfig(lr=lr, weight_decay=wd, **fixed) for lr, wd in cell.setting.grid]

    @functools.cached_property
    def run_ids(self) -> list[str]:
        return [run.id for run in self.runs]

    @functools.cached_property
    def id(self) -> str:
        return content_hash(self.run_ids)


def plan(
    specs: list[Any],
    suite: Suite,
    protocol: Protocol,
    *,
    seeds: int | None = None,
    tasks: list[str] | None = None,
    precision: str = "32-true",
    compile: bool = False,
    iso: Goals | None = None,
) -> list[Cell]:
    """Every cell of the architectures in a suite, after refusing what cannot be built. Nothing is trained.

    `tasks` keeps the settings of these task names; `seeds` replaces the suite's number of seeds; `iso` holds
    sizes that every architecture is brought to.
    """
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds={seeds} must be at least 1")
    settings = list(_chosen(suite, tasks, protocol))
    resized = functools.partial(equalise, goals=iso, suite=suite, protocol=protocol) if iso else None
    found = _distinct(resolve(given, dim=suite.dim, protocol=protocol, equalise=resized) for given in specs)
    return [
        Cell(
            architecture=architecture,
            setting=setting,
            protocol=protocol,
            seeds=tuple(range(seeds or suite.seeds)),
            suite=suite.label,
            precision=precision,
            compile=compile,
        )
        for architecture in found
        for setting in settings
    ]


def _distinct(resolved: Iterable[Architecture]) -> list[Architecture]:
    """Each architecture once, by its last label; one label for two of them is refused."""
    found: dict[str, Architecture] = {}
    labelled: dict[str, str] = {}
    for new in resolved:
        key = content_hash(new.config.model_dump(mode="json"))
        old = found.setdefault(key, new)
        if not new.label:
            continue
        if (other := labelled.setdefault(new.label, key)) != key:
            raise ValueError(
                f"label {new.label!r} is given to two architectures, {found[other].config.label} and "
                f"{new.config.label}; give each its own"
            )
        if old.label not in ("", new.label):
            note(f"{old.given!r} and {new.given!r} are one architecture: it runs once, as {new.label!r}")
        found[key] = new
    return list(found.values())


def _chosen(suite: Suite, tasks: list[str] | None, protocol: Protocol) -> Iterator[Setting]:
    present = [setting.resolve(protocol).name for setting in suite.settings]
    tasks = [name_of(name) for name in tasks or []]
    for name in tasks:
        if name not in present:
            synthetic_tasks.get(name)  # An unknown name is answered with the nearest one.
            raise ValueError(
                f"task {name!r} is not in suite {suite.label}, which has {', '.join(dict.fromkeys(present))}"
            )
    for setting, name in zip(suite.settings, present, strict=True):
        if not tasks or name in tasks:
            yield setting
