"""`mad sparsify`: a trained model whose maps leave out small inputs, at several shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from architectures import SequenceModel
from architectures.thresholds import balance, calibrate, maps, thresholded
from mad.data.protocol import Suite, get_protocol, get_suite
from mad.messages import Failed, counted, last_words
from mad.run.batches import split_of
from mad.run.driver import one_driver
from mad.run.elastic import compare_answers, train_cell
from mad.run.metrics import measure_one
from mad.run.place import Place, find_place
from mad.run.runner import check_cell
from mad.run.sweep import Cell, Group, plan

Kind = Literal["whole", "even", "balanced"]
KINDS: dict[Kind, str] = {
    "whole": "the model as it was trained",
    "even": "every map leaves out the same share of its inputs",
    "balanced": "the shares are put, layer by layer, where they change its output least",
}
SHARES = (0.25, 0.4, 0.5, 0.65, 0.8)
# Rows of the training data that thresholds and shares are found on.
ROWS = 64


@dataclass(frozen=True)
class Point:
    """A model on one task, its maps leaving out a `share` of what they read.

    `left_out`: the part of all weights of the layers' maps that a step need not read, as it was on the test
    set. `agreement` and `kl`: beside the whole model, on the scored positions.
    """

    task: str
    kind: Kind
    share: float
    left_out: float
    accuracy: float
    loss: float
    agreement: float
    kl: float


@one_driver()
def compare(
    spec: str,
    *,
    suite: str | Path | Suite = "quick",
    tasks: Sequence[str] | None = None,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    device: str = "auto",
    report: Callable[[str], None] = lambda line: None,
) -> list[Point]:
    """Train a model on tasks of a suite, find thresholds on its training rows, and test it with them.

    All positions of a row go by the thresholds, the prompt too. Learning rate and weight decay are the first
    of the suite's grid; no run stops early.
    """
    for share in shares:
        if not 0 <= share <= 1:
            raise ValueError(f"a share of {share:g} is not between 0, every input is read, and 1, none is")
    chosen, protocol, place = get_suite(suite), get_protocol("sound"), find_place(device)
    found: list[Point] = []
    cells = plan([spec], chosen, protocol, seeds=1, tasks=list(tasks) if tasks else None)
    for cell in [check_cell(cell) for cell in cells]:
        if cell.failure is not None:
            raise Failed(f"{spec} on {cell.task} failed: {last_words(cell.failure)}")
        found += _on_task(cell, shares, seed, place, report)
    return found


def _on_task(
    cell: Cell, shares: Sequence[float], seed: int, place: Place, report: Callable[[str], None]
) -> list[Point]:
    task, run = cell.task, Group(cell, seed).runs[0]
    fresh = cell.architecture.build(task, seed)
    if not isinstance(fresh, SequenceModel) or not maps(fresh):
        raise ValueError(f"{cell.architecture.given} has no nn.Linear inside of its layers; give it some")
    test = split_of(run, task, "test", place.device)
    rows = split_of(run, task, "train", place.device).inputs[:ROWS]
    report(f"{str(task).partition('[')[0]}: {counted(cell.setting.steps, 'step')}")
    model = train_cell(cell, cell.architecture, seed, 1, place)

    def point(kind: Kind, share: float, thresholds: dict[str, float]) -> Point:
        with thresholded(model, thresholds) as tally:
            measured = measure_one(model, test.inputs, test.targets, task.vocab_size)
        agreement, kl = compare_answers(model, model, test, thresholds)
        return Point(
            task=str(task),
            kind=kind,
            share=share,
            left_out=tally.share,
            accuracy=measured.accuracy(cell.protocol.metric),
            loss=float("nan") if measured.loss is None else measured.loss,
            agreement=agreement,
            kl=kl,
        )

    points = [point("whole", 0.0, {})]
    for share in shares:
        points.append(point("even", share, calibrate(model, rows, share)))
        points.append(point("balanced", share, calibrate(model, rows, balance(model, rows, share))))
    return points


def summarise(points: list[Point]) -> list[dict[str, Any]]:
    """The mean over the tasks of each kind and share; what the table shows."""
    fields = ("left_out", "accuracy", "loss", "agreement", "kl")
    groups = dict.fromkeys((point.kind, point.share) for point in points)
    rows = []
    for kind, share in groups:
        same = [point for point in points if (point.kind, point.share) == (kind, share)]
        rows.append({"kind": kind, "share": share} | {f: mean(getattr(p, f) for p in same) for f in fields})
    return rows
