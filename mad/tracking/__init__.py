"""Mirrors of the store: what runs did and scored, told to W&B, TensorBoard or tables while they go on.

A tracker is a class that gets `Head`, `Row` and `Tail`, in a process of its own, which can neither fail nor
slow a run. The store stays the only truth, and what it holds can be told later (`push`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, cast, get_args

from architectures.files import resolved
from mad.data.trails import Head, Row, Tail, Trail
from mad.messages import near
from mad.store.location import default_path
from mad.tracking import trackers

if TYPE_CHECKING:
    from mad.data.protocol import Suite

By = Literal["run", "architecture"]


class Tracker(Protocol):
    """One entry of `mad.tracking.trackers`, or a class of the user's own.

    by  what one run of the tracker shows unless something else is asked for
    """

    by: ClassVar[By]

    def __init__(self, folder: Path, place: Place) -> None:
        """Write into a subfolder of `folder`."""
        ...

    @staticmethod
    def require() -> None:
        """ValueError where what it needs is not installed; asked in the process of the runs."""
        ...

    def begin(self, head: Head) -> None:
        """A run begins. Several may go on at a time."""
        ...

    def log(self, id: str, rows: Sequence[Row]) -> None:
        """The next points of the curve of a run."""
        ...

    def end(self, id: str, tail: Tail) -> None:
        """A run has ended."""
        ...

    def show(self, trail: Trail) -> None:
        """A run that was made before, whole. Shown twice it is there once."""
        ...

    def close(self) -> None:
        """Nothing follows. Runs that have not ended were broken off."""
        ...


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a tracker is.

    driver  the process that trains, by its number; None where what is told was made before
    tell    says a sentence to the user
    """

    driver: int | None = None
    tell: Any = print


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """What is tracked where.

    names   of trackers: entries here, or package.module:Class
    by      what one run of a tracker shows: one run, or all of an architecture in a suite; None: as each
            tracker has it
    folder  that gets a subfolder for each tracker
    """

    names: tuple[str, ...]
    folder: Path
    by: By | None = None


@dataclass(frozen=True, kw_only=True)
class Roster:
    """What the runs that are told of belong to: suites by their labels, and how many runs a family has."""

    suites: Mapping[str, Suite] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


def names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(trackers.__path__)]


def get_tracker(name: str) -> type[Tracker]:
    """The class of a tracker. ValueError where there is none, or where it lacks what it needs."""
    if ":" in name:
        try:
            found = pkgutil.resolve_name(name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"tracker {name!r} cannot be loaded ({error}); name package.module:Class"
            ) from None
    elif name in names():
        found = importlib.import_module(f"{trackers.__name__}.{name}").Mirror
    else:
        raise ValueError(
            f"unknown tracker {name!r}{near(name, names())}; available: {', '.join(names())}, or "
            "package.module:Class"
        )
    tracker = cast("type[Tracker]", found)
    tracker.require()
    return tracker


def read_tracking(
    track: str | Sequence[str] | None,
    *,
    by: str | None = None,
    folder: str | Path | None = None,
    store: str | Path | None = None,
) -> Tracking | None:
    """What was asked for, checked; None where nothing was. The folder lies beside the store by default."""
    listed = track.split(",") if isinstance(track, str) else list(track or ())
    wanted = tuple(dict.fromkeys(name for one in listed if (name := one.strip())))
    if by is not None and by not in get_args(By):
        raise ValueError(f"track_by={by!r} is not one of {', '.join(get_args(By))}{near(by, get_args(By))}")
    for name in wanted:
        get_tracker(name)
    if not wanted:
        if by is not None or folder is not None:
            raise ValueError(f"nothing is tracked; name a tracker: {', '.join(names())}")
        return None
    if folder is None:
        beside = default_path() if store is None else resolved(store)
        where = beside.with_name(f"{beside.name}.tracks")
    else:
        where = resolved(folder)
    return Tracking(names=wanted, by=cast("By | None", by), folder=where)
