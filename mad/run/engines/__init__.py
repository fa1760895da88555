"""Engines run the groups of a sweep; a new one is a module here, with `run`, an `Engine`, and `TAKES`.

TAKES names which of `workers`, `cell_timeout` and `ray_address` the engine heeds.
"""

import importlib
import pkgutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

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


def names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__)]


def get_engine(name: str) -> Engine:
    return cast(Engine, _module(name).run)


def _module(name: str) -> Any:
    if name not in names():
        raise ValueError(
            f"unknown engine {name!r}{near(name, names())}; available: auto, {', '.join(names())}"
        )
    return importlib.import_module(f"{__name__}.{name}")


def check_engine(
    engine: str,
    *,
    workers: int | None = None,
    cell_timeout: float | None = None,
    ray_address: str | None = None,
) -> None:
    """Refuse an engine that is not there, and what it cannot heed."""
    if workers is not None and (type(workers) is not int or workers < 1):
        raise ValueError(f"workers={workers!r} is not a whole number of at least 1")
    if cell_timeout is not None and not (type(cell_timeout) in (int, float) and cell_timeout > 0):
        raise ValueError(f"cell_timeout={cell_timeout!r} is not a number of more than 0 seconds")
    if engine == "auto":
        return
    takes = _module(engine).TAKES
    given = {"workers": workers, "cell_timeout": cell_timeout, "ray_address": ray_address}
    for option in (option for option, value in given.items() if value is not None):
        if option not in takes:
            others = " or ".join(name for name in names() if option in _module(name).TAKES)
            what = f"{option}={given[option]!r}"
            raise ValueError(f"engine {engine} cannot heed {what}; leave it out, or take engine {others}")


def choose(groups: Sequence[Group], store: Store | None, options: Options) -> str:
    """The engine for these groups: one that heeds what is asked for, else "process" where several can run at
    a time, and long enough to make up for the seconds in which a process starts.
    """
    from mad.run.workers.pool import slots

    if options.ray_address is not None:
        return "ray"
    if options.workers is not None or options.cell_timeout is not None:
        return "process"
    wanted = split(groups, store)[1]
    steps = sum(group.cell.setting.steps * len(group.cell.setting.grid) for group in wanted)
    several = len(wanted) > 1 and len(slots(options.place, None)) > 1
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
