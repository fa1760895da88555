"""What is told of a training run while it goes on: to loggers, callbacks and a person."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.fabric.loggers import CSVLogger, Logger
from rich.console import Console

from mad.messages import near, printable
from scaling.lm.config import LanguageConfig
from scaling.lm.records import LanguagePoint

if TYPE_CHECKING:
    from scaling.lm.loop import Job

LOGGERS = ("csv", "wandb")


def check_loggers(loggers: Sequence[str | Logger]) -> None:
    for name in loggers:
        if isinstance(name, str) and name not in LOGGERS:
            raise ValueError(f"logger {name!r} is not one of {', '.join(LOGGERS)}{near(name, LOGGERS)}")


def make_loggers(
    given: Sequence[str | Logger], config: LanguageConfig, label: str, folder: Path
) -> list[Logger]:
    """`logs/version_N/metrics.csv` and `wandb/` in the folder, for their names; others as they are."""

    def wandb() -> Logger:
        from lightning.pytorch.loggers import WandbLogger  # It takes seconds to load.

        online = [name for name in ("WANDB_API_KEY", "WANDB_MODE") if _stripped(name)]
        return WandbLogger(
            name=f"{label} {config.id[:6]}",
            id=config.id,
            project="mad-scaling",
            save_dir=folder,
            offline=not online,
            config=config.model_dump(mode="json"),
        )

    made: dict[str, Callable[[], Logger]] = {"csv": lambda: CSVLogger(folder, name="logs"), "wandb": wandb}
    return [made[one]() if isinstance(one, str) else one for one in given]


def _stripped(name: str) -> str:
    """A variable without blanks around it, or none: W&B refuses an empty key, and one with its line end."""
    word = os.environ.pop(name, "").strip()
    if word:
        os.environ[name] = word
    return word


class Reporter:
    """Tells the loggers and callbacks every point, and a person on standard error those with a held-out loss.

    As a context it ends the loggers: "success" or "failed". Ranks but the first tell nobody.
    """

    def __init__(self, job: Job, *, first: bool) -> None:
        self.job, self.steps = job, job.config.steps
        self.loggers = make_loggers(job.loggers, job.config, job.label, job.folder) if first else []
        self.callbacks = job.callbacks if first else ()
        self.console = Console(stderr=True, highlight=False) if job.progress and first else None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        for logger in self.loggers:
            logger.finalize("success" if kind is None else "failed")
        if self.loggers and "wandb" in self.job.loggers:
            import wandb

            wandb.finish(exit_code=int(kind is not None))

    def __call__(self, point: LanguagePoint) -> None:
        values = {n: value for n, value in point.model_dump(exclude={"step"}).items() if value is not None}
        for logger in self.loggers:
            logger.log_metrics(values, step=point.step)
        for callback in self.callbacks:
            callback(point)
        if self.console is None:
            return
        loss = "" if point.loss is None else f"  held-out {point.loss:.4f}"
        train = "-" if point.train_loss is None else f"{point.train_loss:.4f}"
        line = f"{printable(self.job.label)}  step {point.step:,} of {self.steps:,}  loss {train}{loss}"
        if self.console.is_terminal:  # One line that is written over, kept where it has a result.
            self.console.print(line, end="\n" if loss else "\r", markup=False, overflow="crop")
        elif loss:
            self.console.print(line, markup=False, soft_wrap=True)
