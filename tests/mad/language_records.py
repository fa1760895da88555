"""Synthetic language-model records: what a trainer would have written, without training."""

import math
from typing import Any

from mad.data.records import ArchitectureConfig
from scaling.lm.config import CorpusConfig, LanguageConfig
from scaling.lm.records import LanguageCost, LanguageMetrics, LanguagePoint, LanguageRecord, LanguageStatus

CORPUS = CorpusConfig(
    name="prose",
    sha256="ab" * 32,
    tokenizer="bytes",
    vocab_size=256,
    validation=0.05,
    train_tokens=100_000,
    validation_tokens=5_000,
    bytes_per_token=1.0,
)


def config(**changes: Any) -> LanguageConfig:
    fields: dict[str, Any] = {
        "architecture": ArchitectureConfig(
            spec="2*(mamba swiglu)", dim=64, versions={"mamba": 1, "swiglu": 1}
        ),
        "corpus": CORPUS,
        "seq_len": 128,
        "batch_size": 16,
        "steps": 100,
        "lr": 1e-3,
        "warmup": 5,
        "final_lr": 0.1,
        "weight_decay": 0.1,
        "betas": (0.9, 0.95),
        "eps": 1e-8,
        "clip": 1.0,
        "evaluations": 2,
        "evaluation_tokens": 4096,
        "seed": 0,
    }
    return LanguageConfig(**{**fields, **changes})


def language(
    loss: float = 2.0,
    *,
    status: LanguageStatus = "ok",
    created: str = "2026-01-01T00:00:00Z",
    label: str = "mamba",
    study: str | None = "first",
    role: Any = "grid",
    budget: float | None = 1e12,
    state: dict[str, int] | None = None,
    cost: dict[str, Any] | None = None,
    **changes: Any,
) -> LanguageRecord:
    """A run as its configuration says; `cost` replaces parts of what it took."""
    made = config(**changes)
    final = status in ("ok", "diverged")
    unique = min(made.tokens, made.corpus.train_tokens or made.tokens)
    row = made.batch_size * made.seq_len
    points = tuple(
        LanguagePoint(step=s, tokens=s * row, loss=loss + more, train_loss=loss, lr=made.lr)
        for s, more in ((made.steps // 2, 0.02), (made.steps, 0.0))
    )
    metrics = LanguageMetrics(
        loss=loss if status == "ok" else None,
        loss_error=0.01 if status == "ok" else None,
        bits_per_byte=loss / math.log(2) if status == "ok" else None,
        curve=points,
        evaluated=4096,
        unique_tokens=unique,
        epochs=made.tokens / unique,
    )
    took: dict[str, Any] = {
        "params": 300_000,
        "params_counted": 280_000,
        "embedding": 20_000,
        "core": 260_000,
        "active": 260_000,
        "flops_per_token": 1.5e6,
        "flops": 1.5e6 * made.tokens,
        "state": {"total": 4096} if state is None else state,
        "nominal_state": 2048,
        "seconds": 12.5,
    }
    return LanguageRecord(
        id=made.id,
        study=study,
        role=role,
        budget=budget,
        status=status,
        config=made,
        given="mamba",
        label=label,
        metrics=metrics if final else None,
        cost=LanguageCost(**took | (cost or {})) if final else None,
        error=None if final else "RuntimeError: out of memory",
        created=created,
    )
