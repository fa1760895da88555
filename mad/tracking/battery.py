"""The battery's runs as trackers show them: one by one, and all of an architecture together."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import synthetic_tasks
from mad.data.labels import label_of
from mad.data.records import Cost, Point, Record, RunConfig, content_hash
from mad.data.trails import Cell, Head, Row, Tail, Trail, known
from mad.score.interval import over_rows
from mad.score.naming import PRESET

# Of the environment, what tells results apart, and what of it can be filtered by.
VERSIONS, TAGGED = ("mad_suite", "torch", "python", "device", "device_name"), ("mad_suite", "torch")


class Made(NamedTuple):
    """What of an environment is shown, and tags of it."""

    versions: Mapping[str, Any]
    tags: tuple[str, ...]


def made_with(environment: Mapping[str, Any]) -> Made:
    versions = {name: environment[name] for name in VERSIONS if name in environment}
    return Made(versions, tuple(f"{n.replace('_', '-')} {versions[n]}" for n in TAGGED if n in versions))


def head_of(config: RunConfig, *, given: str, suite: str | None, environment: Mapping[str, Any]) -> Head:
    """What is known of a run before it begins. `given` is what the user typed, `suite` the suite's label."""
    task, protocol = str(config.task["name"]), f"{config.protocol.name}@{config.protocol.version}"
    label = label_of(given) or (given if PRESET.fullmatch(given) else config.architecture.label)
    group = f"{suite} {label}" if suite else label
    made = made_with(environment)
    tags = (*([suite] if suite else []), protocol, *made.tags)
    about = {"given": given, "suite": suite, "environment": made.versions}
    question = _question(config)
    content = config.model_dump(mode="json")
    shared = {name: content[name] for name in ("architecture", "protocol", "precision", "backend", "compile")}
    family = Head(
        id=content_hash([suite, protocol, config.architecture_key]),
        name=label,
        group=group,
        job="battery",
        tags=tags,
        config=about | shared,
    )
    point = f"lr {config.lr:g}, weight decay {config.weight_decay:g}, seed {config.seed}"
    return Head(
        id=config.id,
        name=f"{question}: {point}",
        group=group,
        job=task,
        tags=tags,
        config=about | content,
        section=question,
        family=family if suite else None,
    )


@functools.lru_cache(maxsize=1024)
def _spelled(content: tuple[tuple[str, Any], ...]) -> str:
    name, fields = str(dict(content)["name"]), dict(content)
    if name not in synthetic_tasks.names():
        return name
    default = synthetic_tasks.get(name).content()
    options = [f"{k}={v}" for k, v in fields.items() if k in default and k != "version" and v != default[k]]
    return f"{name}[{', '.join(options)}]" if options else name


def _question(config: RunConfig) -> str:
    """The task with the options that differ from its defaults."""
    plain = {k: v for k, v in config.task.items() if isinstance(v, str | int | float | bool)}
    return _spelled(tuple(plain.items()))


def row_of(config: RunConfig, point: Point, cost: Cost | None) -> Row:
    """One evaluation. `objective` is the accuracy that the protocol selects by."""
    tokens = point.step * config.batch_size * int(config.task.get("seq_len", 0))
    rate = None if cost is None else cost.training_flops_per_token
    split = config.protocol.select_on
    return {
        **known(step=point.step, tokens=tokens or None, flops=None if rate is None else tokens * rate),
        **known(objective=point.accuracy, train__loss=point.train_loss, lr=point.lr),
        f"{split}/accuracy": point.accuracy,
        **({} if point.loss is None else {f"{split}/loss": point.loss}),
    }


def tail_of(record: Record) -> Tail:
    """What came of a run. One that diverged is scored at chance, as everywhere."""
    config, metrics, cost = record.config, record.metrics, record.cost
    summary: dict[str, Cell] = {"status": record.status}
    if metrics is not None:
        summary |= {"chance": metrics.chance, "ceiling": metrics.ceiling, "steps": metrics.steps}
        summary |= {"solved": metrics.solved}
        if record.status == "diverged":
            summary |= {"score": metrics.chance, "objective": metrics.chance}
        if metrics.validation is not None and metrics.test is not None:
            for split, found in (("validation", metrics.validation), ("test", metrics.test)):
                accuracy = found.accuracy(config.protocol.metric)
                summary |= {f"{split}/accuracy": accuracy, f"{split}/loss": found.loss}
            score = over_rows(metrics.test.accuracy(config.protocol.metric), metrics.test.rows)
            summary |= {"score": score.value, "score_low": score.low, "score_high": score.high}
            summary |= {"objective": summary[f"{config.protocol.select_on}/accuracy"]}
    if cost is not None:
        names = ("params", "core_params", "flops_per_token", "training_flops_per_token", "nominal_state")
        summary |= {name: getattr(cost, name) for name in (*names, "seconds", "peak_memory")}
        summary |= {"state": (cost.state or {}).get("total")}
    return Tail(status=record.status, summary=summary, records=[record.model_dump_json()])


def trail_of(record: Record) -> Trail:
    config, curve = record.config, record.metrics.curve if record.metrics else ()
    return Trail(
        head=head_of(config, given=record.given, suite=record.suite, environment=record.environment),
        rows=[row_of(config, point, record.cost) for point in curve],
        tail=tail_of(record),
    )
