"""Engines run the groups of a sweep; a new one is a module here, whose `run` is an `Engine`."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from lightning.fabric import Fabric
from torch import nn

from mad.data.records import Record
from mad.messages import near
from mad.run.sweep import Group
from mad.run.trainer import Progress, Replicas
from mad.store import Store


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the groups are run.

    fabric    device and precision
    replicas  "batched" trains a group's grid as one model, "turns" one after another, "auto" what is faster
    report    told where a running group stands
    keep      given the trained model of a group of one run, which is trained for that even where the store
              holds the run
    """

    fabric: Fabric
    replicas: Replicas = "auto"
    report: Callable[[Group, Progress], None] = lambda group, progress: None
    keep: Callable[[nn.Module], None] | None = None


class Engine(Protocol):
    """Run the groups that the store does not hold, commit each as it ends, and yield its records.

    Of a group whose architecture is not stored nothing is committed. The records that an engine yields are
    those of every other engine on the same device.
    """

    def __call__(
        self, groups: Sequence[Group], store: Store | None, options: Options, /
    ) -> Iterator[tuple[Group, list[Record]]]: ...


def get_engine(name: str) -> Engine:
    known = [module.name for module in pkgutil.iter_modules(__path__)]
    if name not in known:
        raise ValueError(f"unknown engine {name!r}{near(name, known)}; available: {', '.join(known)}")
    return cast(Engine, importlib.import_module(f"{__name__}.{name}").run)


def missing(group: Group, store: Store) -> list[str]:
    """The runs of a group that are not stored: none means that there is nothing to do."""
    hits = store.hits(group.id, group.run_ids)
    return [id for id in group.run_ids if id not in hits]
