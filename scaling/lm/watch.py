"""What a person sees of a training run: a bar or plain lines, and the loggers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rich.console import Console

from mad.messages import printable
from scaling.lm.config import LanguageConfig
from scaling.lm.records import LanguagePoint

LOGGERS = ("csv", "wandb")


def check_loggers(names: Sequence[str]) -> None:
    for name in names:
        if name not in LOGGERS:
            close = get_close_matches(name, LOGGERS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"logger {name!r} is not one of {', '.join(LOGGERS)}{hint}")


def make_loggers(names: Sequence[str], config: LanguageConfig, label: str, folder: Path) -> list[Any]:
    """`logs/version_N/metrics.csv` and `wandb/` in the folder.

    W&B writes without a network unless a key (WANDB_API_KEY) or a mode (WANDB_MODE) is set.
    """
    from lightning.pytorch.loggers import CSVLogger, WandbLogger

    loggers: list[Any] = []
    if "csv" in names:
        loggers.append(CSVLogger(folder, name="logs"))
    if "wandb" in names:
        told = [name for name in ("WANDB_API_KEY", "WANDB_MODE") if _stripped(name)]
        loggers.append(
            WandbLogger(
                name=f"{label} {config.id[:6]}",
                id=config.id,
                project="mad-scaling",
                save_dir=folder,
                offline=not told,
                config=config.model_dump(mode="json"),
            )
        )
    return loggers


def _stripped(name: str) -> str:
    """A variable without blanks around it, or none: an empty one is a secret that a job was not given, and
    W&B refuses a key with the end of its line.
    """
    word = os.environ.pop(name, "").strip()
    if word:
        os.environ[name] = word
    return word


class Reporter:
    """Tells the loggers every point, and a person on standard error those with a held-out loss."""

    def __init__(self, config: LanguageConfig, label: str, loggers: list[Any], *, show: bool) -> None:
        self.config, self.label, self.loggers = config, label, loggers
        self.console = Console(stderr=True, highlight=False) if show else None

    def __call__(self, point: LanguagePoint) -> None:
        values = {name: value for name, value in point.model_dump().items() if value is not None}
        for logger in self.loggers:
            logger.log_metrics(values, step=values.pop("step", point.step))
        if self.console is None:
            return
        loss = "" if point.loss is None else f"  held-out {point.loss:.4f}"
        train = "-" if point.train_loss is None else f"{point.train_loss:.4f}"
        line = f"{printable(self.label)}  step {point.step:,} of {self.config.steps:,}  loss {train}{loss}"
        if self.console.is_terminal:  # One line that is written over, kept where it has a result.
            self.console.print(line, end="\n" if loss else "\r", markup=False, overflow="crop")
        elif loss:
            self.console.print(line, markup=False, soft_wrap=True)
