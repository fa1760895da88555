"""From a record back to the run that made it, rebuilt from its configuration alone, and run again."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import architectures
from mad.children import cores
from mad.data import labels
from mad.data.protocol import Setting
from mad.data.records import BUDGET, Record, RunConfig
from mad.data.tasks import identify, spelled
from mad.run.battery import watching
from mad.run.cost import require_memory
from mad.run.engines import Options, choose, get_engine
from mad.run.place import PRECISIONS, Place, find_place
from mad.run.runner import check_cell
from mad.run.sweep import Architecture, Cell, Group, resolve
from mad.trust.verdicts import Verdict
from synthetic_tasks import Task

# Relative size of what `shaken` adds to weights, at the most: some units in the last place of float32, as
# sums in another order differ. Less than one would be lost as it is added.
SHAKE = 2.0**-20


class Unlike(ValueError):
    """What a record was made by is not what is here: another version of a layer or a task, other code."""


def rebuild(runs: Sequence[Record]) -> Group:
    """A group with these runs, which differ in their grid points alone, as the engines run it: all points of
    their learning rates and weight decays.

    ValueError where it cannot be built here, `Unlike` where it would be another run.
    """
    first = runs[0]
    config = first.config
    setting = Setting(
        task=spelled(config.task),
        lrs=tuple(dict.fromkeys(run.config.lr for run in runs)),
        weight_decays=tuple(dict.fromkeys(run.config.weight_decay for run in runs)),
        **{name: getattr(config, name) for name in BUDGET},
    )
    _check_task(config, identify(setting.resolve(config.protocol)))
    cell = Cell(
        architecture=_architecture(first),
        setting=setting,
        protocol=config.protocol,
        seeds=(config.seed,),
        suite=first.suite,
        precision=config.precision,
        compile=config.compile,
    )
    group = Group(cell, config.seed)
    if not {run.id for run in runs} <= set(group.run_ids):
        raise Unlike(
            f"its configuration comes out as run {group.run_ids[0]} here; install the release that made it"
        )
    return group


def _check_task(config: RunConfig, found: Mapping[str, Any]) -> None:
    asked = config.task
    if found["version"] != asked["version"]:
        raise Unlike(f"{asked['name']}@{asked['version']} is now {asked['name']}@{found['version']}")
    if found.get("source") != asked.get("source"):
        raise Unlike(f"the code of {asked['name']} is not what it was")


def _architecture(run: Record) -> Architecture:
    """That of a record; what is here must be of the same versions and code."""
    config = run.config.architecture
    found = resolve(config.spec, dim=config.dim or 1, protocol=run.config.protocol)
    changed = [
        f"{name}@{version} is now {name}@{found.config.versions[name]}"
        for name, version in config.versions.items()
        if found.config.versions.get(name, version) != version
    ]
    changed += [
        f"the code of {name} was {source[:4]} and is now {found.config.sources[name][:4]}"
        for name, source in config.sources.items()
        if found.config.sources.get(name, source) != source
    ]
    if changed:
        raise Unlike("; ".join(changed))
    try:
        architectures.ModelOptions(**config.options)
    except TypeError as error:
        raise Unlike(f"its model options are not those of this release ({error})") from None
    if found.config.model_copy(update={"options": config.options}) != config:
        raise Unlike(f"its layers read as {found.config.spec!r} here, width {found.config.dim}")
    return dataclasses.replace(found, given=run.given, config=config)


@dataclass(frozen=True)
class Shaken(Architecture):
    """The same with weights that differ in their last digit, another way for each number: what another
    order of additions does, from the first step on.
    """

    number: int = 0

    def build(self, task: Task, seed: int) -> nn.Module:
        model = super().build(task, seed)
        generator = torch.Generator().manual_seed(self.number)
        with torch.no_grad():
            for weight in model.parameters():
                noise = 2 * torch.rand(weight.shape, generator=generator, dtype=torch.float32) - 1
                weight.mul_(1 + SHAKE * noise.to(weight.device))
        return model


def shaken(group: Group, number: int) -> Group:
    """The group again, with its weights shaken."""
    parts = {
        field.name: getattr(group.cell.architecture, field.name) for field in dataclasses.fields(Architecture)
    }
    return Group(dataclasses.replace(group.cell, architecture=Shaken(**parts, number=number)), group.seed)


@dataclass(frozen=True)
class Rerun:
    """A record, the group that repeats it, and where that runs."""

    record: Record
    group: Group
    place: Place
    threads: int


def plan(record: Record, companion: Record | None) -> Rerun | Verdict:
    """How a record is run again, beside its companion; a verdict where it is not."""
    if record.status == "stopped" and companion is None:
        why = "it was stopped when another run of its grid had solved the task, which is not among these"
        return Verdict(record=record, outcome="not run", why=why)
    try:
        group = rebuild([record] if companion is None else [record, companion])
        if (wrong := misnamed(record)) is not None:
            return Verdict(record=record, outcome="does not reproduce", why=wrong)
        place = _place(record)
        require_memory(group.cell)
    except Unlike as error:
        return Verdict(record=record, outcome="another version", why=str(error))
    except ValueError as error:
        return Verdict(record=record, outcome="not run", why=str(error))
    try:
        cell = check_cell(group.cell)
    except ValueError as error:
        return Verdict(record=record, outcome="does not reproduce", why=f"it is refused here: {error}")
    return Rerun(record, Group(cell, group.seed), place, _threads(record))


def misnamed(record: Record) -> str | None:
    """Why a record must not be called what it is: that is another architecture. None where it may."""
    try:
        _, typed = labels.read(record.given)
    except ValueError as error:
        return str(error) if labels.label_of(record.given) else None
    if ":" in typed:
        return None
    try:
        spec = str(architectures.parse(typed))
    except ValueError:  # A name of its own says nothing of another.
        return None
    return (
        None if spec == record.config.architecture.spec else f"it is called {record.given}, which is {spec}"
    )


def _place(record: Record) -> Place:
    """The kind of device that a record was made on, where there is one, else the processor."""
    precision, kind = record.config.precision, record.environment.get("device")
    if precision not in PRECISIONS:
        raise ValueError(f"its precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if kind in ("cuda", "mps"):
        with contextlib.suppress(ValueError):
            return find_place(kind, precision)
    return find_place("cpu", precision)


def _threads(record: Record) -> int:
    """As many as it was made with, which decide the order of sums, where this machine has them."""
    threads = record.environment.get("threads")
    return threads if isinstance(threads, int) and 1 <= threads <= cores() else 1


def run(reruns: Sequence[Rerun], number: int, *, progress: bool | None) -> Iterator[tuple[str, Record]]:
    """Run these groups, number 0 as they are and others shaken; yields ids with new records. Those of one
    thread go to the engine that `mad bench` would take.
    """
    alike: dict[tuple[Place, int], list[tuple[Rerun, Group]]] = defaultdict(list)
    for again in reruns:
        group = shaken(again.group, number) if number else again.group
        alike[again.place, again.threads].append((again, group))
    for (place, threads), pairs in alike.items():
        groups = {group.id: group for _, group in pairs}
        with watching(list(groups.values()), place, progress=progress) as watcher, _using(threads):
            options = Options(place=place, planned=watcher.planned, report=watcher.report)
            engine = choose(list(groups.values()), None, options) if threads == 1 else "inline"
            with contextlib.closing(get_engine(engine)(list(groups.values()), None, options)) as running:
                made: dict[tuple[str, str], Record] = {}
                for group, records in running:
                    made |= {(group.id, record.id): record for record in records}
                    watcher.ended(group, records)
        for again, group in pairs:
            yield again.record.id, made[group.id, again.record.id]


@contextlib.contextmanager
def _using(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
