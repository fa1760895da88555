"""Stored language-model runs as tables: `language_frame` for the fits, `curves_frame` for the envelope."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from architectures.grammar.outline import depth, outline
from mad.store import Store
from scaling.lm.records import LARGEST_LOSS, LanguageRecord, Role, slack

ROLES: tuple[Role, ...] = ("grid", "single")
COLUMNS = (
    *(
        "arch",
        "params",
        "tokens",
        "flops",
        "loss",
        "ppl",
        "state",
        "budget",
        "status",
        "spec",
        "dim",
        "depth",
    ),
    *("lr", "batch_tokens", "seed", "unique_tokens", "epochs", "floor", "slack", "params_total"),
    *("params_core", "seconds", "id"),
)


def language_frame(
    store: Store | str | Path | None, *, study: str | None = None, roles: Sequence[Role] = ROLES
) -> pd.DataFrame:
    """One row a run that ended, the oldest first, with the columns of `scaling.laws.runs` and these:

    params        without the input table, the N of the fits; `params_total`: all; `params_core`: without
                  input table and readout
    state         elements in all of one row after the run's length; NaN where unknown
    status        "ok" or "diverged", which has no loss and is set aside by the fits
    depth         layers, those in branches and bodies too; NaN where the spec is of another grammar
    batch_tokens  tokens a step
    floor         entropy of the text in nats per token, where known; by `slack` a loss may lie below it by
                  chance

    `study=None` takes the runs of every study; runs that only tuned something are left out unless asked for.
    """
    rows = [_row(record) for record in _chosen(store, study, roles)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame.attrs = {"name": "the store" if study is None else f"study {study}", "ids": True}
    return frame


def curves_frame(
    store: Store | str | Path | None, *, study: str | None = None, roles: Sequence[Role] = ROLES
) -> pd.DataFrame:
    """One row an evaluation: run, step, arch, params, tokens, flops and held-out loss so far, lr."""
    rows: list[dict[str, Any]] = []
    for record in _chosen(store, study, roles):
        assert record.cost is not None and record.metrics is not None
        for point in record.metrics.curve:
            if point.loss is None or point.loss > LARGEST_LOSS:  # As no fit would take it.
                continue
            rows.append(
                {
                    "run": record.id,
                    "step": point.step,
                    "arch": record.label,
                    "params": float(record.cost.params_counted),
                    "tokens": float(point.tokens),
                    "flops": record.cost.flops_per_token * point.tokens,
                    "loss": point.loss,
                    "lr": point.lr,
                }
            )
    columns = ["run", "step", "arch", "params", "tokens", "flops", "loss", "lr"]
    return pd.DataFrame(rows, columns=columns)


def _chosen(
    store: Store | str | Path | None, study: str | None, roles: Sequence[Role]
) -> list[LanguageRecord]:
    if isinstance(store, Store):
        records = store.records(LanguageRecord)
    else:
        with Store(store, read_only=True) as opened:
            records = opened.records(LanguageRecord)
    return [
        record
        for record in records
        if record.cost is not None
        and record.metrics is not None
        and record.role in roles
        and study in (None, record.study)
    ]


def _row(record: LanguageRecord) -> dict[str, Any]:
    config, metrics, cost = record.config, record.metrics, record.cost
    assert metrics is not None and cost is not None
    loss = math.nan if metrics.loss is None else metrics.loss
    return {
        "arch": record.label,
        "params": float(cost.params_counted),
        # A run that diverged ended early, or might have.
        "tokens": float(config.tokens),
        "flops": cost.flops,
        "loss": loss,
        "ppl": math.exp(loss),
        "state": math.nan if cost.state is None else float(cost.state["total"]),
        "budget": math.nan if record.budget is None else record.budget,
        "status": record.status,
        "spec": config.architecture.spec,
        "dim": config.architecture.dim,
        "depth": _depth(config.architecture.spec),
        "lr": config.lr,
        "batch_tokens": config.batch_size * config.seq_len,
        "seed": config.seed,
        "unique_tokens": float(metrics.unique_tokens),
        "epochs": metrics.epochs,
        "slack": slack(config, metrics),
        "floor": math.nan if config.corpus.entropy is None else config.corpus.entropy,
        "params_total": float(cost.params),
        "params_core": float(cost.core),
        "seconds": cost.seconds,
        "id": record.id,
    }


def _depth(spec: str) -> float:
    try:
        return depth(outline(spec))
    except ValueError:
        return math.nan
