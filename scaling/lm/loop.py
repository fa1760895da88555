"""The loop that trains a language model, in each process of a run: `fit`.

Everything is a function of the step: the batch, the learning rate, the noise. So a run that is resumed, or
split over several processes, is the run that it would have been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from lightning.fabric.loggers import Logger
from lightning.fabric.strategies import FSDPStrategy
from torch import Tensor, nn

from architectures.contract.causality import require_trained
from architectures.files import whole_file
from architectures.model import SequenceModel
from mad.run.learners import Objective, write_updates
from mad.run.optim import Optimizer
from mad.run.trainer import PROBE_ROWS, evaluation_steps, peak_memory
from scaling.lm.config import LanguageConfig
from scaling.lm.corpus import Corpus
from scaling.lm.records import LanguagePoint
from scaling.lm.watch import Reporter

# Steps between two looks at what the device holds; in between nothing is read from it.
LOOK = 50
SAVE_SECONDS = 60.0
CHECKPOINT = "last.ckpt"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Where and how a run is trained: nothing of it changes the numbers beyond rounding."""

    config: LanguageConfig
    label: str
    device: str
    devices: int
    strategy: str
    folder: Path
    loggers: tuple[str | Logger, ...]
    callbacks: tuple[Callable[[LanguagePoint], object], ...]
    checkpoint_every: int | None
    threads: int | None
    progress: bool


@dataclass
class Tally:
    """What a run has measured so far, as JSON; checkpoints keep it.

    evaluated  loss, its standard error and tokens of the last evaluation
    summed     the losses since the last point of the curve, `since` so many steps, over all ranks
    """

    points: list[dict[str, Any]] = field(default_factory=list)
    initial: float | None = None
    evaluated: tuple[float, float, int] | None = None
    summed: float = 0.0
    since: int = 0
    clipped: int = 0
    seconds: float = 0.0


def learning_rate(config: LanguageConfig, step: int) -> float:
    """The factor on the learning rate at `step` in 0 .. steps - 1.

    (step + 1) / warmup while warming up; then a cosine from 1 towards `final_lr`, which it would reach at
    `steps`.
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / (config.steps - config.warmup)
    return config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * done))


def share(config: LanguageConfig, corpus: Corpus, step: int, rank: int, world: int) -> Tensor:
    """The rows of one rank in the batch that all share: (n, T + 1) tokens."""
    rows = config.batch_size // world
    batch = corpus.batch(step, batch_size=config.batch_size, seq_len=config.seq_len, seed=config.seed)
    return torch.from_numpy(np.ascontiguousarray(batch[rank * rows : (rank + 1) * rows], dtype=np.int64))


def fit(job: Job, corpus: Corpus, model: SequenceModel, fabric: Fabric) -> dict[str, Any]:
    """Train in this process, alone or as one of several ranks, from the folder's checkpoint if it has one.

    Returns, as JSON, what `Tally` has, whether the run `diverged`, and `peak_memory`.
    """
    loop = Loop(job, corpus, model, fabric)
    with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
        diverged = loop.run()
    found = asdict(loop.tally) | {"diverged": diverged, "peak_memory": peak_memory(fabric.device)}
    # Of weights that are sharded no process has all.
    if loop.rank == 0 and job.strategy != "fsdp" and not diverged:
        config = job.config
        require_trained(
            model,
            loop.windows[:PROBE_ROWS, :-1],
            config.corpus.vocab_size,
            who=config.architecture.spec,
            steps=config.steps,
            batch_size=config.batch_size,
        )
    return found


class Learner(nn.Module):
    """What is wrapped for several processes: rows of tokens (n, T + 1) and a step -> the loss and new values
    of buffers; without a step -> the nats of each row (n,).
    """

    def __init__(self, model: SequenceModel, config: LanguageConfig, rank: int = 0) -> None:
        super().__init__()
        self.config, self.rank = config, rank
        self.objective = Objective(model)
        # In a tuple: as an attribute it would be a second module, and its weights twice in a checkpoint.
        call: Any = torch.compile(self.objective, dynamic=False) if config.compile else self.objective
        self.calls: tuple[Callable[..., Any], ...] = (call,)

    @property
    def model(self) -> SequenceModel:
        return cast("SequenceModel", self.objective.model)

    def forward(self, rows: Tensor, step: int | None = None) -> Any:
        tokens, targets = rows[:, :-1], rows[:, 1:]
        if step is None:
            logits = self.model(tokens)
            nats = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
            return nats.view(len(rows), -1).sum(1)
        contexts = self.objective.contexts(self.config.seed, step)
        if self.rank:  # Each rank has other rows, and draws other noise for them.
            for ctx in contexts:
                ctx.seed = _key(self.config.seed, self.rank)
        loss, updates = self.calls[0](tokens, targets, *contexts)
        return loss, {name: value.detach() for name, value in updates.items()}


def make_optimizer(learner: Learner) -> Optimizer:
    config, model = learner.config, learner.model
    return Optimizer(
        model.named_parameters(),
        model.hints(),
        betas=config.betas,
        eps=config.eps,
        lr=config.lr,
        weight_decay=config.weight_decay,
    )


class Loop:
    """A run in this process: its model and optimiser, and what was measured so far."""

    def __init__(self, job: Job, corpus: Corpus, model: SequenceModel, fabric: Fabric) -> None:
        config, device = job.config, fabric.device
        self.job, self.config, self.corpus, self.fabric = job, config, corpus, fabric
        self.rank, self.world = fabric.global_rank, fabric.world_size
        self.report = Reporter(job, first=self.rank == 0)
        self.learner = Learner(model, config, self.rank)
        self.wrapped = fabric.setup_module(self.learner)
        self.optimizer = make_optimizer(self.learner)
        windows = corpus.validation(config.seq_len, config.evaluation_tokens)
        self.windows = torch.from_numpy(np.asarray(windows, dtype=np.int64)).to(device)
        self.marks = set(evaluation_steps(config.steps, config.evaluations))
        save_every = job.checkpoint_every or LOOK
        self.looks = {1, config.steps} | self.marks
        self.looks |= {*range(LOOK, config.steps, LOOK), *range(save_every, config.steps, save_every)}
        self.step, self.tally = 0, Tally()
        self._resume()
        # Tallies stay on the device between two looks: summed loss, and how many gradients were clipped.
        self.wide = torch.float32 if device.type == "mps" else torch.float64
        self.total = torch.zeros((), dtype=self.wide, device=device)
        self.clipped = torch.tensor(self.tally.clipped, device=device)
        self.started = self.saved = time.perf_counter()
        self.before = self.tally.seconds

    def run(self) -> bool:
        """Train to the end; whether the loss is no longer finite, which is an end too."""
        diverged = False
        self.wrapped.train()
        with self.report:
            while self.step < self.config.steps and not diverged:
                self._advance()
                if self.step in self.looks:
                    diverged = self._look()
        self._note()
        return diverged

    def _advance(self) -> None:
        config, device = self.config, self.fabric.device
        batch = share(config, self.corpus, self.step, self.rank, self.world).to(device)
        # A user's dropout draws from the global random state. torch.manual_seed asks every kind of device
        # that there could be, which takes as long as a small layer.
        key = _key(config.seed, self.step, self.rank)
        torch.default_generator.manual_seed(key)
        if device.type == "cuda":
            torch.cuda.manual_seed(key)
        loss, updates = self.wrapped(batch, self.step)
        self.fabric.backward(loss)
        if config.clip is not None:
            self.clipped += self._clip(config.clip) > config.clip
        self.optimizer.step(learning_rate(config, self.step))
        self.optimizer.adamw.zero_grad(set_to_none=True)
        write_updates(self.learner.objective, updates)
        self.total += loss.detach()
        self.tally.since += 1
        self.step += 1

    def _clip(self, limit: float) -> Tensor:
        """Scale the gradient of all parameters down to the norm `limit`; its norm before that."""
        if isinstance(self.fabric.strategy, FSDPStrategy):  # No rank holds the whole gradient.
            sharded: Any = self.wrapped._forward_module
            return sharded.clip_grad_norm_(limit)
        return torch.nn.utils.clip_grad_norm_(self.learner.parameters(), limit)

    def _look(self) -> bool:
        """Read what the device holds, evaluate and save where it is time; whether the run has diverged."""
        config, tally, step = self.config, self.tally, self.step
        # The clock of the first rank: all must agree on when to save.
        clock = time.perf_counter() - self.saved if self.rank == 0 else 0.0
        found = torch.stack([self.total, self.total.new_tensor(clock)])
        total, waited = self._sum(found).tolist()
        tally.summed += total
        self.total.zero_()
        mean = tally.summed / self.world / tally.since
        finite = math.isfinite(mean)
        if step == 1:
            tally.initial = mean if finite else None
        loss = None
        if step in self.marks and finite:
            tally.evaluated = self._evaluate()
            finite = math.isfinite(tally.evaluated[0])
            loss = tally.evaluated[0] if finite else None
        point = LanguagePoint(
            step=step,
            tokens=step * config.batch_size * config.seq_len,
            loss=loss,
            train_loss=mean if math.isfinite(mean) else None,
            lr=config.lr * learning_rate(config, step - 1),
        )
        self.report(point)
        if step in self.marks or not finite:
            tally.points.append(point.model_dump())
            tally.summed, tally.since = 0.0, 0
        every = self.job.checkpoint_every
        due = step % every == 0 if every else waited > SAVE_SECONDS
        if finite and (due or step == config.steps):
            self._save()
        return not finite

    def _evaluate(self) -> tuple[float, float, int]:
        """Mean loss in nats per token over all windows, its standard error over windows, and the tokens."""
        config, count, world = self.config, len(self.windows), self.world
        # Every rank has equally many windows, the last ones perhaps twice and then without weight: a wrapped
        # model is called in step with the others.
        mine = torch.arange(self.rank, -(-count // world) * world, world, device=self.total.device)
        weight = (mine < count).to(self.wide)
        rows = max(1, 2**22 // (config.seq_len * config.corpus.vocab_size))
        self.wrapped.eval()
        with torch.no_grad():
            parts = [self.wrapped(self.windows[i % count]) for i in mine.split(rows)]
        self.wrapped.train()
        means = torch.cat(parts).to(self.wide) / config.seq_len
        sums = torch.stack([(weight * means).sum(), (weight * means.square()).sum()])
        first, second = (self._sum(sums) / count).tolist()
        spread = max(0.0, second - first**2) * count / max(1, count - 1)
        return first, math.sqrt(spread / count), count * config.seq_len

    def _sum(self, values: Tensor) -> Tensor:
        """Over all ranks."""
        return cast("Tensor", self.fabric.all_reduce(values, reduce_op="sum"))

    def _note(self) -> None:
        """Bring the tally up to date with the device and the clock."""
        self.tally.clipped = int(self.clipped)
        self.tally.seconds = self.before + time.perf_counter() - self.started

    def _save(self) -> None:
        self._note()
        run = {"id": self.config.id, **asdict(self.tally)}
        state = self._state() | {"global_step": self.step, "run": run}
        path = self.job.folder / CHECKPOINT
        # All ranks save together, and the first one writes.
        with whole_file(path, force=True) if self.rank == 0 else nullcontext(path) as part:
            self.fabric.save(part, state)
        self.saved = time.perf_counter()

    def _resume(self) -> None:
        path = self.job.folder / CHECKPOINT
        if path.exists():
            rest = self.fabric.load(path, self._state(), weights_only=True)
            self.step = rest["global_step"]
            self.tally = Tally(**{name: value for name, value in rest["run"].items() if name != "id"})

    def _state(self) -> dict[str, Any]:
        return {"state_dict": self.wrapped, "optimizer": self.optimizer.adamw}


def _key(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) % 2**63
