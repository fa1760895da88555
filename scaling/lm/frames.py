"""Stored language-model runs as tables: `language_frame` for the fits, `curves_frame` for the envelope."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd

from architectures.grammar.outline import depth, outline
from mad.store import Store
from scaling.lm.records import LARGEST_LOSS, LanguageCost, LanguageMetrics, LanguageRecord, Role, slack

ROLES: tuple[Role, ...] = ("grid", "single")
Fact = Callable[[LanguageRecord, LanguageMetrics, LanguageCost], Any]
COLUMNS: dict[str, Fact] = {
    "arch": lambda run, found, cost: run.label,
    "params": lambda run, found, cost: float(cost.params_counted),
    # A run that diverged ended early, or might have.
    "tokens": lambda run, found, cost: float(run.config.tokens),
    "flops": lambda run, found, cost: cost.flops,
    "loss": lambda run, found, cost: _number(found.loss),
    "ppl": lambda run, found, cost: math.exp(_number(found.loss)),
    "state": lambda run, found, cost: _number((cost.state or {}).get("total")),
    "budget": lambda run, found, cost: _number(run.budget),
    "status": lambda run, found, cost: run.status,
    "spec": lambda run, found, cost: run.config.architecture.spec,
    "dim": lambda run, found, cost: run.config.architecture.dim,
    "depth": lambda run, found, cost: _depth(run.config.architecture.spec),
    "lr": lambda run, found, cost: run.config.lr,
    "batch_tokens": lambda run, found, cost: run.config.batch_size * run.config.seq_len,
    "seed": lambda run, found, cost: run.config.seed,
    "unique_tokens": lambda run, found, cost: float(found.unique_tokens),
    "epochs": lambda run, found, cost: found.epochs,
    "floor": lambda run, found, cost: _number(run.config.corpus.entropy),
    "slack": lambda run, found, cost: slack(run.config, found),
    "params_total": lambda run, found, cost: float(cost.params),
    "params_core": lambda run, found, cost: float(cost.core),
    "seconds": lambda run, found, cost: cost.seconds,
    "id": lambda run, found, cost: run.id,
}


def language_frame(
    store: Store | str | Path | None, *, study: str | None = None, roles: Sequence[Role] = ROLES
) -> pd.DataFrame:
    """One row per run that ended, the oldest first, with the columns of `scaling.laws.runs` and these:

    params        without the input table, the N of the fits; `params_total`: all; `params_core`: without
                  input table and readout
    state         elements in all of one row after the run's length; NaN where unknown
    status        "ok" or "diverged", which has no loss and is set aside by the fits
    depth         layers, those in branches and bodies too; NaN where the spec is of another grammar
    batch_tokens  tokens per step
    floor         entropy of the text in nats per token, where known; by `slack` a loss may lie below it by
                  chance

    `study=None` takes the runs of every study; runs that only tuned something are left out unless asked for.
    """
    rows = [
        {name: fact(record, metrics, cost) for name, fact in COLUMNS.items()}
        for record, metrics, cost in _chosen(store, study, roles)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def curves_frame(
    store: Store | str | Path | None, *, study: str | None = None, roles: Sequence[Role] = ROLES
) -> pd.DataFrame:
    """One row per evaluation: run, step, arch, params, tokens, flops and held-out loss so far, lr."""
    rows = [
        {
            "run": record.id,
            "step": point.step,
            "arch": record.label,
            "params": float(cost.params_counted),
            "tokens": float(point.tokens),
            "flops": cost.flops_per_token * point.tokens,
            "loss": point.loss,
            "lr": point.lr,
        }
        for record, metrics, cost in _chosen(store, study, roles)
        for point in metrics.curve
        if point.loss is not None and point.loss <= LARGEST_LOSS  # As no fit would take it.
    ]
    columns = ["run", "step", "arch", "params", "tokens", "flops", "loss", "lr"]
    return pd.DataFrame(rows, columns=columns)


def _chosen(
    store: Store | str | Path | None, study: str | None, roles: Sequence[Role]
) -> Iterator[tuple[LanguageRecord, LanguageMetrics, LanguageCost]]:
    with nullcontext(store) if isinstance(store, Store) else Store(store, read_only=True) as opened:
        records = opened.records(LanguageRecord)
    for record in records:
        if record.cost is None or record.metrics is None or record.role not in roles:
            continue
        if study in (None, record.study):
            yield record, record.metrics, record.cost


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _depth(spec: str) -> float:
    try:
        return depth(outline(spec))
    except ValueError:
        return math.nan
