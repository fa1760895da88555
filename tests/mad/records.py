"""Synthetic records: what a trainer would have written, without training."""

from pathlib import Path
from typing import Any

from mad.data.protocol import PROTOCOLS, Protocol, Setting, Suite
from mad.data.records import (
    ArchitectureConfig,
    Cost,
    Measure,
    Metrics,
    Record,
    RunConfig,
    Status,
    setting_fields,
)
from mad.store import Store

SOUND = PROTOCOLS["sound"]
PUBLIC = PROTOCOLS["public-code"]
CHANCE = 0.125


def setting(task: str, lrs: tuple[float, ...] = (1e-3, 2e-3), **changes: Any) -> Setting:
    budget: dict[str, Any] = {"train_examples": 640, "epochs": 2, "batch_size": 64, "weight_decays": (0.0,)}
    return Setting(**{"task": task, "lrs": lrs, **budget, **changes})


def suite(*settings: Setting, seeds: int = 1) -> Suite:
    return Suite(name="test", version=1, about="for tests", dim=32, seeds=seeds, settings=settings)


TWO = suite(
    setting("in-context-recall[vocab_size=8, seq_len=16]"), setting("compression[vocab_size=8, seq_len=8]")
)


def architecture(spec: str = "hyena swiglu", **changes: Any) -> ArchitectureConfig:
    versions = {name: 1 for name in sorted(set(spec.split()))}
    return ArchitectureConfig(**{"spec": spec, "dim": 32, "versions": versions, **changes})


def measure(accuracy: float, loss: float | None = 1.0, *, rows: int = 1280, **changes: float) -> Measure:
    values: dict[str, Any] = {"micro": accuracy, "macro": accuracy, "macro_batches": accuracy, **changes}
    return Measure(rows=rows, targets=8 * rows, loss=loss, **values)


def record(
    at: Setting,
    lr: float = 1e-3,
    *,
    test: float = 0.5,
    validation: float | None = None,
    weight_decay: float = 0.0,
    seed: int = 0,
    status: Status = "ok",
    spec: str = "hyena swiglu",
    given: str | None = None,
    group: str | None = None,
    loss: float | None = 1.0,
    protocol: Protocol = SOUND,
    **changes: Any,
) -> Record:
    """A run with this test accuracy and, unless it is given, the same validation accuracy."""
    who = changes.pop("who", architecture(spec))
    created = changes.pop("created", "2026-01-01T00:00:00Z")
    config = RunConfig(
        architecture=who,
        lr=lr,
        weight_decay=weight_decay,
        seed=seed,
        **setting_fields(at, protocol),
        **changes,
    )
    watched = test if validation is None else validation
    scored = status == "ok"
    metrics = Metrics(
        validation=measure(watched, loss, rows=config.validation_examples) if scored else None,
        test=measure(test, rows=config.test_examples) if scored else None,
        chance=CHANCE,
        ceiling=1.0,
        steps=config.steps,
        solved=scored and watched >= protocol.solved_at,
    )
    has_metrics = status in ("ok", "stopped", "diverged")
    return Record(
        id=config.id,
        group=group or f"{config.architecture_key}-{config.setting_key}-{seed}",
        status=status,
        config=config,
        given=given or spec,
        metrics=metrics if has_metrics else None,
        cost=Cost(
            params=412_345,
            core_params=400_000,
            flops_per_token=8e5,
            state={"total": 4096},
            nominal_state=2048,
        )
        if has_metrics
        else None,
        error=None if has_metrics else "RuntimeError: out of memory",
        created=created,
    )


def imported(run: Record) -> Record:
    """The same out of a file."""
    return run.model_copy(update={"imported": True})


def group(at: Setting, *accuracies: float, **changes: Any) -> list[Record]:
    """A group with one run per grid point, of these test accuracies."""
    points = zip(at.grid, accuracies, strict=True)
    return [record(at, lr, weight_decay=wd, test=value, **changes) for (lr, wd), value in points]


def records_in(path: Path) -> list[Record]:
    with Store(path, read_only=True) as store:
        return store.records()
