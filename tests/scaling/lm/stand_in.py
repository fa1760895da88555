"""A small corpus in memory: a noisy cycle, of which a model learns most in a few hundred steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from scaling.lm.config import CorpusConfig, LanguageConfig, language_config

VOCABULARY = 16


class StandIn:
    """The interface of a corpus: token t + 1 follows t, but one in four is drawn at random."""

    def __init__(self, **changes: Any) -> None:
        facts: dict[str, Any] = {
            "name": "cycle",
            "sha256": "c" * 64,
            "tokenizer": "none",
            "vocab_size": VOCABULARY,
            "validation": 0.1,
            "train_tokens": 4096,
            "validation_tokens": 2048,
        }
        self.config = CorpusConfig(**{**facts, **changes})

    def batch(self, step: int, *, batch_size: int, seq_len: int, seed: int) -> npt.NDArray[np.int64]:
        return self._rows(np.random.default_rng([seed, step]), batch_size, seq_len)

    def validation(self, seq_len: int, tokens: int | None = None) -> npt.NDArray[np.int64]:
        return self._rows(
            np.random.default_rng(10**6), (tokens or self.config.validation_tokens) // seq_len, seq_len
        )

    def _rows(self, rng: np.random.Generator, count: int, seq_len: int) -> npt.NDArray[np.int64]:
        rows = (np.arange(seq_len + 1) + rng.integers(VOCABULARY, size=(count, 1))) % VOCABULARY
        noise = rng.random(rows.shape) < 0.25
        return np.where(noise, rng.integers(VOCABULARY, size=rows.shape), rows).astype(np.int64)


def tiny(corpus: StandIn | None = None, spec: str = "mh-attention swiglu", **changes: Any) -> LanguageConfig:
    """A run of a second."""
    settings: dict[str, Any] = {
        "dim": 16,
        "seq_len": 16,
        "batch_size": 8,
        "steps": 30,
        "lr": 3e-3,
        "evaluations": 3,
        "evaluation_tokens": 160,
        "precision": "32-true",
    }
    return language_config(spec, corpus=(corpus or StandIn()).config, **{**settings, **changes})
