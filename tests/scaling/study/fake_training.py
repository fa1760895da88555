"""Training that takes no time: a stated law of size, data and learning rate; and mishaps on demand."""

from __future__ import annotations

import functools
import math
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.lm.config import CorpusConfig, LanguageConfig
from scaling.lm.cost import cost_of
from scaling.lm.records import LanguageCost, LanguageMetrics, LanguageRecord

CORPUS = CorpusConfig(
    name="words",
    sha256="a" * 64,
    tokenizer="bytes",
    vocab_size=64,
    validation=0.1,
    train_tokens=50_000_000,
    validation_tokens=100_000,
)


@functools.cache
def _counted(text: str) -> LanguageCost:
    """Many tests train the same sizes."""
    return cost_of(LanguageConfig.model_validate_json(text))


class Words:
    """A corpus that nothing reads."""

    def __init__(self, config: CorpusConfig = CORPUS) -> None:
        self.config = config


@dataclass(frozen=True)
class Training:
    """Loss = 1 + 20 N^-.3 + 20 D^-.3 + .05 ln(lr / best)^2, the best rate being `best` (N / 1e4)^-p.

    folder     where each call leaves a line in the file "calls"
    limit      runs with a larger learning rate diverge
    kill       the first run with this learning rate kills its process, once or always
    """

    folder: Path
    best: float = 4e-3
    p: float = 0.25
    limit: float = math.inf
    kill: float | None = None
    always: bool = False
    interrupt_at: int | None = None
    fail: str | None = None

    def __call__(self, config: LanguageConfig, corpus: Any, *, label: str, **about: Any) -> LanguageRecord:
        calls = self.calls()
        if self.interrupt_at == len(calls):
            raise KeyboardInterrupt
        with open(self.folder / "calls", "a") as file:
            file.write(f"{config.id} {about['role']} {label} {config.lr!r}\n")
        twice = any(line.startswith(config.id) for line in calls)
        if self.kill == config.lr and (self.always or not twice):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fail == label:
            raise RuntimeError("out of memory")
        cost = _counted(config.model_copy(update={"lr": 1.0}).model_dump_json())
        n, d = cost.params_counted, config.tokens
        off = math.log(config.lr / self.rate(n))
        diverged = config.lr > self.limit
        loss = None if diverged else 1 + 20 * n**-0.3 + 20 * d**-0.3 + 0.05 * off**2
        return LanguageRecord(
            id=config.id,
            status="diverged" if diverged else "ok",
            config=config,
            label=label,
            **{name: about[name] for name in ("given", "study", "role", "budget")},
            metrics=LanguageMetrics(loss=loss, unique_tokens=d, epochs=1.0),
            cost=cost,
            environment={"process": os.getpid(), "threads": about["threads"]},
            created="2026-01-01T00:00:00Z",
        )

    def rate(self, params: float) -> float:
        return self.best * (params / 1e4) ** -self.p

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []
