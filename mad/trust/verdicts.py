"""What comes of a record that is run again: a verdict, by rules that need no torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mad.data.hits import unpack
from mad.data.records import Record
from mad.trust.noise import allowed

Outcome = Literal["bit for bit", "within noise", "does not reproduce", "another version", "not run"]
# What decides about rounding, where it was recorded; who runs the code does not.
ARITHMETIC = ("device", "device_name", "simd", "threads", "torch", "numpy", "python", "system", "mad_suite")
# Sizes that are counted, not measured.
COUNTED = (
    *("params", "core_params", "flops_per_token", "training_flops_per_token"),
    *("state", "nominal_state"),
)
# How many differences are told.
MOST_TOLD = 2


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Of one record.

    why      in words, for a person; "" where there is nothing to add
    claimed  accuracy on the test split by the protocol's metric, as the record has it
    found    the same of each re-run, the plain one first; empty where none was scored
    low, high  where an honest accuracy lies by these; None where that was not asked
    """

    record: Record
    outcome: Outcome
    why: str = ""
    claimed: float | None = None
    found: tuple[float, ...] = ()
    low: float | None = None
    high: float | None = None


def accuracy(record: Record) -> float | None:
    """On the test split by the protocol's metric; None of a run that has no score."""
    test = record.metrics.test if record.metrics is not None else None
    return None if test is None else test.accuracy(record.config.protocol.metric)


def elsewhere(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In what the place of a record and this one differ, or may: what was not recorded is not known."""
    return [
        f"{name.replace('_', ' ')} {then.get(name, 'unknown')}, here {now.get(name, 'unknown')}"
        for name in ARITHMETIC
        if name not in then or then[name] != now.get(name)
    ]


def differences(claimed: Record, found: Record) -> list[str]:
    """In what two records of one run differ: status, sizes, then every number that was measured.

    What the claimed one leaves out is not compared: records made before a field was added lack it.
    """
    if claimed.status != found.status:
        return [f"it says {claimed.status!r}, and is {found.status!r} here"]
    return [*sizes(claimed, found), *_unlike(_measured(claimed), _measured(found), "")]


def sizes(claimed: Record, found: Record) -> list[str]:
    """In what they differ of what is counted, which no rounding changes."""
    if claimed.cost is None or found.cost is None:
        return []
    then, now = claimed.cost.model_dump(), found.cost.model_dump()
    pairs = {name: (then[name], now[name]) for name in COUNTED}
    return [_said(name, *pair) for name, pair in pairs.items() if None not in pair and pair[0] != pair[1]]


def _measured(record: Record) -> dict[str, Any]:
    """What was measured, the hits of each row as numbers: releases of zlib spell them in their own way."""
    if record.metrics is None:
        return {}
    found = record.metrics.model_dump()
    for split in (found["validation"], found["test"]):
        if split is not None and split["hits"] is not None:
            split["hits"] = unpack(split["hits"], split["rows"]).tolist()
    return found


def _unlike(claimed: Any, found: Any, name: str) -> Iterator[str]:
    if isinstance(claimed, dict) and isinstance(found, dict):
        for key, value in sorted(claimed.items(), key=lambda item: item[0] != "test"):
            yield from _unlike(value, found.get(key), f"{name} {key}".strip())
    elif isinstance(claimed, list | tuple) and isinstance(found, list | tuple):
        if len(claimed) != len(found):
            yield f"{name} of {len(claimed)} points, here {len(found)}"
        pairs = enumerate(zip(claimed, found, strict=False), 1)
        yield from itertools.chain.from_iterable(_unlike(*pair, f"{name} {i}") for i, pair in pairs)
    elif claimed is not None and claimed != found:
        yield _said(name, claimed, found)


def _said(name: str, claimed: Any, found: Any) -> str:
    short = len(f"{claimed}{found}") <= 120
    return f"{name} {claimed}, here {found}" if short else f"{name} differs"


def told(differences: Sequence[str]) -> str:
    more = len(differences) - MOST_TOLD
    return "; ".join([*differences[:MOST_TOLD], *([f"and {more} more"] if more > 0 else [])])


def exact(record: Record) -> bool:
    """Whether the same place gives the same bits: devices that sum in any order do not, nor compilers."""
    return record.environment.get("device") == "cpu" and not record.config.compile


def judge(record: Record, reruns: Sequence[Record]) -> Verdict | None:
    """The verdict by one re-run, or by several of which all but the first were shaken; None where one does
    not decide.
    """
    first, claimed = reruns[0], accuracy(record)
    found = tuple(value for run in reruns if (value := accuracy(run)) is not None)
    unlike = differences(record, first)
    numbers: dict[str, Any] = {"record": record, "claimed": claimed, "found": found}
    if not unlike:
        return Verdict(outcome="bit for bit", **numbers)
    if counted := sizes(record, first):
        return Verdict(outcome="does not reproduce", why=told(counted), **numbers)
    places = elsewhere(record.environment, first.environment)
    if exact(record) and not places:
        return Verdict(outcome="does not reproduce", why=told(unlike), **numbers)
    where = f"made elsewhere ({places[0]})" if places else "its device does not repeat itself"
    ends = {run.status for run in reruns}
    # A run that was stopped has no score, and where the one that solved the task does so later goes on.
    if record.status not in ends and not (record.status == "stopped" and "ok" in ends):
        if len(reruns) == 1:
            return None
        why = f"it says {record.status!r}, and of {len(reruns)} re-runs none is"
        return Verdict(outcome="does not reproduce", why=why, **numbers)
    if claimed is None:
        return Verdict(outcome="within noise", why=where, **numbers)
    low, high = allowed(found, record.config.test_examples)
    numbers |= {"low": low, "high": high}
    if low <= claimed <= high:
        return Verdict(outcome="within noise", why=where, **numbers)
    if len(reruns) == 1:
        return None
    return Verdict(
        outcome="does not reproduce",
        why=f"beyond what rounding does ({low:.4f} to {high:.4f} by {len(found)} re-runs); {where}",
        **numbers,
    )
