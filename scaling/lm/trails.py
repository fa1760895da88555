"""Language-model runs as trackers show them, and a run that is told to them while it goes on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mad.data.trails import Cell, Head, Row, Tail, Trail, known
from mad.tracking.battery import made_with
from scaling.lm.records import LanguageCost, LanguagePoint, LanguageRecord

if TYPE_CHECKING:
    from mad.tracking.mirror import Mirror


def head_of(record: LanguageRecord) -> Head:
    """What is known of a run before it begins, from the record that stands for it until it ends."""
    config, made = record.config, made_with(record.environment)
    names = ("given", "label", "study", "role", "budget")
    about = {name: getattr(record, name) for name in names} | {"environment": made.versions}
    width = f"width {config.architecture.dim}"
    return Head(
        id=record.id,
        name=f"{record.label}: {width}, {config.steps} steps, lr {config.lr:g}, seed {config.seed}",
        group=f"study {record.study}" if record.study else record.label,
        job=record.role,
        tags=(config.corpus.name, *made.tags),
        config=about | config.model_dump(mode="json"),
    )


def row_of(point: LanguagePoint, cost: LanguageCost | None) -> Row:
    flops = None if cost is None else point.tokens * cost.flops_per_token
    return {
        **known(step=point.step, tokens=point.tokens, flops=flops),
        **known(validation__loss=point.loss, train__loss=point.train_loss, lr=point.lr),
    }


def tail_of(record: LanguageRecord) -> Tail:
    summary: dict[str, Cell] = {"status": record.status}
    if (metrics := record.metrics) is not None:
        names = ("loss", "loss_error", "bits_per_byte", "train_loss", "unique_tokens", "epochs")
        summary |= {name: getattr(metrics, name) for name in (*names, "clipped_steps")}
        summary |= {"perplexity": None if metrics.loss is None else math.exp(metrics.loss)}
    if (cost := record.cost) is not None:
        names = ("params", "params_counted", "flops", "flops_per_token", "nominal_state", "seconds")
        summary |= {name: getattr(cost, name) for name in (*names, "peak_memory")}
        summary |= {"state": (cost.state or {}).get("total"), "tokens": record.config.tokens}
    return Tail(status=record.status, summary=summary, records=[record.model_dump_json()])


def trail_of(record: LanguageRecord) -> Trail:
    curve = record.metrics.curve if record.metrics else ()
    rows = [row_of(point, record.cost) for point in curve]
    return Trail(head=head_of(record), rows=rows, tail=tail_of(record))


class Told:
    """Called with the points of a run that begins, it tells trackers, and at last of its record."""

    def __init__(self, mirror: Mirror, record: LanguageRecord, cost: LanguageCost | None) -> None:
        self.mirror, self.id, self.cost = mirror, record.id, cost
        mirror.begin([head_of(record)])

    def __call__(self, point: LanguagePoint) -> None:
        self.mirror.log({self.id: [row_of(point, self.cost)]})

    def ended(self, record: LanguageRecord) -> None:
        self.mirror.end([record])
