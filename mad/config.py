"""What identifies a run, and what is kept of it: `RunConfig` and `Record`.

A run's id is the hash of everything that decides its numbers. What was typed, where it ran and how long it
took is kept beside it, not in it. Nothing is ever parsed back from a path or a name.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field

from mad.protocol import Data, Protocol, Setting

Status = Literal["ok", "stopped", "diverged", "failed", "interrupted"]
# Results that a second call does not repeat. A stopped run is one only inside its own group.
DONE: tuple[Status, ...] = ("ok", "stopped", "diverged")


def content_hash(content: Any) -> str:
    """SHA-256 of canonical JSON, cut to 20 hexadecimal digits (80 bits)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class ArchitectureConfig(Data):
    """An architecture as it is hashed.

    `spec` is canonical, or package.module:function for a factory of a whole model (`dim` is None then).
    `versions`: of the primitives in it. `sources`: SHA-256 of the file of each layer or factory not ours.
    """

    spec: str
    dim: int | None
    options: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, int] = Field(default_factory=dict)
    sources: dict[str, str] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """The spec with the source of each layer of the user's own: `Class@ab12`."""
        text = self.spec
        for name, source in sorted(self.sources.items(), key=lambda item: -len(item[0])):
            text = text.replace(name, f"{name.rpartition(':')[2]}@{source[:4]}")
        return text


class RunConfig(Data):
    """One run, fully resolved: everything that decides its numbers and nothing else."""

    architecture: ArchitectureConfig
    # name, version and every field of the task, as `Task.content()` gives them, and `train_targets`.
    task: dict[str, Any]
    train_examples: int
    epochs: int
    batch_size: int
    evaluations: int
    validation_examples: int
    test_examples: int
    protocol: Protocol
    lr: float
    weight_decay: float
    seed: int
    precision: str = "32-true"
    backend: str = "reference"
    compile: bool = False

    @property
    def id(self) -> str:
        return content_hash(self.model_dump(mode="json"))

    @property
    def setting_key(self) -> str:
        """What is asked, apart from who answers and how it is tuned: runs with equal keys are comparable."""
        return content_hash(
            {name: getattr(self, name) for name in _SETTING}
            | {"protocol": self.protocol.model_dump(mode="json")}
        )

    @property
    def architecture_key(self) -> str:
        """Who answers: the architecture and the arithmetic that it ran in."""
        how = {"precision": self.precision, "backend": self.backend, "compile": self.compile}
        return content_hash(self.architecture.model_dump(mode="json") | how)

    @property
    def steps(self) -> int:
        return self.epochs * -(-self.train_examples // self.batch_size)


_SETTING = (
    "task",
    "train_examples",
    "epochs",
    "batch_size",
    "evaluations",
    "validation_examples",
    "test_examples",
)


def setting_fields(setting: Setting, protocol: Protocol) -> dict[str, Any]:
    """The part of a `RunConfig` that a setting decides."""
    task = setting.resolve(protocol)
    budget = {name: getattr(setting, name) for name in _SETTING if name != "task"}
    return {"task": task.content() | {"train_targets": task.train_targets}, "protocol": protocol, **budget}


def setting_key(setting: Setting, protocol: Protocol) -> str:
    """The `RunConfig.setting_key` that the runs of this setting have."""
    fields = setting_fields(setting, protocol)
    return content_hash(
        {name: fields[name] for name in _SETTING} | {"protocol": protocol.model_dump(mode="json")}
    )


class Measure(Data):
    """One split, counted once over the whole set. `rows` examples held `targets` scored targets."""

    rows: int
    targets: int
    micro: float
    macro: float
    macro_batches: float
    loss: float | None

    def accuracy(self, metric: str) -> float:
        return float(getattr(self, metric.replace("-", "_")))


class Point(Data):
    """The curve at one evaluation: on the split that the protocol watches; the last step's learning rate."""

    step: int
    accuracy: float
    loss: float | None
    train_loss: float | None
    lr: float


class Metrics(Data):
    """What was measured. `validation` and `test` are those of the final weights; a stopped run has none."""

    validation: Measure | None = None
    test: Measure | None = None
    curve: tuple[Point, ...] = ()
    chance: float
    # The best that this very training set allows on this very test set.
    ceiling: float
    steps: int
    solved: bool = False


class Cost(Data):
    """Parameters in all and without embedding and readout, FLOPs a token, state by kind, time, memory."""

    params: int
    core_params: int | None = None
    flops_per_token: float | None = None
    state: dict[str, int] | None = None
    nominal_state: int | None = None
    seconds: float = 0.0
    peak_memory: int | None = None


class Record(Data):
    """One run as it is stored, exported and imported: one line of JSON.

    `given` is what the user typed, `config` what it resolved to. `group` names the runs that shared the
    seed's data and early stopping. `suite` is a label for people; membership is decided by content.
    """

    id: str
    group: str
    status: Status
    config: RunConfig
    given: str
    suite: str | None = None
    metrics: Metrics | None = None
    cost: Cost | None = None
    environment: dict[str, Any] = Field(default_factory=dict)
    error: str | None = None
    attempts: int = 1
    created: str
    schema_version: Literal[1] = 1
