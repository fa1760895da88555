"""Part 3: the published protocol, projected, and a cell of it for real."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from mad.run.place import Place
from mad.run.runner import run_group
from mad.run.sweep import Cell, Group
from mad.run.trainer import Progress
from on_gpu.at import At, Row, Steps

Measured = Iterator[tuple[str, Callable[[], Row]]]
SPEC = "transformer++"
PATIENCE = 90.0  # seconds that the real cell may take


def projected(at: At) -> Measured:
    """One architecture on all settings, six replicas batched: a step and an evaluation of each shape, then
    the sum over all runs, without the drawing of the data.
    """
    for precision in ("32-true", "bf16-mixed"):
        cells = at.cells(SPEC, suite="mad-2024")
        shapes = {_shape(cell): cell for cell in cells}
        for shape, cell in shapes.items():
            yield f"{shape}, {precision}", partial(_shaped, at, cell, precision)
        yield f"all runs, {precision}", partial(_sum, at, cells, precision)


def _shape(cell: Cell) -> str:
    return f"T {cell.task.seq_len}, V {cell.task.vocab_size}, {cell.task.readout}"


def _shaped(at: At, cell: Cell, precision: str) -> Row:
    steps = Steps(cell, len(cell.setting.grid), Place(at.device, precision))
    seconds = at.per_step(steps, 0.2)
    start = at.now()
    rows = len(steps.data.inputs)
    steps.learner.measure(steps.data, cell.task.vocab_size)
    evaluation = (at.now() - start) * cell.setting.validation_examples / rows
    return {"ms a step": 1e3 * seconds, "evaluation ms": 1e3 * evaluation, "at once": steps.learner.at_once}


def _sum(at: At, cells: list[Cell], precision: str) -> Row:
    rows = at.found["projected"]
    steps = evaluations = 0.0
    for cell in cells:
        row = rows.get(name := f"{_shape(cell)}, {precision}", {})
        if "ms a step" not in row:
            raise ValueError(f"the sum needs every shape, and {name} is missing")
        steps += row["ms a step"] / 1e3 * cell.setting.steps
        evaluations += row["evaluation ms"] / 1e3 * (cell.setting.evaluations + 2)
    runs = sum(len(cell.setting.grid) for cell in cells)
    return {"runs": runs, "steps h": steps / 3600, "evaluations h": evaluations / 3600}


def real(at: At) -> Measured:
    """One cell from its data to its records, as `mad bench` runs it."""
    cell = at.cells(SPEC)[0]
    yield f"{SPEC}, {cell.task.name}", partial(_real, at, cell)


def _real(at: At, cell: Cell) -> Row:
    start = last = time.monotonic()
    step = 0

    def report(progress: Progress) -> None:
        nonlocal step, last
        step, last = progress.step, time.monotonic()
        if last > min(at.deadline, start + PATIENCE):
            raise TimeoutError

    group = Group(cell, 0)
    records = run_group(group, place=Place(at.device), replicas="batched", report=report)
    row: Row = {"steps": step, "of": cell.setting.steps, "s": last - start}
    row["run-steps/s"] = step * len(group.runs) / row["s"]
    if records[0].status == "failed":
        ended = "TimeoutError" in (records[0].error or "")
        return row | ({"note": "given up"} if ended else {"failed": (records[0].error or "")[-200:]})
    best = max((r.metrics.test.micro for r in records if r.metrics and r.metrics.test), default=0.0)
    return row | {"accuracy": best}
