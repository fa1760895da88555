"""From a configuration to trained weights: the Trainer around a `Learner`, in each process of a run."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy
from lightning.pytorch.utilities import rank_zero_only

from architectures.contract.causality import require_trained
from architectures.elastic import nested_layers
from architectures.model import SequenceModel
from architectures.surroundings import kept
from mad.run.trainer import ROWS, peak_memory
from scaling.lm.config import LanguageConfig
from scaling.lm.cost import build_model
from scaling.lm.learner import LOOK, Batches, Learner, Text
from scaling.lm.resume import CHECKPOINT, keep
from scaling.lm.watch import Reporter, make_loggers


@dataclass(frozen=True, kw_only=True)
class Job:
    """Where and how a run is trained: nothing of it changes the numbers beyond rounding."""

    config: LanguageConfig
    label: str
    device: str
    devices: int
    strategy: str
    folder: Path
    loggers: tuple[str, ...]
    checkpoint_every: int | None
    threads: int | None
    progress: bool


def fit(job: Job, corpus: Text) -> dict[str, Any]:
    """Train in this process, alone or as one of several ranks, from the folder's checkpoint if it has one.

    Returns, as JSON, the curve and the tally of `Learner`, `peak_memory` and the step of the checkpoint.
    """
    config = job.config
    model = build_model(config)
    rank = int(os.environ.get("LOCAL_RANK", 0)) if job.devices > 1 else 0
    first = rank == 0
    loggers = make_loggers(job.loggers if first else (), config, job.label, job.folder)
    trainer_box: list[Trainer] = []
    checkpoint = job.folder / CHECKPOINT

    learner = Learner(
        model,
        config,
        corpus.validation(config.seq_len, config.evaluation_tokens),
        save=lambda: keep(job.folder, trainer_box[0].save_checkpoint, first=first),
        save_every=job.checkpoint_every,
        report=Reporter(config, job.label, loggers, show=job.progress and first),
    )
    kind, _, index = job.device.partition(":")
    with kept(), _quiet(), _as_rank(rank), _random_state_kept(torch.device(job.device)):
        torch.set_num_threads(job.threads or torch.get_num_threads())
        trainer = Trainer(
            accelerator=kind,
            devices=job.devices if not index else [int(index)],
            strategy=_strategy(job, model),
            # Processes are ours to start, whatever a cluster's job or torchrun has put into the environment.
            plugins=[LightningEnvironment()],
            precision=config.precision,
            max_epochs=-1,
            max_steps=config.steps,
            logger=loggers or False,
            log_every_n_steps=min(LOOK, config.steps),
            default_root_dir=job.folder,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            use_distributed_sampler=False,
            inference_mode=False,
        )
        trainer_box.append(trainer)
        resumed = checkpoint.exists()
        batches = Batches(config, corpus, lambda: trainer.global_step, rank, job.devices)
        with _interruptible():
            trainer.fit(learner, batches, ckpt_path=checkpoint if resumed else None, weights_only=True)
    if "wandb" in job.loggers and first:
        import wandb

        wandb.finish()
    found = {
        "points": [point.model_dump() for point in learner.points],
        "initial": learner.initial,
        "evaluated": learner.evaluated,
        "diverged": learner.diverged,
        "clipped": int(learner.clipped),
        "seconds": learner.elapsed,
        "peak_memory": peak_memory(torch.device(job.device)),
    }
    # Of weights that are sharded no process has all.
    if first and job.strategy != "fsdp" and not learner.diverged:
        require_trained(
            model.to(job.device),
            learner.windows[:ROWS, :-1],
            config.corpus.vocab_size,
            who=config.architecture.spec,
            steps=config.steps,
            batch_size=config.batch_size,
        )
    return found


def _strategy(job: Job, model: SequenceModel) -> Strategy | str:
    if job.devices == 1:
        return "auto"
    if job.strategy == "fsdp":
        return FSDPStrategy(state_dict_type="full")
    # A routed layer may leave a tensor without a gradient on one rank, a nested one on all.
    partly = any(layer.routed for _, layer in model.layers()) or bool(nested_layers(model))
    return DDPStrategy(find_unused_parameters=partly)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning from announcing devices, tips and the end of training."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # What Lightning calls of torch and torch is about to rename; nothing that a user could mend.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _as_rank(rank: int) -> Iterator[None]:
    """The rank by which Lightning's loggers decide whether to write; it reads RANK, SLURM_PROCID and such."""
    held: Any = rank_zero_only
    before = held.rank
    held.rank = rank
    try:
        yield
    finally:
        held.rank = before


@contextlib.contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Control-C as Python has it: Lightning would end the interpreter, and leave the signal ignored."""
    try:
        with kept():
            yield
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
