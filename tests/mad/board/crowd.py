"""A crowd of architectures with made-up results: what a page or a table of a hundred rows has to bear."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

import synthetic_tasks
from architectures.grammar.index import read
from mad.data.hits import pack
from mad.data.protocol import Setting, Suite
from mad.data.records import (
    ArchitectureConfig,
    Cost,
    Measure,
    Metrics,
    Point,
    Record,
    RunConfig,
    setting_fields,
)
from synthetic_tasks import IGNORE
from tests.mad.records import SOUND

ENVIRONMENT = {
    "mad_suite": "0.1.0",
    "torch": "2.13.0+cpu",
    "python": "3.11.7",
    "device": "cpu",
    "device_name": "AMD EPYC",
    "threads": 1,
}


def specs(count: int) -> list[str]:
    """Pure and striped, shallow and deep, a wrapper and parallel branches now and then."""
    mixers = [row["name"] for row in read() if row["mixes"] == "time" and row["state"]]
    found = []
    for i in range(count):
        one, two = mixers[i % len(mixers)], mixers[(7 * i + 3) % len(mixers)]
        channel = ("swiglu", "mlp", "moe-mlp")[i % 3]
        found.append(
            (
                f"2*({one} {channel})",
                f"{one} {channel} {two} {channel}",
                f"({one} + {two}) {channel}",
                f"3*({one} {channel}) {two} {channel}",
                f"altup{{{one} {channel}}} {two} {channel}",
            )[i // len(mixers) if i >= len(mixers) else i % 5]
        )
    return list(dict.fromkeys(found))


def crowd(suite: Suite, count: int, *, seeds: int = 3, curve: int = 10, version: int = 1) -> list[Record]:
    """`seeds` groups of each setting for `count` architectures, the same ones for the same numbers."""
    rng = np.random.default_rng(0)
    return [
        run
        for i, spec in enumerate(specs(count))
        for run in _architecture(
            suite, spec, rng, seeds, curve, version, skill=float(rng.beta(2, 1.4)), place=i
        )
    ]


def _architecture(
    suite: Suite,
    spec: str,
    rng: np.random.Generator,
    seeds: int,
    curve: int,
    version: int,
    *,
    skill: float,
    place: int,
) -> list[Record]:
    names = sorted(set(spec.translate(str.maketrans("(){}+*23", "        ")).split()))
    who = ArchitectureConfig(spec=spec, dim=suite.dim, versions=dict.fromkeys(names, version))
    params, state = (
        int(60_000 + 5_000 * rng.gamma(6)),
        int(512 * rng.gamma(3) * (1 + 6 * skill)) * (place % 17 > 0),
    )
    cost = Cost(
        params=params,
        core_params=params - 2048,
        flops_per_token=2.1 * params,
        state={"recurrent": state, "conv": 0, "growing": 0, "total": state},
        nominal_state=state // 2,
        seconds=float(round(30 + 200 * rng.random(), 1)),
        peak_memory=int(5e8),
    )
    runs = []
    for setting in suite.settings:
        task = synthetic_tasks.parse(setting.task)
        level = task.chance + (0.995 - task.chance) * float(np.clip(skill + 0.25 * rng.normal(), 0, 1)) ** 0.7
        # A row that is hard is so for every architecture.
        easy = np.random.default_rng(setting.steps).normal(size=setting.test_examples)
        targets = _targets(setting)
        for seed in range(seeds):
            own = float(np.clip(level + 0.012 * rng.normal(), task.chance, 0.998))
            for point in setting.grid:
                runs.append(_run(setting, who, own, targets, easy, rng, seed, point, curve, cost))
    return runs


@cache
def _targets(setting: Setting) -> Any:
    """How many targets each test row of the setting has."""
    drawn = setting.resolve(SOUND).draw(SOUND.data_seed, "test", setting.test_examples)
    return (drawn.targets != IGNORE).sum(1)


def _run(
    setting: Setting,
    who: ArchitectureConfig,
    level: float,
    targets: Any,
    easy: Any,
    rng: np.random.Generator,
    seed: int,
    point: tuple[float, float],
    curve: int,
    cost: Cost,
) -> Record:
    """A run whose accuracy is about `level`, on rows of which some are easier than others."""
    (lr, decay), chance = point, synthetic_tasks.parse(setting.task).chance
    hits = rng.binomial(targets, np.clip(level + 0.4 * easy * level * (1 - level), 0, 1))
    config = RunConfig(
        architecture=who, lr=lr, weight_decay=decay, seed=seed, **setting_fields(setting, SOUND)
    )
    right = float(hits.sum() / targets.sum())
    measure: dict[str, Any] = {
        "macro": right,
        "macro_batches": right,
        "loss": 1.0,
        "targets": int(targets.sum()),
    }
    steps = [config.steps * (i + 1) // curve for i in range(curve)]
    rise = [chance + (right - chance) * (1 - 0.02 ** ((i + 1) / curve)) for i in range(curve)]
    points = tuple(
        Point(step=step, accuracy=accuracy if i < curve - 1 else right, loss=1.0, train_loss=1.0, lr=lr)
        for i, (step, accuracy) in enumerate(zip(steps, rise, strict=True))
    )
    return Record(
        id=config.id,
        group=f"{config.architecture_key}-{config.setting_key}-{seed}",
        status="ok",
        config=config,
        given=who.spec,
        metrics=Metrics(
            validation=Measure(rows=setting.validation_examples, micro=right, **measure),
            test=Measure(rows=len(hits), micro=right, hits=pack(hits), **measure),
            curve=points,
            chance=chance,
            ceiling=1.0,
            steps=config.steps,
            solved=right >= SOUND.solved_at,
        ),
        cost=cost,
        environment=ENVIRONMENT,
        created="2026-11-20T00:00:00Z",
    )
