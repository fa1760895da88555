"""A run as scores and lists need it: the record without what is long in it.

A store of a hundred thousand runs is read in seconds because most of a record is passed over. What is left
has the bounds of the whole record.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import ConfigDict

from mad.data.protocol import Protocol
from mad.data.records import ArchitectureConfig, Measure, Metrics, Record, RunConfig

# Its classes declare some fields anew, as no fields: what a record says there is neither kept nor believed,
# and who asks for it gets an AttributeError.
REST = ConfigDict(extra="ignore")
# Which fields a record names matters to those who write it.
NAMED: set[str] = set()


class OutlineMeasure(Measure):
    """Without the hits of each row."""

    model_config = REST
    hits: ClassVar[Any]  # type: ignore[misc]


class OutlineMetrics(Metrics):
    """Without the curve."""

    model_config = REST
    validation: OutlineMeasure | None = None
    test: OutlineMeasure | None = None
    curve: ClassVar[Any]  # type: ignore[misc]


class OutlineConfig(RunConfig):
    """What was asked and who answered are shared by the runs that have them in common; of the budget, the
    key of the setting is kept. `keys` are those of `RunConfig`.
    """

    model_config = REST
    architecture: ClassVar[Any]  # type: ignore[misc]
    task: ClassVar[Any]  # type: ignore[misc]
    protocol: ClassVar[Any]  # type: ignore[misc]
    train_examples: ClassVar[Any]  # type: ignore[misc]
    epochs: ClassVar[Any]  # type: ignore[misc]
    batch_size: ClassVar[Any]  # type: ignore[misc]
    evaluations: ClassVar[Any]  # type: ignore[misc]
    validation_examples: ClassVar[Any]  # type: ignore[misc]
    test_examples: ClassVar[Any]  # type: ignore[misc]

    @property
    def setting_key(self) -> str:
        return str(vars(self)["keys"][0])

    @property
    def architecture_key(self) -> str:
        return str(vars(self)["keys"][1])


class Outline(Record):
    """A record that is read alone and never written; `Store.get` gives the whole one."""

    model_config = REST
    config: OutlineConfig
    metrics: OutlineMetrics | None = None
    environment: ClassVar[Any]  # type: ignore[misc]
    error: ClassVar[Any]  # type: ignore[misc]


class Shared:
    """What runs have in common, each of it once: architectures, and tasks with protocols, by their keys."""

    def __init__(self) -> None:
        self.architectures: dict[str, ArchitectureConfig] = {}
        self.questions: dict[str, tuple[dict[str, Any], Protocol]] = {}

    def of(self, setting: str, architecture: str, text: bytes) -> dict[str, Any]:
        """The shared part of the configuration that a record holds."""
        if setting not in self.questions or architecture not in self.architectures:
            config = Record.model_validate_json(text, strict=True).config
            self.questions.setdefault(setting, (config.task, config.protocol))
            self.architectures.setdefault(architecture, config.architecture)
        task, protocol = self.questions[setting]
        return {"task": task, "protocol": protocol, "architecture": self.architectures[architecture]}


def outlined(text: bytes, setting: str, architecture: str, shared: Shared) -> Outline:
    """The outline of a record that was checked when it was written; a ValueError where a value is out of
    bounds, or one is missing that scores count with.
    """
    made = Outline.model_validate_json(text, strict=True)
    vars(made.config).update(shared.of(setting, architecture, text), keys=(setting, architecture))
    metrics = made.metrics
    if made.status in ("ok", "stopped", "diverged") and metrics is None:
        raise ValueError(f"it is {made.status!r} but lacks its metrics")
    splits = [] if metrics is None else [metrics.validation, metrics.test]
    if made.status == "ok" and None in splits:
        raise ValueError("it is 'ok' but lacks its metrics")
    for part in (made, made.config, made.cost, metrics, *splits):
        if part is not None:
            object.__setattr__(part, "__pydantic_fields_set__", NAMED)
    return made
