"""Run records again, and say whether they reproduce. Reading executes nothing; torch loads with the work."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mad.data.records import DONE, Record
from mad.messages import last_words
from mad.store import Store
from mad.trust.noise import REPEATS
from mad.trust.verdicts import Verdict, judge

RUN = "[0-9a-f]{6,20}"


def verify(
    source: str | Path,
    *,
    sample: int | None = None,
    seed: int = 0,
    store: str | Path | None = None,
    allow_code: bool = False,
    progress: bool | None = None,
) -> list[Verdict]:
    """Run records again and say of each whether it reproduces: bit for bit where it was made in a place like
    this one, else within what rounding does to it.

    source      a file as `mad export` writes, or the id of a stored run
    sample      of so many records only, drawn so that every architecture is as likely; None: of all
    seed        of that draw
    store       where a run is looked up; None: $MAD_STORE, else the user's data directory
    allow_code  also run records that name package.module:Class, which imports that module
    progress    whether to say on standard error how far it is; None: in a terminal or a notebook

    Nothing is stored. What cannot be read is refused with a ValueError before any work.
    """
    if sample is not None and sample < 1:
        raise ValueError(f"sample={sample} must be at least 1; leave it out to run every record again")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed} is refused; choose one from 0 to 2**32 - 1")
    asked, known, _ = read(source, store)
    if sample is not None:
        asked = draw([record for record in asked if record.status in DONE], sample, seed)
    from mad.trust.rerun import Rerun, plan, run

    settled: dict[str, Verdict] = {}
    reruns: dict[str, Rerun] = {}
    for record in asked:
        found = unasked(record, allow_code=allow_code) or plan(record, companion(record, known))
        if isinstance(found, Verdict):
            settled[record.id] = found
        else:
            reruns[record.id] = found
    made: dict[str, list[Record]] = {id: [] for id in reruns}
    for number in range(1 + REPEATS):
        for id, record in run(list(reruns.values()), number, progress=progress):
            made[id].append(record)
        for id in list(reruns):
            verdict = _verdict(reruns[id].record, made[id], last=number == REPEATS)
            if verdict is not None:
                settled[id] = verdict
                del reruns[id]
    return [settled[record.id] for record in asked]


def _verdict(record: Record, made: Sequence[Record], *, last: bool) -> Verdict | None:
    """None while more re-runs are to decide. Runs that fail here say nothing more when they are shaken."""
    newest = made[-1]
    if newest.status == "failed":
        why = f"it fails here: {last_words(newest.error)}"
        lacking = (newest.error or "").startswith("MemoryError")
        return Verdict(record=record, outcome="not run" if lacking else "does not reproduce", why=why)
    return judge(record, made) if len(made) == 1 or last else None


def unasked(record: Record, *, allow_code: bool) -> Verdict | None:
    """The verdict of a record that is not run again, from what stands in it."""
    if record.status not in DONE:
        return Verdict(record=record, outcome="not run", why=f"it {record.status}, and has no result")
    if (named := foreign(record)) and not allow_code:
        why = f"it names code, {', '.join(named)}; with --allow-code that is imported and run"
        return Verdict(record=record, outcome="not run", why=why)
    return None


def read(source: str | Path, store: str | Path | None = None) -> tuple[list[Record], list[Record], int]:
    """Of a file, or of a run of the store: the records that are asked about, all that are there to explain
    them, and how many are of another kind. Every record was checked; nothing that one names is imported.
    """
    from mad.store.exchange import read_records

    if re.fullmatch(RUN, str(source)) and not Path(source).exists():
        with Store(store, read_only=True) as opened:
            found = opened.find(str(source))
            if found.record is None:
                raise ValueError(f"run {found.id} cannot be understood ({found.reason}); `mad rm {found.id}`")
            if not isinstance(found.record, Record):
                raise ValueError(
                    f"run {found.id} is a language model; only runs of the battery are run again, see "
                    "`mad scaling train`"
                )
            return [found.record], opened.records(), 0
    everything = read_records(source)
    records = [record for record in everything if isinstance(record, Record)]
    if not records:
        raise ValueError(f"{source} holds no run of the battery; give a file of runs that `mad export` wrote")
    seen: set[str] = set()
    for record in records:
        if record.id in seen:
            raise ValueError(f"{source} holds run {record.id} twice; leave one of them, or export it again")
        seen.add(record.id)
    return records, records, len(everything) - len(records)


def draw(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """So many records, each time of an architecture drawn from all that have one left: one with few runs is
    hit as often as one with many.
    """
    left: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.id):
        left[record.config.architecture_key].append(record)
    chance, found = np.random.default_rng(seed), list[Record]()
    while left and len(found) < count:
        names = sorted(left)
        name = names[chance.integers(len(names))]
        found.append(left[name].pop(chance.integers(len(left[name]))))
        if not left[name]:
            del left[name]
    return found


def foreign(record: Record) -> list[str]:
    """The modules that a record names: to run it again runs their code."""
    config = record.config
    named = [*re.findall(r"[\w.]+:\w+", config.architecture.spec), *config.architecture.sources]
    named += [str(config.task[key]) for key in ("name", "class") if key in config.task]
    return sorted({name for name in named if ":" in name})


def companion(stopped: Record, known: Iterable[Record]) -> Record | None:
    """The run that solved the task where this one was stopped: it must run beside this one, which else would
    go on. Other runs need nobody: those of a group share no number, and end alone where they end together.
    """
    if stopped.status != "stopped" or stopped.metrics is None:
        return None
    alike = {"lr": stopped.config.lr, "weight_decay": stopped.config.weight_decay}
    for other in known:
        metrics = other.metrics
        if other.status != "ok" or metrics is None or not metrics.solved:
            continue
        same = other.config.model_copy(update=alike) == stopped.config
        if same and metrics.steps == stopped.metrics.steps:
            return other
    return None
