"""What is told of a training run while it goes on: to loggers, callbacks and a person."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.fabric.loggers import CSVLogger, Logger
from rich.console import Console

from mad.messages import near, printable
from scaling.lm.records import LanguagePoint

if TYPE_CHECKING:
    from scaling.lm.loop import Job

LOGGERS = ("csv",)


def check_loggers(loggers: Sequence[str | Logger]) -> None:
    for name in loggers:
        if isinstance(name, str) and name not in LOGGERS:
            raise ValueError(
                f"logger {name!r} is not csv{near(name, LOGGERS)}; give a logger of Lightning, or a tracker "
                "with track="
            )


def make_loggers(given: Sequence[str | Logger], folder: Path) -> list[Logger]:
    """`logs/version_N/metrics.csv` in the folder for "csv"; others as they are."""
    return [CSVLogger(folder, name="logs") if isinstance(one, str) else one for one in given]


class Reporter:
    """Tells the loggers and callbacks every point, and a person on standard error those with a held-out loss.

    As a context it ends the loggers: "success" or "failed". Ranks but the first tell nobody.
    """

    def __init__(self, job: Job, *, first: bool) -> None:
        self.job, self.steps = job, job.config.steps
        self.loggers = make_loggers(job.loggers, job.folder) if first else []
        self.callbacks = job.callbacks if first else ()
        self.console = Console(stderr=True, highlight=False) if job.progress and first else None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        for logger in self.loggers:
            logger.finalize("success" if kind is None else "failed")

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
