"""Which run of a group counts: the best of the grid by one split, reported on another.

A group is what one architecture did on one setting with one seed: a run for each grid point.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from mad.data.protocol import Protocol, Setting
from mad.data.records import Measure, Metrics, Record

Point = tuple[float, float]  # (learning rate, weight decay)
Group = dict[Point, Record]

# An optimum at the edge of the grid matters only where the axis matters by more than this.
FLAT_AXIS = 0.01
# Standard errors by which test may lie above validation.
APART_ERRORS = 6


@dataclass(frozen=True)
class Choice:
    """The chosen run of a group and what it scores; `apart` where test lies too far above validation."""

    point: Point
    record: Record
    value: float
    apart: bool
    micro: float
    macro: float
    edges: tuple[str, ...]


def choose(group: Group, setting: Setting, protocol: Protocol) -> Choice | None:
    """The best grid point by the protocol's split; None while the group is incomplete."""
    solved = any(run.status == "ok" and metrics_of(run).solved for run in group.values())
    # A run was stopped because another one of its group solved the task: without that one it says nothing.
    done = ("ok", "diverged", "stopped") if solved else ("ok", "diverged")
    if not all(point in group and group[point].status in done for point in setting.grid):
        return None
    runs = {point: group[point] for point in setting.grid}
    scored = [point for point, run in runs.items() if run.status == "ok"]
    accuracy = {point: -preference(runs[point], protocol)[0] for point in scored}
    accuracy |= {point: metrics_of(run).chance for point, run in runs.items() if run.status == "diverged"}
    if not scored:
        point, chance = setting.grid[0], metrics_of(runs[setting.grid[0]]).chance
        return Choice(point, runs[point], chance, False, chance, chance, ())

    # `min` keeps the first of equals, so the grid's order decides last.
    best = min(scored, key=lambda point: preference(runs[point], protocol))
    test = measure_of(runs[best], "test")
    edges = () if accuracy[best] >= protocol.solved_at else tuple(_edges(best, accuracy, setting))
    value = test.accuracy(protocol.metric)
    apart = _apart(value, measure_of(runs[best], "validation").accuracy(protocol.metric), setting)
    return Choice(best, runs[best], value, apart, test.micro, test.macro, edges)


def preference(run: Record, protocol: Protocol) -> tuple[float, float]:
    """What is least of the run that is chosen: accuracy, negated, and among equals the validation loss."""
    loss = measure_of(run, "validation").loss
    found = measure_of(run, protocol.select_on).accuracy(protocol.metric)
    return -found, math.inf if loss is None else loss


def _apart(test: float, validation: float, setting: Setting) -> bool:
    """Whether test lies above validation by more than rows of one kind can: tokens of a row may depend."""
    mean, rows = (test + validation) / 2, min(setting.test_examples, setting.validation_examples)
    return test - validation > APART_ERRORS * math.sqrt(2 * max(mean * (1 - mean), 1 / rows) / rows)


def _edges(best: Point, accuracy: dict[Point, float], setting: Setting) -> Iterator[str]:
    """The axes that matter on which the optimum lies at an end, beyond which a better one may lie.

    With fewer than three points every point is at an end, and nothing lies beyond a weight decay of 0.
    """
    for i, (name, axis) in enumerate((("lr", setting.lrs), ("weight_decay", setting.weight_decays))):
        along = [value for point, value in accuracy.items() if point[1 - i] == best[1 - i]]
        at_end = best[i] in (min(axis), max(axis)) and best[i] != 0
        if len(set(axis)) >= 3 and at_end and accuracy[best] - min(along) > FLAT_AXIS:
            yield f"{name}={best[i]:g}"


def metrics_of(record: Record) -> Metrics:
    """Of a run that is done, which has them: `Record.wrong` sees to it."""
    assert record.metrics is not None, record.id
    return record.metrics


def measure_of(record: Record, split: str) -> Measure:
    """Of a run that is "ok", likewise."""
    found: Measure | None = getattr(metrics_of(record), split)
    assert found is not None, record.id
    return found
