"""Weights & Biases. Without a network unless a key or WANDB_MODE says otherwise: `wandb sync` sends it later.

A run has our hash of its content as its id, so that W&B has it once, however often it is sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from architectures.files import whole_file
from mad.data.trails import Head, Row, Tail, Trail, axis_of
from mad.messages import counted, near
from mad.tracking import By, Place

PROJECT = "mad-suite"
# Seconds until W&B must have answered when a run begins; it is kept offline otherwise.
ANSWER = 20.0
# Characters that W&B takes.
LONGEST_NAME, LONGEST_TAG = 128, 64
# What was shown, by the ids of the runs, so that it is not shown again.
LEDGER = "mad-shown.json"


MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")


class Mirror:
    """See `mad.tracking.Tracker`."""

    by: ClassVar[By] = "architecture"

    def __init__(self, folder: Path, place: Place) -> None:
        # Blanks around a key are no key to W&B, and none of them is empty.
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID", "WANDB_SWEEP_ID"):
            if word := os.environ.pop(name, "").strip():
                os.environ[name] = word
        os.environ["WANDB_SILENT"] = "true"
        # It reports on itself over the network, offline too.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        # Seconds after which what was told is on the disk; releases that cannot say so have a short one.
        os.environ.setdefault("WANDB__TRANSACTION_LOG_FLUSH_INTERVAL", "1")
        named = os.environ.get("WANDB_DIR")
        # W&B writes into a folder "wandb" there.
        self.folder = Path(named) if named else folder
        self.runs_folder = self.folder / "wandb"
        self.runs_folder.mkdir(parents=True, exist_ok=True)
        # Beside the runs, not in the user's home.
        for name in ("WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
            os.environ.setdefault(name, str(self.runs_folder / "data"))
        import wandb

        self.wandb, self.place = wandb, place
        # Without a key, of the environment or of `wandb login`, a run online is refused at once.
        self.mode = os.environ.get("WANDB_MODE") or "online"
        self.asked = "WANDB_MODE" in os.environ or "WANDB_API_KEY" in os.environ
        self.sweep = "WANDB_SWEEP_ID" in os.environ
        self.tags = [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]
        self.runs: dict[str, _Run] = {}
        self.known = self.shown = 0

    @staticmethod
    def require() -> None:
        mode = os.environ.get("WANDB_MODE", "").strip()
        if mode and mode not in MODES:
            raise ValueError(
                f"WANDB_MODE={mode!r} is not one of {', '.join(MODES)}{near(mode, MODES)}; unset it"
            )

    def begin(self, head: Head) -> None:
        if self.sweep and self.shown:
            raise ValueError("the agent of a sweep follows one run of each call; give one architecture")
        try:
            run = self._init(head, self.mode)
        except (self.wandb.Error, OSError) as error:
            if self.mode != "online" or self.runs:
                raise
            if self.asked or not isinstance(error, self.wandb.errors.UsageError):
                self.place.tell(f"W&B cannot be used ({error}); runs are kept offline")
            self.mode = "offline"
            self.wandb.teardown(exit_code=1)  # What was begun holds the run's id.
            run = self._init(head, self.mode)
        self.runs[head.id] = _Run(run, head)
        self.shown += 1

    def log(self, id: str, rows: Sequence[Row]) -> None:
        self.runs[id].log(rows)

    def end(self, id: str, tail: Tail) -> None:
        run = self.runs.pop(id)
        run.conclude(tail, self.wandb)
        self._note_shown(id, _digest(tail))

    def show(self, trail: Trail) -> None:
        id = trail.head.id
        there = any(self.runs_folder.glob(f"*run-*-{id}"))
        if not self.sweep and there and self._ledger().get(id) == _digest(trail.tail):
            self.known += 1
            return
        self.begin(trail.head)
        self.log(id, trail.rows)
        self.end(id, trail.tail)

    def close(self) -> None:
        for run in self.runs.values():
            run.run.finish(exit_code=1)
        where = self.runs_folder
        if self.known and self.place.driver is None:
            self.place.tell(f"{counted(self.known, 'run')} had been told before")
        if self.shown and self.mode == "offline":
            self.place.tell(f"kept offline in {where}; `wandb sync {where}/offline-run-*` sends it")

    def _init(self, head: Head, mode: Any) -> Any:
        settings = self.wandb.Settings(
            console="off",
            silent=True,
            init_timeout=ANSWER,
            # Of the process that trains, if there is one.
            x_disable_stats=self.place.driver is None,
            x_stats_pid=self.place.driver or os.getpid(),
        )
        return self.wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=head.id,  # In a sweep W&B takes the one that its agent has put into the environment.
            name=os.environ.get("WANDB_NAME") or _cut(head.name, LONGEST_NAME),
            group=os.environ.get("WANDB_RUN_GROUP") or _cut(head.group, LONGEST_NAME),
            job_type=os.environ.get("WANDB_JOB_TYPE") or _cut(head.job, LONGEST_TAG),
            tags=[_cut(tag, LONGEST_TAG) for tag in (*head.tags, *self.tags)],
            config={"id": head.id, **head.config},
            resume="allow",
            reinit="create_new",
            mode=mode,
            dir=str(self.folder),
            settings=settings,
        )

    def _ledger(self) -> dict[str, str]:
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((self.runs_folder / LEDGER).read_text(encoding="utf-8")))
        return {}

    def _note_shown(self, id: str, digest: str) -> None:
        with whole_file(self.runs_folder / LEDGER, force=True) as part:
            part.write_text(json.dumps(self._ledger() | {id: digest}), encoding="utf-8")


class _Run:
    """A run of W&B that goes on."""

    def __init__(self, run: Any, head: Head) -> None:
        self.run, self.head = run, head
        self.defined: set[str] = set()

    def log(self, rows: Sequence[Row]) -> None:
        for row in rows:
            axis = axis_of(row)
            self._define(axis, row)
            # A run that W&B knows already has its curve up to there.
            if self.run.resumed and row[axis] <= (self.run.summary.get(axis) or 0):
                continue
            self.run.log(dict(row))

    def _define(self, axis: str, row: Row) -> None:
        if axis not in self.defined:
            self.defined.add(axis)
            self.run.define_metric(axis, hidden=True)
        for name in row:
            if name not in self.defined:
                self.defined.add(name)
                # No panels for what is there to be an axis.
                hidden = name.rpartition("/")[2] in ("tokens", "flops")
                self.run.define_metric(name, step_metric=axis, hidden=hidden)

    def conclude(self, tail: Tail, wandb: Any) -> None:
        self.run.summary.update({name: value for name, value in tail.summary.items() if value is not None})
        if tail.table:
            columns = list(tail.table[0])
            data = [[line.get(name) for name in columns] for line in tail.table]
            self.run.log({"cells": wandb.Table(columns=columns, data=data)})
        artifact = wandb.Artifact(f"records-{self.head.id}", type="records")
        with artifact.new_file("records.jsonl", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in tail.records)
        self.run.log_artifact(artifact)
        self.run.finish(exit_code=int(tail.status not in ("ok", "stopped", "diverged")))


def _digest(tail: Tail) -> str:
    return hashlib.sha256("\n".join(sorted(tail.records)).encode()).hexdigest()[:20]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
