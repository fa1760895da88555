"""Engines run the groups of a sweep; a new one is a module here, whose `run` is an `Engine`."""

import importlib
import pkgutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from torch import nn

from mad.data.records import Record
from mad.messages import near
from mad.run.place import Place
from mad.run.sweep import Group
from mad.run.trainer import Progress, Replicas
from mad.store import Store

# Steps of all runs together from which processes of their own pay.
FEWEST_STEPS = 1000


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the groups are run.

    place        device and precision
    replicas      "batched" trains a group's grid as one model, "turns" one after another, "auto" what is
                  faster
    workers       how many processes at the most; None: one per core or device
    ray_address   of the cluster that engine "ray" connects to; None: $RAY_ADDRESS, the Ray of the program, or
                  a new one
    cell_timeout  seconds after which a group is given up; None: a multiple of its estimate
    planned       told, once cells are checked, which groups will be trained
    report        told where a running group stands
    keep          given the trained model of a group of one run, which is trained for that even where the
                  store holds the run
    """

    place: Place
    workers: int | None = None
    ray_address: str | None = None
    cell_timeout: float | None = None
    replicas: Replicas = "auto"
    planned: Callable[[Sequence[Group]], None] = lambda groups: None
    report: Callable[[Group, Progress], None] = lambda group, progress: None
    keep: Callable[[nn.Module], None] | None = None


class Engine(Protocol):
    """Check the cells of the groups that the store does not hold, then run those groups, commit each as it
    ends, and yield its records; those that are stored are yielded first.

    ValueError where a cell is refused, before any training. Of a group whose architecture is not stored
    nothing is committed. The results are those of every other engine on the same device, with as many
    threads.
    """

    def __call__(
        self, groups: Sequence[Group], store: Store | None, options: Options, /
    ) -> Generator[tuple[Group, list[Record]]]: ...


def get_engine(name: str) -> Engine:
    known = [module.name for module in pkgutil.iter_modules(__path__)]
    if name not in known:
        raise ValueError(f"unknown engine {name!r}{near(name, known)}; available: {', '.join(known)}")
    return cast(Engine, importlib.import_module(f"{__name__}.{name}").run)


def choose(groups: Sequence[Group], store: Store | None, place: Place) -> str:
    """The engine for these groups: "process" where several can run at a time, and long enough to make up for
    the seconds in which a process starts.
    """
    from mad.run.workers.pool import slots

    wanted = split(groups, store)[1]
    steps = sum(group.cell.setting.steps * len(group.cell.setting.grid) for group in wanted)
    several = len(wanted) > 1 and len(slots(place, None)) > 1
    return "process" if several and steps >= FEWEST_STEPS else "inline"


def store_of(group: Group, store: Store | None) -> Store | None:
    """Where the group's records go: nowhere, if its architecture has no name to be found by."""
    return store if group.cell.architecture.stored else None


def split(groups: Sequence[Group], store: Store | None) -> tuple[list[Group], list[Group]]:
    """The groups that are stored whole, and the others."""
    stored: list[Group] = []
    wanted: list[Group] = []
    for group in groups:
        kept = store_of(group, store)
        (wanted if kept is None or missing(group, kept) else stored).append(group)
    return stored, wanted


def stored_records(group: Group, store: Store | None) -> list[Record]:
    """The records of a group that is stored whole."""
    assert store is not None
    return [record for id in group.run_ids if (record := store.get(id)) is not None]


def missing(group: Group, store: Store) -> list[str]:
    """The runs of a group that are not stored: none means that there is nothing to do."""
    hits = store.hits(group.id, group.run_ids)
    return [id for id in group.run_ids if id not in hits]


def commit(group: Group, records: list[Record], store: Store | None) -> None:
    """Write a group's records, but for the runs that are stored already: another driver came first, or they
    came out of another grid, were repeated for this one, and stay as they are.
    """
    if (kept := store_of(group, store)) is not None:
        kept.commit(records, once=True)
