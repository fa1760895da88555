"""Which runs of a store are meant, and a table of them."""

from __future__ import annotations

import datetime
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from heapq import nlargest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from architectures.grammar.outline import SpecError, outline
from architectures.grammar.presets import PRESETS
from mad.data.bounds import LARGEST_WHOLE
from mad.data.labels import meanings
from mad.data.records import Record
from mad.data.stored import StoredRecord
from mad.data.tasks import spelled
from mad.messages import near
from mad.score.naming import spelling
from mad.store.checking import kinds
from mad.store.store import Store

if TYPE_CHECKING:
    import pandas

STATUSES = ("ok", "stopped", "diverged", "failed", "interrupted")
UNITS = {"h": "hours", "d": "days", "w": "weeks"}
# By the names of the table's columns, and the dtypes of those that may be missing.
NUMBERS = {"lr": "float64", "weight_decay": "float64", "seed": "Int64", "accuracy": "float64"}
NUMBERS |= {"loss": "float64", "seconds": "float64"}
COLUMNS = ("id", "kind", "architecture", "given", "spec", "suite", "task", "setting", *NUMBERS)
COLUMNS += ("status", "created", "imported")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What runs must be to be listed; None: anything.

    suite         the one that they were made for, "quick" or "quick@1"
    task          the name of the task, or of the text that a language model read
    architecture  a whole spec however it is spelled, a preset's name or a label, as typed or as listed
    status        one of `STATUSES`
    seed          of data, order and initial weights
    since         when they were made: a date or time, or how long ago: "2026-11-01", "12h", "7d", "2w"
    """

    suite: str | None = None
    task: str | None = None
    architecture: str | None = None
    status: str | None = None
    seed: int | None = None
    since: str | None = None

    def __post_init__(self) -> None:
        if self.status is not None and self.status not in STATUSES:
            hint = near(self.status, STATUSES)
            raise ValueError(f"unknown status {self.status!r}{hint}; choose from {', '.join(STATUSES)}")
        if self.since is not None:
            moment(self.since)

    @property
    def given(self) -> dict[str, Any]:
        """What was asked for."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if value is not None}


def moment(text: str) -> datetime.datetime:
    """The time that a text names: a date, a time (UTC where it does not say), or how long ago."""
    if ago := re.fullmatch(r"([0-9]{1,5})([hdw])", text.strip()):
        return datetime.datetime.now(datetime.UTC) - datetime.timedelta(**{UNITS[ago[2]]: int(ago[1])})
    try:
        return _aware(text.strip())
    except ValueError:
        raise ValueError(
            f"{text!r} is not a time; write a date, 2026-11-01, a time, 2026-11-01T18:00, or how long ago: "
            "12h, 7d, 2w"
        ) from None


def _aware(text: str) -> datetime.datetime:
    time = datetime.datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Listing:
    """The newest of the runs that match, the oldest of them first; `count` matched. `known` is what the runs
    say where some are asked for and none is: a name of an option and its values.
    """

    runs: list[StoredRecord]
    count: int
    known: Mapping[str, set[str]]


def listing(store: Store, wanted: Wanted, *, limit: int | None = None) -> Listing:
    """The runs of a store that are wanted, of every kind, at most `limit` of them. A note names what cannot
    be understood.
    """
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(
            f"limit={limit!r} is not a whole number of at least 1; leave it out to list all runs"
        )
    known: dict[str, set[str]] = defaultdict(set)
    count = 0

    def matching() -> Iterator[StoredRecord]:
        nonlocal count
        match = Match(wanted)
        for run in _all(store):
            if match(run):
                count += 1
                yield run
            elif not count:
                for name in wanted.given:
                    known[name] |= {value for value in run.known().get(name, ()) if value}

    most = LARGEST_WHOLE if limit is None else limit
    if most < LARGEST_WHOLE:
        newest = nlargest(most, matching(), key=lambda run: (run.created, run.id))[::-1]
    else:
        newest = sorted(matching(), key=lambda run: (run.created, run.id))
    return Listing(newest, count, {} if count else known)


def _all(store: Store) -> Iterator[StoredRecord]:
    yield from store.outlines()
    for kind in kinds().values():
        if kind is not Record:
            yield from store.records(kind)


class Match:
    """Whether a run is what is wanted."""

    def __init__(self, wanted: Wanted) -> None:
        self.names = {
            name: wanted.given[name] for name in ("suite", "task", "status") if name in wanted.given
        }
        self.seed, self.architecture = wanted.seed, wanted.architecture
        self.since = None if wanted.since is None else moment(wanted.since)
        *_, asked = texts = meanings(wanted.architecture or "")
        self.texts, preset = set(texts), PRESETS.get(asked)
        self.shape = _shape(preset.spec if preset else asked)
        self.options = (
            {}
            if preset is None
            else {
                field.name: value
                for field in fields(preset.options)
                if (value := getattr(preset.options, field.name)) != field.default
            }
        )
        self.shapes: dict[str, Any] = {}

    def __call__(self, run: StoredRecord) -> bool:
        if self.seed is not None and run.config.seed != self.seed:
            return False
        if self.since is not None and _aware(run.created) < self.since:
            return False
        known = run.known()
        if any(value not in known.get(name, ()) for name, value in self.names.items()):
            return False
        return self.architecture is None or self._is_meant(run, known["architecture"])

    def _is_meant(self, run: StoredRecord, names: set[str | None]) -> bool:
        if names & self.texts:
            return True
        spec, options = run.config.architecture.spec, run.config.architecture.options
        if spec not in self.shapes:
            self.shapes[spec] = _shape(spec)
        same = self.shape is not None and self.shape == self.shapes[spec]
        return same and all(options.get(name) == value for name, value in self.options.items())


def _shape(spec: str) -> Any:
    """The layers of a spec, whichever way it is spelled; None where it is none."""
    try:
        return outline(spec)
    except SpecError:
        return None


def runs(
    *,
    suite: str | None = None,
    task: str | None = None,
    architecture: str | None = None,
    status: str | None = None,
    seed: int | None = None,
    since: str | None = None,
    limit: int | None = None,
    store: str | Path | None = None,
) -> pandas.DataFrame:
    """The stored runs, one row each, the newest last; without options all of them.

    suite         those that were made for this suite: "quick", "quick@1"
    task          of this task, by its name; of language models by that of their text
    architecture  of this spec, however it is spelled, preset or label; a part of a name is none
    status        "ok", "stopped", "diverged", "failed" or "interrupted"
    seed          with this seed
    since         made since a date or time, or so long ago: "2026-11-01", "12h", "7d", "2w"
    limit         only so many, the newest; `attrs["count"]` of the table says how many there are
    store         path of the store; None: $MAD_STORE, else the user's data directory

    Columns: `id`, `kind` ("battery", "language"), `architecture`, `given` (as typed), `spec`, `suite`,
    `task`, `setting` (the task with all its options), `lr`, `weight_decay`, `seed`, `accuracy` (of the test
    split, by the metric of the run's protocol), `loss` (of the test split; of language models on held-out
    text), `seconds`, `status`, `created`, `imported`.
    """
    wanted = Wanted(suite=suite, task=task, architecture=architecture, status=status, seed=seed, since=since)
    with Store(store, read_only=True) as opened:
        return frame(listing(opened, wanted, limit=limit))


def frame(found: Listing) -> pandas.DataFrame:
    """The table of `runs`."""
    import pandas

    table = pandas.DataFrame(map(_row, found.runs), columns=COLUMNS)
    table.attrs["count"] = found.count
    return table.astype(NUMBERS)


def names_of(run: StoredRecord) -> tuple[str, str, str]:
    """What the architecture is called, what was typed for it, and its spec, as on the leaderboard."""
    if isinstance(run, Record):
        called = spelling([run])
        return called.label, called.given, called.spec
    return run.config.architecture.label, run.given, run.config.architecture.label


def _row(run: StoredRecord) -> tuple[Any, ...]:
    battery = isinstance(run, Record)
    return (
        run.id,
        "battery" if battery else run.table,
        *names_of(run),
        run.suite if isinstance(run, Record) else None,
        run.subject,
        spelled(run.config.task) if battery else None,
        run.config.lr,
        run.config.weight_decay,
        run.config.seed,
        *run.outcome,
        run.cost and run.cost.seconds,
        run.status,
        run.created,
        run.imported,
    )
