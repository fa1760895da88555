"""`mad elastic`: one nested model beside models that were trained for each of its sizes alone."""

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import torch

from architectures import SequenceModel
from architectures.elastic import Sampling, common_count, consistency, extract, nested_layers
from architectures.sizes.bounds import shown
from architectures.thresholds import Thresholds, thresholded
from mad.data.protocol import Suite, get_protocol, get_suite
from mad.messages import Failed, counted, last_words
from mad.run.batches import Split, order, split_of
from mad.run.driver import one_driver
from mad.run.learners import Turns
from mad.run.metrics import EVALUATION_BATCH, measure_one
from mad.run.place import Place, find_place
from mad.run.runner import check_cell
from mad.run.sweep import Architecture, Cell, Group, plan, resolve
from mad.run.trainer import check_trained
from synthetic_tasks import IGNORE

Kind = Literal["nested", "mixed", "alone", "cut"]
KINDS: dict[Kind, str] = {
    "nested": "a size that was trained, cut out of the nested model",
    "mixed": "sizes mixed over the layers, never trained as such",
    "alone": "a model of this size, trained by itself",
    "cut": "the largest of those, cut to a prefix: what nested training is for",
}

MOST_TIMES = 1000


@dataclass(frozen=True)
class Point:
    """One submodel on one task: `params` without embedding and readout, accuracy and loss on the test set.

    `agreement` and `kl`: beside the whole model of the same kind, on the scored positions.
    """

    task: str
    kind: Kind
    sizes: tuple[int, ...]
    params: int
    accuracy: float
    loss: float
    agreement: float
    kl: float
    steps: int


@one_driver()
def compare(
    spec: str,
    *,
    suite: str | Path | Suite = "quick",
    tasks: Sequence[str] | None = None,
    times: int | None = None,
    seed: int = 0,
    device: str = "auto",
    report: Callable[[str], None] = lambda line: None,
) -> list[Point]:
    """Train a nested model on tasks of a suite, and a plain model for each of its sizes; measure all.

    `times`: how often the nested model sees the training steps of one plain model; None: as many as all its
    sizes together, which is what training them one by one would cost in tokens. Learning rate and weight
    decay are the first of the suite's grid; no run stops early.
    """
    chosen, protocol, place = get_suite(suite), get_protocol("sound"), find_place(device)
    found: list[Point] = []
    cells = plan([spec], chosen, protocol, seeds=1, tasks=list(tasks) if tasks else None)
    for cell in [check_cell(cell) for cell in cells]:
        if cell.failure is not None:
            raise Failed(f"{spec} on {cell.task} failed: {last_words(cell.failure)}")
        found += _on_task(cell, seed, times, place, report)
    return found


def _on_task(
    cell: Cell, seed: int, times: int | None, place: Place, report: Callable[[str], None]
) -> list[Point]:
    task = cell.task
    name = str(task).partition("[")[0]
    fresh = cell.architecture.build(task, seed)
    assert isinstance(fresh, SequenceModel)
    count, layers = common_count(fresh), len(nested_layers(fresh))
    Sampling.of(fresh)
    times = count if times is None else times
    if times < 1:
        raise ValueError(f"times={times} must be at least 1")
    if times > MOST_TIMES:
        most = f"at most {MOST_TIMES}; a size has its share of the steps"
        raise ValueError(f"times={shown(times)} must be {most}")
    data = split_of(Group(cell, seed).runs[0], task, "test", place.device)
    steps = cell.setting.steps
    report(f"{name}: the nested model, {counted(times * steps, 'step')}")
    whole = train_cell(cell, cell.architecture, seed, times, place)
    alone = []
    for g in range(count):
        plain = extract(whole, g).spec
        report(f"{name}: {plain}, {counted(steps, 'step')}")
        who = resolve(plain, dim=whole.dim, protocol=cell.protocol)
        alone.append(train_cell(cell, who, seed, 1, place))
    # A plain model has the parameters of the nested one under the same names.
    vanilla = cell.architecture.build(task, seed).to(place.device)
    assert isinstance(vanilla, SequenceModel)
    vanilla.load_state_dict(alone[-1].state_dict())
    mixes = _mixes(layers, count) if layers > 1 else []
    every = [(g,) * layers for g in range(count)]
    plans: list[tuple[Kind, tuple[int, ...], SequenceModel, SequenceModel, int]] = [
        *(("nested", mix, extract(whole, mix), whole, times * steps) for mix in every),
        *(("mixed", mix, extract(whole, mix), whole, times * steps) for mix in mixes),
        *(("alone", mix, model, alone[-1], steps) for mix, model in zip(every, alone, strict=True)),
        *(("cut", mix, extract(vanilla, mix), alone[-1], steps) for mix in every[:-1]),
    ]
    head = 0 if whole.options.tied else sum(p.numel() for p in whole.head.parameters())
    outside = whole.embedding.weight.numel() + head
    points = []
    for kind, mix, model, reference, seen in plans:
        measured = measure_one(model, data.inputs, data.targets, task.vocab_size)
        agreement, kl = compare_answers(model, reference, data)
        points.append(
            Point(
                task=str(task),
                kind=kind,
                sizes=mix,
                params=sum(p.numel() for p in model.parameters()) - outside,
                accuracy=measured.accuracy(cell.protocol.metric),
                loss=float("nan") if measured.loss is None else measured.loss,
                agreement=agreement,
                kl=kl,
                steps=seen,
            )
        )
    return points


def train_cell(cell: Cell, who: Architecture, seed: int, times: int, place: Place) -> SequenceModel:
    """The architecture after `times` the setting's epochs at the first point of its grid."""
    setting = cell.setting.model_copy(update={"epochs": times * cell.setting.epochs})
    one = Cell(architecture=who, setting=setting, protocol=cell.protocol, seeds=(seed,))
    run = Group(one, seed).runs[0]
    model = who.build(cell.task, seed).to(place.device)
    learner = Turns(model, [run], place)
    data = split_of(run, cell.task, "train", place.device)
    batches = order(seed, run.train_examples, run.batch_size, place.device)
    learner.advance(data, list(itertools.islice(batches, run.steps)), 0, [True], lambda replica, step: None)
    trained = learner.objectives[0].eval().model
    assert isinstance(trained, SequenceModel)
    check_trained(trained, data, cell.task, run, who.given, run.steps)
    return trained


def _mixes(layers: int, count: int) -> list[tuple[int, ...]]:
    """Half of the layers at one size and the deeper half at the next, for each pair of neighbours."""
    return [(g,) * (layers // 2) + (g + 1,) * (layers - layers // 2) for g in range(count - 1)]


@torch.no_grad()
def compare_answers(
    small: SequenceModel, whole: SequenceModel, data: Split, thresholds: Thresholds | None = None
) -> tuple[float, float]:
    """Agreement and divergence on the scored positions, in batches; `thresholds` are those of the first."""
    batches = data.inputs.split(EVALUATION_BATCH)
    scored = data.targets != IGNORE
    with thresholded(small, thresholds) if thresholds else contextlib.nullcontext():
        answers = torch.cat([small(x) for x in batches])[scored]
    found = consistency(answers, torch.cat([whole(x) for x in batches])[scored])
    return found.agreement, found.kl


def summarise(points: list[Point]) -> list[dict[str, Any]]:
    """The mean over the tasks of each kind and sizes, smallest first; what the table and the plot show."""
    groups: dict[tuple[Kind, tuple[int, ...]], list[Point]] = defaultdict(list)
    for point in points:
        groups[point.kind, point.sizes].append(point)
    fields = ("params", "accuracy", "loss", "agreement", "kl")
    rows = [
        {"kind": kind, "sizes": sizes, "steps": found[0].steps}
        | {field: mean(getattr(point, field) for point in found) for field in fields}
        for (kind, sizes), found in groups.items()
    ]
    return sorted(rows, key=lambda row: (list(KINDS).index(row["kind"]), row["params"]))
