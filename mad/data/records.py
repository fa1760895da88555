"""What identifies a run, and what is kept of it: `RunConfig` and `Record`.

A run's id is the hash of everything that decides its numbers. What was typed, where it ran and how long it
took is kept beside it, not in it. Nothing is ever parsed back from a path or a name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from mad.data.bounds import (
    MOST_ENTRIES,
    Amount,
    Content,
    Fraction,
    Id,
    Positive,
    Seed,
    Signed,
    State,
    Task,
    Text,
    Time,
    Whole,
    Word,
)
from mad.data.hits import Packed, unpack
from mad.data.labels import label_of
from mad.data.protocol import BUDGET, Data, Protocol, Setting
from mad.data.stored import Sheet, StoredRecord, decimals, not_rising
from mad.data.tasks import identify
from mad.messages import counted

if TYPE_CHECKING:
    from mad.data.trails import Trail

Status = Literal["ok", "stopped", "diverged", "failed", "interrupted"]
# Results that a second call does not repeat. A stopped run is one only inside its own group.
DONE: tuple[Status, ...] = ("ok", "stopped", "diverged")
# A layer's name in a spec: of ours, of a package's, or module:Class.
NAME = re.compile(r"[\w.:-]+")
# Of a whole number of hits; of a curve's end and a score, which a device without fixed order adds up anew.
HITS_TOLERANCE, ACCURACY_TOLERANCE = 1e-5, 0.01


def content_hash(content: Any) -> str:
    """SHA-256 of canonical JSON, cut to 20 hexadecimal digits (80 bits)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class ArchitectureConfig(Data):
    """An architecture as it is hashed.

    `spec` is canonical, or package.module:function for a factory of a whole model (`dim` is None then).
    `versions`: of the primitives in it. `sources`: SHA-256 of the code of each layer or factory not ours and
    of the modules of its own that it imports.
    """

    spec: Annotated[Text, Field(min_length=1)]
    dim: Positive | None
    options: Content = Field(default_factory=dict)
    versions: dict[Word, Whole] = Field(default_factory=dict, max_length=MOST_ENTRIES)
    sources: dict[Word, Word] = Field(default_factory=dict, max_length=MOST_ENTRIES)

    @property
    def label(self) -> str:
        """The spec with the source of each layer of the user's own: `Class@ab12`."""
        return NAME.sub(lambda found: self._short(found[0]), self.spec)

    def _short(self, name: str) -> str:
        source = self.sources.get(name)
        return name if source is None else f"{name.rpartition(':')[2]}@{source[:4]}"


class RunConfig(Data):
    """One run, fully resolved: everything that decides its numbers and nothing else."""

    architecture: ArchitectureConfig
    # name, version and every field of the task; of one that is not ours, `class` ("package.module:Task") and
    # `source`, the hash of its code: see `mad.data.tasks.identify`.
    task: Task
    train_examples: Positive
    epochs: Positive
    batch_size: Positive
    evaluations: Positive
    validation_examples: Positive
    test_examples: Positive
    protocol: Protocol
    lr: Amount
    weight_decay: Amount
    seed: Seed
    precision: Word = "32-true"
    backend: Word = "reference"
    compile: bool = False

    @property
    def id(self) -> str:
        return content_hash(self.model_dump(mode="json"))

    @property
    def setting_key(self) -> str:
        """What is asked, apart from who answers and how it is tuned: runs with equal keys are comparable."""
        return _asked(dict(self))

    @property
    def architecture_key(self) -> str:
        """Who answers: the architecture and the arithmetic that it ran in."""
        how = {"precision": self.precision, "backend": self.backend, "compile": self.compile}
        return content_hash(self.architecture.model_dump(mode="json") | how)

    @property
    def steps(self) -> int:
        return self.epochs * -(-self.train_examples // self.batch_size)


def setting_fields(setting: Setting, protocol: Protocol) -> dict[str, Any]:
    """The part of a `RunConfig` that a setting decides."""
    return {"task": identify(setting.resolve(protocol)), "protocol": protocol, **setting.budget}


def setting_key(setting: Setting, protocol: Protocol) -> str:
    """The `RunConfig.setting_key` that the runs of this setting have."""
    return _asked(setting_fields(setting, protocol))


def _asked(fields: Mapping[str, Any]) -> str:
    asked = {name: fields[name] for name in ("task", *BUDGET)}
    return content_hash(asked | {"protocol": fields["protocol"].model_dump(mode="json")})


class Measure(Data):
    """One split, counted once over the whole set. `rows` examples held `targets` scored targets.

    hits  of each row of the test split, as `mad.data.hits` packs them; runs made before they were kept have
          none
    """

    rows: Positive
    targets: Positive
    micro: Fraction
    macro: Fraction
    macro_batches: Fraction
    loss: Amount | None
    hits: Packed | None = None

    def accuracy(self, metric: str) -> float:
        return float(getattr(self, metric.replace("-", "_")))

    def wrong_hits(self, length: object) -> Iterator[str]:
        """What is wrong with the hits of rows of this length."""
        if self.hits is None:
            return
        try:
            hits = unpack(self.hits, self.rows)
        except ValueError as error:
            yield f"has hits that are {error}"
            return
        if abs(self.micro * self.targets - hits.sum()) > HITS_TOLERANCE:
            accuracy = f"an accuracy of {self.micro} over {self.targets:,} targets"
            yield f"has {hits.sum():,} hits by row, and {accuracy}"
        if isinstance(length, int) and hits.max() > length:
            yield f"has a row of {hits.max():,} hits, and rows of length {length}"


class Point(Data):
    """The curve at one evaluation: on the split that the protocol watches; the last step's learning rate."""

    step: Positive
    accuracy: Fraction
    loss: Amount | None
    train_loss: Signed | None
    lr: Amount


class Metrics(Data):
    """What was measured. `validation` and `test` are those of the final weights; a stopped run has none."""

    validation: Measure | None = None
    test: Measure | None = None
    curve: tuple[Point, ...] = ()
    chance: Fraction
    # The best that this very training set allows on this very test set.
    ceiling: Fraction
    steps: Positive
    solved: bool = False


class Cost(Data):
    """Parameters in all and without embedding and readout, FLOPs per token, state by kind, time, memory.

    flops_per_token  of a forward pass of the whole model
    training_flops_per_token  of a training step; records made before it was counted have none
    seconds  of training and its evaluations; in records of older versions of training alone
    """

    params: Whole
    core_params: Whole | None = None
    flops_per_token: Amount | None = None
    training_flops_per_token: Amount | None = None
    state: State | None = None
    nominal_state: Whole | None = None
    seconds: Amount = 0.0
    peak_memory: Whole | None = None


class Record(StoredRecord):
    """One run of the battery as it is stored, exported and imported: one line of JSON.

    `given` is what the user typed, `config` what it resolved to; `called` is what was typed since then with
    another label, and when. `group` names the runs that shared the seed's data and early stopping. `suite` is
    a label for people; membership is decided by content.
    """

    table: ClassVar[str] = "runs"
    column: ClassVar[str] = "group_id TEXT NOT NULL"
    since: ClassVar[int] = 1

    id: Id
    group: Word
    status: Status
    config: RunConfig
    given: Text
    called: dict[Text, Time] = Field(default_factory=dict, max_length=MOST_ENTRIES)
    suite: Word | None = None
    metrics: Metrics | None = None
    cost: Cost | None = None
    environment: Content = Field(default_factory=dict)
    error: str | None = None
    attempts: Positive = 1
    created: Time
    # Came out of a file: this store did not make it. What it says of itself was checked, not repeated.
    imported: bool = False
    schema_version: Literal[1] = 1

    @property
    def grouped(self) -> str:
        return self.group

    def wrong(self) -> Iterator[str]:
        config, metrics, status = self.config, self.metrics, self.status
        if status not in DONE:
            return
        if metrics is None or (status == "ok" and (metrics.validation is None or metrics.test is None)):
            yield f"is {status!r} but lacks its metrics"
            return
        if metrics.steps > config.steps:
            yield f"has {metrics.steps} steps, and its configuration {config.steps}"
        yield from not_rising([point.step for point in metrics.curve], metrics.steps)
        if status != "ok":
            if metrics.validation or metrics.test:
                yield f"is {status!r}, and yet has a score"
            return
        for split in ("validation", "test"):
            found: Measure = getattr(metrics, split)
            rows = getattr(config, f"{split}_examples")
            hits, length = found.micro * found.targets, config.task.get("seq_len")
            if found.rows != rows:
                yield f"measured {found.rows} rows of {split}, and its configuration has {rows}"
            if isinstance(length, int) and found.targets > rows * length:
                yield f"has {found.targets:,} targets of {split} in {rows:,} rows of length {length}"
            if abs(hits - round(hits)) > HITS_TOLERANCE:
                whole = f"not a whole number of {found.targets} targets"
                yield f"has a {split} accuracy of {found.micro}: {whole}"
            if len({(value == 0, value == 1) for value in (found.micro, found.macro)}) > 1:
                yield f"has a {split} accuracy of {found.micro}, but {found.macro} over classes"
            if split == "test":
                yield from found.wrong_hits(length)
            elif found.hits is not None:
                yield f"has hits of each row of {split}, and only those of test are kept"
        protocol = config.protocol
        watched = getattr(metrics, protocol.select_on).accuracy(protocol.metric)
        if metrics.curve and abs(metrics.curve[-1].accuracy - watched) > ACCURACY_TOLERANCE:
            yield f"ends its curve at an accuracy of {metrics.curve[-1].accuracy}, and scores {watched}"
        if metrics.solved != (watched >= protocol.solved_at):
            yield f"is {'solved' if metrics.solved else 'not solved'} at an accuracy of {watched}"

    def gives_way_to(self, new: Record) -> bool:
        """It was stopped for its own group."""
        return self.status == "stopped" and self.group != new.group

    def known(self) -> dict[str, set[str | None]]:
        suite, known = self.suite or "", super().known()
        names = {name for _, text in self.typed for name in (text, label_of(text)) if name}
        return known | {
            "architecture": known["architecture"] | names,
            "task": {self.subject, str(self.config.task.get("class", self.subject))},
            "suite": {suite, suite.partition("@")[0], suite.partition("+")[0]},
        }

    @property
    def typed(self) -> list[tuple[str, str]]:
        """When it was asked for, and by which text."""
        return [(self.created, self.given), *((when, text) for text, when in self.called.items())]

    @property
    def subject(self) -> str:
        return str(self.config.task["name"])

    @property
    def outcome(self) -> tuple[float | None, float | None]:
        test = self.metrics and self.metrics.test
        return (test.accuracy(self.config.protocol.metric), test.loss) if test else (None, None)

    def sheet(self) -> Sheet:
        config, metrics = self.config, self.metrics
        apart = ("name", "version", "class", "source")
        task = ", ".join(f"{k}={v}" for k, v in config.task.items() if k not in apart)
        budget = f"{counted(config.train_examples, 'example')}, {counted(config.epochs, 'epoch')}"
        facts = [
            ("run", f"{self.id}  ({self.status})"),
            ("architecture", f"{config.architecture.label}   width {config.architecture.dim}"),
            ("task", f"{config.task['name']}@{config.task['version']}  {task}"),
            ("training", f"{budget}, batch {config.batch_size}"),
            ("point", f"lr {config.lr:g}, weight decay {config.weight_decay:g}, seed {config.seed}"),
            ("protocol", f"{config.protocol.name}@{config.protocol.version}, {config.precision}"),
        ]
        if "class" in config.task:
            code = f"{config.task['class']}, code {str(config.task.get('source'))[:4]}"
            facts.insert(3, ("", code))
        if self.cost is not None:
            facts.append(("cost", f"{self.cost.params:,} parameters, {self.cost.seconds:.1f} s"))
        facts.append(("made", self.origin))
        if metrics is None:
            return Sheet(facts)
        watched, test = config.protocol.select_on, metrics.test
        columns = ("step", "lr", "train loss", f"{watched} loss", f"{watched} accuracy")
        curve = [
            (f"{p.step:,}", f"{p.lr:.2e}", *decimals(p.train_loss, p.loss), f"{p.accuracy:.4f}")
            for p in metrics.curve
        ]
        if test is None:
            return Sheet(facts, columns, curve)
        score = f"test accuracy {test.micro:.4f} (macro {test.macro:.4f}) over {test.targets:,} targets"
        bounds = f"chance {metrics.chance:.4f}, ceiling {metrics.ceiling:.4f}"
        return Sheet(facts, columns, curve, f"{score} in {test.rows:,} rows; {bounds}")

    def trail(self) -> Trail:
        from mad.tracking.battery import trail_of  # It scores, which takes records.

        return trail_of(self)
