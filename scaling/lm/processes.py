"""The processes of a run: this one, or one per device on this machine."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import tempfile
from pathlib import Path
from typing import Any, cast

import torch
import torch.multiprocessing
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.strategies import DDPStrategy, FSDPStrategy, Strategy
from lightning.fabric.utilities import rank_zero_only

from architectures.elastic import nested_layers
from architectures.model import SequenceModel
from architectures.outside.surroundings import kept
from mad.run.place import find_place
from scaling.lm.corpus import Corpus
from scaling.lm.cost import build_model
from scaling.lm.loop import Job, fit


def train(job: Job, corpus: Corpus) -> dict[str, Any]:
    """What `fit` returns, of the first rank where there are several.

    These are fresh processes that can reach each other over loopback. Where one of them fails, all are ended
    and its error is raised with its trace. They end with this process, too, however it ends.
    """
    if job.devices == 1:
        return _fit_here(job, corpus, 0)
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        answer = Path(folder) / "answer.json"
        torch.multiprocessing.spawn(_rank, (job, corpus, port, answer), nprocs=job.devices)
        return dict(json.loads(answer.read_text()))


def _rank(rank: int, job: Job, corpus: Corpus, port: int, answer: Path) -> None:
    # Lightning's environment reads these, and then starts no processes itself.
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(job.devices)}
    try:
        found = _fit_here(job, corpus, rank)
    except SystemExit as end:  # It would look as if the rank had done its work.
        raise RuntimeError(f"a layer ended its process: SystemExit: {end}") from end
    if rank == 0:
        answer.write_text(json.dumps(found))
    # None leaves while another still talks to it, and no thread of the group outlives the interpreter.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _fit_here(job: Job, corpus: Corpus, rank: int) -> dict[str, Any]:
    model = build_model(job.config)
    with kept(), contextlib.ExitStack() as stack:
        torch.set_num_threads(job.threads or torch.get_num_threads())
        # Loggers of Lightning write where this is 0; it is read from RANK, SLURM_PROCID and such at import.
        held: Any = rank_zero_only
        stack.callback(setattr, held, "rank", held.rank)
        held.rank = rank
        for name in ("lightning.fabric", "lightning.pytorch"):  # They announce devices.
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        place = find_place(job.device, job.config.precision)
        fabric = Fabric(
            accelerator=place.device.type,
            # On one device that one; else each process has its own.
            devices=[place.device.index] if ":" in job.device else job.devices,
            strategy=_strategy(job, model),
            precision=cast(Any, place.precision),
            # Processes are ours to start, whatever a cluster or torchrun has put into the environment.
            plugins=[LightningEnvironment()],
        )
        fabric.launch()
        return fit(job, corpus, model, fabric)


def _strategy(job: Job, model: SequenceModel) -> Strategy | str:
    if job.devices == 1:
        return "auto"
    if job.strategy == "fsdp":
        return FSDPStrategy(state_dict_type="full")
    # A routed layer may leave a tensor without a gradient on one rank, a nested one on all.
    partly = any(layer.routed for _, layer in model.layers()) or bool(nested_layers(model))
    return DDPStrategy(find_unused_parameters=partly)
