"""All runs of an architecture as one: what a tracker hears of them, without a process in between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mad.data.records import Record
from mad.data.trails import Head, Row, Tail, Trail
from mad.score import score
from mad.tracking import By, Place, Roster
from mad.tracking.families import Families
from tests.mad.records import SOUND, TWO, group, record, setting, suite


class Listener:
    """A tracker that remembers."""

    by: ClassVar[By] = "architecture"

    def __init__(self, folder: Path | None = None, place: Place | None = None) -> None:
        self.begun: list[Head] = []
        self.rows: list[Row] = []
        self.ended: dict[str, Tail] = {}
        self.shown: list[Trail] = []

    @staticmethod
    def require() -> None:
        pass

    def begin(self, head: Head) -> None:
        self.begun.append(head)

    def log(self, id: str, rows: Sequence[Row]) -> None:
        self.rows += rows

    def end(self, id: str, tail: Tail) -> None:
        self.ended[id] = tail

    def show(self, trail: Trail) -> None:
        self.shown.append(trail)

    def close(self) -> None:
        pass


def families(records: Sequence[Record], asked: Any = TWO) -> tuple[Listener, Families, list[list[Trail]]]:
    """The trails of each grid, and who is to be told of them."""
    trails = [r.model_copy(update={"suite": asked.label}).trail() for r in records]
    (family,) = {trail.head.family.id for trail in trails if trail.head.family}
    listener = Listener()
    grids: dict[str, list[Trail]] = {}
    for one, trail in zip(records, trails, strict=True):
        grids.setdefault(one.group, []).append(trail)
    roster = Roster(suites={asked.label: asked}, counts={family: len(records)})
    return listener, Families(listener, roster), list(grids.values())


def battery() -> list[Record]:
    return [*group(TWO.settings[0], 0.5, 0.75), *group(TWO.settings[1], 0.25, 0.125)]


def test_a_stored_architecture_is_shown_once_it_is_whole() -> None:
    records = battery()
    listener, told, (first, second) = families(records)
    told.show(first)
    assert not listener.shown
    told.show(second)
    (shown,) = listener.shown
    (row,) = score(records, TWO, SOUND).architectures
    assert row.mad is not None and shown.tail.summary["score"] == row.mad.value
    assert shown.tail.status == "ok" and shown.tail.summary["status"] == "complete"
    assert [line["score"] for line in shown.tail.table] == [0.75, 0.25]
    assert len(shown.tail.records) == 4 and not listener.begun


def test_of_what_was_broken_off_the_rest_is_told() -> None:
    listener, told, (first, _) = families(battery())
    told.begin([trail.head for trail in first])
    told.end({trail.head.id: trail.tail for trail in first})
    assert not listener.ended
    told.close()
    ((id, tail),) = listener.ended.items()
    assert id == listener.begun[0].id and tail.status == "failed"
    assert tail.summary["status"] == "interrupted" and tail.summary["score"] == 0.75


def test_a_failed_run_is_counted_in_the_status() -> None:
    records = [*battery()[:2], *(record(TWO.settings[1], lr, status="failed") for lr in (1e-3, 2e-3))]
    listener, told, grids = families(records)
    for grid in grids:
        told.show(grid)
    assert listener.shown[0].tail.summary["status"] == "2 of 4 runs failed"
    assert listener.shown[0].tail.status == "failed"


def test_settings_of_one_task_are_told_apart_and_seeds_too() -> None:
    sizes = [setting(f"in-context-recall[vocab_size={size}, seq_len=16]") for size in (8, 16)]
    asked = suite(*sizes, setting("compression[vocab_size=8, seq_len=8]"))
    records = [run for one in asked.settings for run in group(one, 0.5, 0.75)]
    listener, told, grids = families(records, asked)
    told.begin([trail.head for grid in grids for trail in grid])
    for grid in grids:
        told.log({trail.head.id: [{"step": 4, "objective": 0.1, "loss": 1.0}] for trail in grid})
    assert [axis for row in listener.rows for axis in row if axis.endswith("/step")] == [
        "in-context-recall[seq_len=16, vocab_size=8]/step",
        "in-context-recall[seq_len=16]/step",
        "compression/step",
    ]


def test_of_a_grid_the_best_run_at_each_step_is_told() -> None:
    listener, told, (grid, _) = families(battery())
    told.begin([trail.head for trail in grid])
    one, other = (trail.head.id for trail in grid)
    for step, (mine, others) in enumerate([(0.2, 0.1), (0.3, 0.4)], start=1):
        told.log(
            {
                one: [{"step": step, "objective": mine, "loss": 3.0}],
                other: [{"step": step, "objective": others, "loss": 1.0}],
            }
        )
    assert [row["in-context-recall/loss"] for row in listener.rows] == [3.0, 1.0]


def test_a_run_without_a_suite_stays_a_run() -> None:
    trail = record(TWO.settings[0]).model_copy(update={"suite": None}).trail()
    listener = Listener()
    told = Families(listener, Roster())
    told.begin([trail.head])
    told.log({trail.head.id: [{"step": 1}]})
    told.end({trail.head.id: trail.tail})
    told.show([trail])
    assert [head.id for head in listener.begun] == list(listener.ended) == [listener.shown[0].head.id]
