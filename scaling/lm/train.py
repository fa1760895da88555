"""Train one language model and keep its record: `train`."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.loggers import Logger

from architectures.files import resolved
from architectures.outside.archive import read_archive
from mad.messages import note
from mad.run.driver import one_driver
from mad.run.runner import environment_of
from mad.store import Store
from mad.tracking import Roster, read_tracking
from mad.tracking.mirror import Mirror
from scaling.lm import processes
from scaling.lm.checks import check, try_out
from scaling.lm.config import LanguageConfig
from scaling.lm.corpus import Corpus
from scaling.lm.loop import CHECKPOINT, Job
from scaling.lm.records import (
    FINAL,
    LARGEST_LOSS,
    LanguageMetrics,
    LanguagePoint,
    LanguageRecord,
    LanguageStatus,
    Role,
    below_entropy,
)
from scaling.lm.trails import Told
from scaling.lm.watch import check_loggers

# A run that ends this far above the loss of its first step, in nats, has diverged.
MARGIN = 0.1
# Seconds between two looks at what another program trains.
POLL = 1.0
# Of two purposes of one run the greater is kept.
RANK: dict[Role, int] = {"single": 0, "tuning": 1, "grid": 2}


@one_driver()
def train(
    config: LanguageConfig,
    corpus: Corpus,
    *,
    store: Store | str | Path | None = None,
    study: str | None = None,
    role: Role = "single",
    budget: float | None = None,
    label: str | None = None,
    given: str | None = None,
    device: str = "auto",
    devices: int = 1,
    strategy: str = "auto",
    folder: str | Path | None = None,
    loggers: Sequence[str | Logger] = ("csv",),
    callbacks: Sequence[Callable[[LanguagePoint], object]] = (),
    track: str | Sequence[str] | Mirror | None = None,
    track_dir: str | Path | None = None,
    checkpoint_every: int | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> LanguageRecord:
    """Train the model of `config` on a corpus and return its record; what the store holds is not repeated.

    store             a store, or the path of one, which gets the record; None: it is only returned
    study, role, budget, label   what the run counts to, not part of its identity; `label` is its family
    device            "auto", "cpu", "cuda", "cuda:N", "mps"
    devices           processes on this machine, one per device; each takes its part of every batch
    strategy          "ddp" or "fsdp" where there are several; "auto" is "ddp"
    folder            for checkpoints and logs; None: beside the store, where logs stay, else a temporary one
    loggers           "csv", or any logger of Lightning
    callbacks         called in the first process with each `LanguagePoint`: at the first step, at every
                      fiftieth and at each evaluation
    track, track_dir  as in `mad.bench`, or trackers that are open; with several devices they are told at the
                      end
    checkpoint_every  steps between two checkpoints; None: a minute
    threads           of each process on a CPU; None: as torch has it, shared among the processes

    A run that was broken off goes on from its last checkpoint, and ends as if it had not been; one that is
    damaged, or of an older version, is set aside, and the run begins anew. A loss that is not finite, or at
    the end above that of the first step or 25 nats, makes the run "diverged"; what the training raises makes
    it "failed", and so does a loss below the known entropy of the text by more than the error of its
    evaluation. What cannot work is refused with a ValueError before any training.
    """
    device = check(config, corpus, device, devices, strategy)
    check_loggers(loggers)
    about: dict[str, Any] = {
        "study": study,
        "role": role,
        "budget": budget,
        "label": label or given or config.architecture.label,
    }
    with contextlib.ExitStack() as stack:
        mirror = stack.enter_context(_mirror(track, track_dir, store))
        if isinstance(store, str | Path):
            store = stack.enter_context(Store(store))
        if store is not None:
            _wait_for(store, config.id)
            stack.callback(store.release, config.id)
            if (held := _held(store, config.id, about)) is not None:
                if mirror is not None:
                    mirror.show([held])
                return held
        cost, failure = try_out(config, corpus, device)
        where = stack.enter_context(_folder(folder, store, config.id))
        if (damage := _set_aside_unusable(where / CHECKPOINT, config.id)) is not None:
            sys.stderr.write(f"{damage}\n")
        if devices > 1 and threads is None and device == "cpu":
            threads = max(1, (os.cpu_count() or 1) // devices)
        environment = environment_of(torch.device(device))
        environment |= {"devices": devices, "threads": threads or environment["threads"]}
        if devices > 1:
            environment["strategy"] = "ddp" if strategy == "auto" else strategy
        if damage is not None:
            environment["note"] = damage
        record = LanguageRecord(
            id=config.id,
            status="interrupted",
            config=config,
            given=given or config.architecture.spec,
            environment=environment,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            **about,
        )
        # Of several devices the first one's process has the curve, and this one none.
        told = Told(mirror, record, cost) if mirror is not None else None
        job = Job(
            config=config,
            label=about["label"],
            device=device,
            devices=devices,
            strategy=strategy,
            folder=where,
            loggers=tuple(loggers),
            callbacks=(*callbacks, *([told] if told and devices == 1 else [])),
            checkpoint_every=checkpoint_every,
            threads=threads,
            progress=progress,
        )
        try:
            if failure is not None:
                raise failure
            found = processes.train(job, corpus)
        except KeyboardInterrupt:
            if store is not None:
                store.commit([record], once=True)
            raise
        except BaseException as error:  # A user's layer may raise anything; the record says what.
            trace = "".join(traceback.format_exception(error))
            record = record.model_copy(update={"status": "failed", "error": trace})
        else:
            assert cost is not None
            status, metrics = _metrics(config, found)
            impossible = below_entropy(config, metrics)
            measured = {"seconds": round(found["seconds"], 3), "peak_memory": found["peak_memory"]}
            ended = {"status": status, "metrics": metrics, "cost": cost.model_copy(update=measured)}
            refused = {"status": "failed", "error": f"ValueError: the run {impossible}"}
            record = record.model_copy(update=ended if impossible is None else refused)
        if store is not None:
            store.commit([record], once=True)
        if told is not None:
            told.ended(record)
        if folder is None and record.status in FINAL:
            (where / CHECKPOINT).unlink(missing_ok=True)
    return record


@contextlib.contextmanager
def _mirror(
    track: str | Sequence[str] | Mirror | None, folder: str | Path | None, store: Store | str | Path | None
) -> Iterator[Mirror | None]:
    """The trackers; those that were open stay so."""
    if isinstance(track, Mirror):
        yield track
        return
    beside = store.path if isinstance(store, Store) else store
    tracking = read_tracking(track, folder=folder, store=beside)
    with contextlib.nullcontext() if tracking is None else Mirror(tracking, Roster()) as mirror:
        yield mirror


def _wait_for(store: Store, id: str) -> None:
    """Take the run, if need be after another program that trains it: they would share its checkpoint."""
    if not store.claim(id):
        note(f"another program trains run {id}; waiting for it")
        while not store.claim(id):
            time.sleep(POLL)


def _held(store: Store, id: str, about: dict[str, Any]) -> LanguageRecord | None:
    """The stored result of this run, from now on for the greater of its two purposes."""
    held = store.get(id, LanguageRecord)
    if held is None or held.status not in FINAL:
        return None
    role: Role = about["role"]
    return store.relabel(held, **about) if RANK[role] > RANK[held.role] else held


@contextlib.contextmanager
def _folder(folder: str | Path | None, store: Store | None, id: str) -> Iterator[Path]:
    """Where checkpoints and logs go."""
    if folder is None and store is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    beside = Path() if store is None else store.path.with_name(f"{store.path.name}.runs") / id
    where = beside if folder is None else resolved(folder)
    where.mkdir(parents=True, exist_ok=True)
    yield where


def _set_aside_unusable(path: Path, id: str) -> str | None:
    """Make room where a checkpoint is damaged, or of an older version; what is to be said of it.

    Raises ValueError for the checkpoint of another run.
    """
    if not path.exists():
        return None
    try:
        content = read_archive(path)
    except OSError:
        raise
    except Exception as error:  # The unpickler answers a damaged file with whatever it stumbles over.
        reason = " ".join(str(error).split()) or type(error).__name__
        what, end = f"is damaged ({reason})", "damaged"
    else:
        other = content.get("run", {}).get("id") if isinstance(content, dict) else None
        if other != id:
            whose = "no run of ours" if other is None else f"run {other}"
            raise ValueError(
                f"{path} is the checkpoint of {whose}, and this is run {id}; pass another folder"
            )
        if "optimizer" in content:
            return None
        what, end = "is of an older version", "old"
    aside = path.with_name(f"{path.name}.{end}")
    os.replace(path, aside)
    return f"{path} {what}: the run begins anew, and the file is kept as {aside.name}"


def _metrics(config: LanguageConfig, found: dict[str, Any]) -> tuple[LanguageStatus, LanguageMetrics]:
    """Status and metrics from what a fit brought back; a run that diverged has no loss."""
    points = tuple(LanguagePoint(**point) for point in found["points"])
    loss, error, read = found["evaluated"] or (math.nan, math.nan, 0)
    limit = LARGEST_LOSS if found["initial"] is None else min(found["initial"] + MARGIN, LARGEST_LOSS)
    diverged = found["diverged"] or not points or points[-1].loss is None or not loss <= limit
    size = config.corpus.bytes_per_token
    trained = points[-1].tokens if points else 0
    unique = min(trained, config.corpus.train_tokens or trained)
    return "diverged" if diverged else "ok", LanguageMetrics(
        loss=None if diverged else loss,
        loss_error=None if diverged else error,
        bits_per_byte=None if diverged or size is None else loss / math.log(2) / size,
        train_loss=None if diverged else points[-1].train_loss,
        initial_loss=found["initial"],
        evaluated=0 if diverged else read,
        curve=points,
        unique_tokens=unique,
        epochs=trained / unique if unique else 0.0,
        clipped_steps=found["clipped"],
    )
