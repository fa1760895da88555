"""The training of a language model as a LightningModule: schedule, data, one step, evaluation, its own tally.

Everything is a function of the step: the batch, the learning rate, the noise. So a run that is resumed, or
split over several processes, is the run that it would have been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.model import SequenceModel
from mad.run.learners import Objective, write_updates
from mad.run.optim import parameter_groups
from mad.run.trainer import evaluation_steps
from scaling.lm.config import CorpusConfig, LanguageConfig
from scaling.lm.records import LanguagePoint

# Steps between two looks at what the device holds; in between nothing is read from it.
LOOK = 50
SAVE_SECONDS = 60.0


class Text(Protocol):
    """What is read of a corpus, as `scaling.lm.corpus.Corpus` offers it: rows of `seq_len + 1` tokens."""

    @property
    def config(self) -> CorpusConfig: ...

    def batch(self, step: int, *, batch_size: int, seq_len: int, seed: int) -> np.ndarray: ...

    def validation(self, seq_len: int, tokens: int) -> np.ndarray: ...


def learning_rate(config: LanguageConfig, step: int) -> float:
    """The factor on the learning rate at `step` in 0 .. steps - 1.

    (step + 1) / warmup while warming up; then a cosine from 1 towards `final_lr`, which it would reach at
    `steps`.
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / (config.steps - config.warmup)
    return config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * done))


class Batches:
    """The batches of one rank from the step that `start` tells on: its rows of the batch that all share."""

    def __init__(
        self, config: LanguageConfig, corpus: Text, start: Callable[[], int], rank: int, world: int
    ) -> None:
        self.config, self.corpus, self.start = config, corpus, start
        size = config.batch_size // world
        self.rows = slice(rank * size, (rank + 1) * size)

    def __len__(self) -> int:
        return self.config.steps

    def __iter__(self) -> Iterator[Tensor]:
        config = self.config
        for step in range(self.start(), config.steps):
            batch = self.corpus.batch(
                step, batch_size=config.batch_size, seq_len=config.seq_len, seed=config.seed
            )
            yield torch.from_numpy(np.ascontiguousarray(batch[self.rows], dtype=np.int64))

    # Lightning asks a loader that can be resumed for its state; here the trainer's step is all of it.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Learner(lightning.LightningModule):
    """One run: `points` of its curve, the last evaluation, and how many steps were clipped.

    `look` is called at every step that the device is looked at, with what was found there.
    """

    def __init__(
        self,
        model: SequenceModel,
        config: LanguageConfig,
        windows: np.ndarray,
        *,
        save: Callable[[], None] = lambda: None,
        save_every: int | None = None,
        report: Callable[[LanguagePoint], None] = lambda point: None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.objective = Objective(model)
        self.config, self.save, self.report = config, save, report
        self.windows = torch.from_numpy(np.asarray(windows, dtype=np.int64))
        self.marks = set(evaluation_steps(config.steps, config.evaluations))
        every = {
            *range(LOOK, config.steps, LOOK),
            *range(save_every or LOOK, config.steps, save_every or LOOK),
        }
        self.looks = {1, config.steps} | self.marks | every
        self.save_every = save_every
        self.points: list[LanguagePoint] = []
        self.initial: float | None = None
        self.evaluated: tuple[float, float, int] | None = None
        self.diverged = False
        # Since the last point of the curve: the losses summed over ranks up to the last look, and the steps.
        self.summed, self.since = 0.0, 0
        self.seconds, self.clipped_before = 0.0, 0
        # In a tuple: as an attribute it would be a second module, and its weights twice in a checkpoint.
        call: Any = torch.compile(self.objective, dynamic=False) if config.compile else self.objective
        self.calls: tuple[Callable[..., Any], ...] = (call,)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        config, model = self.config, cast("SequenceModel", self.objective.model)
        groups = parameter_groups(
            model.named_parameters(), model.hints(), lr=config.lr, weight_decay=config.weight_decay
        )
        for group in groups:
            group["initial_lr"] = group["lr"]
        return torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, fused=True)

    def on_fit_start(self) -> None:
        self.wide = torch.float32 if self.device.type == "mps" else torch.float64
        # Tallies stay on the device between two looks: summed loss, and how many gradients were clipped.
        self.total = torch.zeros((), dtype=self.wide, device=self.device)
        self.clipped = torch.tensor(self.clipped_before, device=self.device)
        self.windows = self.windows.to(self.device)
        self.started = self.saved = time.perf_counter()

    def training_step(self, batch: Tensor, batch_index: int) -> None:
        config, step = self.config, self.global_step
        optimizer: Any = self.optimizers()  # Lightning's, which counts the steps.
        factor = learning_rate(config, step)
        for group in optimizer.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        # A user's dropout draws from the global random state. torch.manual_seed asks every kind of device
        # that there could be, which takes as long as a small layer.
        key = _key(config.seed, step, self.global_rank)
        torch.default_generator.manual_seed(key)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(key)
        contexts = self.objective.contexts(config.seed, step)
        if self.global_rank:  # Each rank has other rows, and draws other noise for them.
            for ctx in contexts:
                ctx.seed = _key(config.seed, self.global_rank)
        loss, updates = self.calls[0](batch[:, :-1], batch[:, 1:], *contexts)
        self.manual_backward(loss)
        if config.clip is not None:
            self.clipped += self._clip(config.clip) > config.clip
        optimizer.step()
        optimizer.optimizer.zero_grad(set_to_none=True)
        write_updates(self.objective, updates)
        self.total += loss.detach()
        self.since += 1

    def predict_step(self, rows: Tensor) -> Tensor:
        """Nats of each window: (n, T + 1) tokens -> (n,)."""
        logits = self.objective.model(rows[:, :-1])
        nats = F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten(), reduction="none")
        return nats.view(len(rows), -1).sum(1)

    def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_index: int) -> None:
        step = self.global_step
        if step not in self.looks:
            return
        world = self.trainer.world_size
        # The clock of the first rank: all must agree on when to save.
        clock = time.perf_counter() - self.saved if self.global_rank == 0 else 0.0
        found = torch.stack([self.total, self.total.new_tensor(clock)])
        total, waited = self.trainer.strategy.reduce(found, reduce_op="sum").tolist()
        self.summed += total
        self.total.zero_()
        mean = self.summed / world / self.since
        if step == 1:
            self.initial = mean if math.isfinite(mean) else None
        self.diverged = not math.isfinite(mean)
        evaluate = step in self.marks and not self.diverged
        if evaluate:
            self.evaluated = self._evaluate()
            self.diverged = not math.isfinite(self.evaluated[0])
        point = LanguagePoint(
            step=step,
            tokens=step * self.config.batch_size * self.config.seq_len,
            loss=self.evaluated[0] if evaluate and self.evaluated and not self.diverged else None,
            train_loss=mean if math.isfinite(mean) else None,
            lr=self.config.lr * learning_rate(self.config, step - 1),
        )
        self.report(point)
        if step in self.marks or self.diverged:
            self.points.append(point)
            self.summed, self.since = 0.0, 0
        if self.diverged:
            self.trainer.should_stop = True
            return
        due = step % self.save_every == 0 if self.save_every else waited > SAVE_SECONDS
        if due or step == self.config.steps:
            self.save()
            self.saved = time.perf_counter()

    def _evaluate(self) -> tuple[float, float, int]:
        """Mean loss in nats per token over all windows, its standard error over windows, and the tokens."""
        config, strategy = self.config, self.trainer.strategy
        count, world = len(self.windows), self.trainer.world_size
        # Every rank has equally many windows, the last ones perhaps twice and then without weight: a wrapped
        # model is called in step with the others.
        mine = torch.arange(self.global_rank, -(-count // world) * world, world, device=self.device)
        weight = (mine < count).to(self.wide)
        rows = max(1, 2**22 // (config.seq_len * config.corpus.vocab_size))
        self.objective.eval()
        with torch.no_grad():
            parts = [strategy.predict_step(self.windows[i % count]) for i in mine.split(rows)]
        self.objective.train()
        means = torch.cat(parts).to(self.wide) / config.seq_len
        sums = torch.stack([(weight * means).sum(), (weight * means.square()).sum()])
        first, second = (strategy.reduce(sums, reduce_op="sum") / count).tolist()
        spread = max(0.0, second - first**2) * count / max(1, count - 1)
        return first, math.sqrt(spread / count), count * config.seq_len

    def _clip(self, limit: float) -> Tensor:
        """Scale the gradient of all parameters down to the norm `limit`; its norm before that."""
        wrapped: Any = self.trainer.strategy.model
        if hasattr(wrapped, "clip_grad_norm_"):  # Sharded: no rank holds the whole gradient.
            return wrapped.clip_grad_norm_(limit)
        return torch.nn.utils.clip_grad_norm_(self.objective.parameters(), limit)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = {
            "id": self.config.id,
            "points": [point.model_dump() for point in self.points],
            "initial": self.initial,
            "evaluated": self.evaluated,
            "summed": self.summed,
            "since": self.since,
            "clipped": int(self.clipped),
            "seconds": self.elapsed,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        run = checkpoint["run"]
        self.points = [LanguagePoint(**point) for point in run["points"]]
        self.initial, self.evaluated, self.since = run["initial"], run["evaluated"], run["since"]
        self.summed, self.clipped_before, self.seconds = run["summed"], run["clipped"], run["seconds"]

    @property
    def elapsed(self) -> float:
        """Seconds of the fit, those before a resumption included."""
        return self.seconds + time.perf_counter() - self.started


def _key(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) % 2**63
