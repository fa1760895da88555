"""Seconds per step of the training loop, beside a bare loop and a Lightning Trainer in the same process.

    python benchmarks/training.py                        # both sizes, some minutes on two cores
    python benchmarks/training.py --fast                 # half a minute: the small size, few repetitions
    python benchmarks/training.py --sizes tiny,baseline --device cuda --json training.json

Machines are noisy, so contenders take turns in short blocks of steps, and a ratio is the median of the
ratios within each round of blocks. All train the same model from the same weights on the same batches. Where
there is a CUDA device, replicas of one group are timed as well: batched against in turns.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import harness
import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from mad.data.protocol import Setting, get_protocol
from mad.messages import counted
from mad.run.batched import Batched
from mad.run.batches import load, order
from mad.run.learners import Turns
from mad.run.metrics import cross_entropy
from mad.run.place import find_place
from mad.run.runner import environment_of
from mad.run.sweep import Cell, Group, resolve
from synthetic_tasks import IGNORE

SPEC = "2*(mh-attention swiglu)"
LR, WEIGHT_DECAY = 1e-3, 0.1
# One learning rate and one group of parameters: the bare loop is a few lines and still the same training.
PROTOCOL = get_protocol("public-code")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = "wall"


def now() -> float:
    """By the chosen clock, once the device has done its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return CLOCKS[clock]()


class Size(NamedTuple):
    """A shape and its repetitions: `rounds` blocks of `block` steps each."""

    dim: int
    length: int
    batch: int
    rounds: int
    block: int

    def __str__(self) -> str:
        return f"({self.dim}, {self.length}, {self.batch})"


SIZES = {
    "tiny": [Size(16, 8, 2, rounds=40, block=25)],  # Almost no arithmetic: what is left is the loop.
    "quick": [Size(64, 32, 32, rounds=15, block=12), Size(64, 64, 64, rounds=15, block=6)],
    "baseline": [Size(128, 128, 32, rounds=12, block=4), Size(128, 128, 128, rounds=7, block=2)],
}
FAST = {
    "tiny": [Size(16, 8, 2, rounds=10, block=10)],
    "quick": [Size(64, 32, 32, rounds=5, block=6), Size(64, 64, 64, rounds=5, block=3)],
    "baseline": [Size(128, 128, 32, rounds=3, block=2)],
}


class Contest:
    """One model, one training set and one order of batches for every contender at one size.

    blocks   of batches: a warm-up and the rounds
    """

    def __init__(self, size: Size, device: str) -> None:
        self.size, self.where = size, find_place(device).device
        rows = 16 * size.batch
        setting = Setting(
            task=f"in-context-recall[seq_len={size.length}]",
            train_examples=rows,
            epochs=1000,
            batch_size=size.batch,
            lrs=(LR,),
            weight_decays=(WEIGHT_DECAY,),
        )
        who = resolve(SPEC, dim=size.dim, protocol=PROTOCOL)
        self.cell = Cell(architecture=who, setting=setting, protocol=PROTOCOL, seeds=(0,))
        self.data = load(self.cell.task, seed=0, split="train", rows=rows, device=self.where, training=True)
        batches = order(0, rows, size.batch, self.where)
        self.blocks = [list(itertools.islice(batches, size.block)) for _ in range(size.rounds + 1)]

    def model(self) -> nn.Module:
        return self.cell.architecture.build(self.cell.task, 0).to(self.where)

    def loss(self, model: nn.Module) -> float:
        """Of the training set's first rows, at the end, where all should have come to the same point."""
        with torch.no_grad():
            rows = slice(0, self.size.batch)
            return float(cross_entropy(model.eval()(self.data.inputs[rows]), self.data.targets[rows]))


@dataclass
class Contender:
    """`train(block)` does the steps of one block."""

    name: str
    train: Callable[[int], None]
    model: Callable[[], nn.Module]
    seconds: list[float] = field(default_factory=list)

    def run(self, block: int) -> None:
        start = now()
        self.train(block)
        if block:  # The first block warms up.
            self.seconds.append(now() - start)


def bare(contest: Contest) -> Contender:
    """Forward, cross entropy, backward, fused AdamW; nothing else."""
    model, data = contest.model().train(), contest.data
    adamw = adamw_of(model)

    def train(block: int) -> None:
        for batch in contest.blocks[block]:
            loss = cross_entropy(model(data.inputs[batch]), data.targets[batch])
            loss.backward()
            adamw.step()
            adamw.zero_grad()

    return Contender("bare loop", train, lambda: model)


def adamw_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        model.parameters(), lr=LR, betas=PROTOCOL.betas, weight_decay=WEIGHT_DECAY, fused=True
    )


def ours(
    contest: Contest, name: str, *, replicas: int = 1, batched: bool = False, **changes: Any
) -> Contender:
    """The loop of `mad.run.trainer`, for one replica or for a group at slightly other learning rates."""
    (run,) = Group(contest.cell, 0).runs
    runs = [run.model_copy(update={"lr": LR * (1 + r / 100), **changes}) for r in range(replicas)]
    kind: type[Batched] | type[Turns] = Batched if batched else Turns
    learner = kind(contest.model(), runs, find_place(str(contest.where), runs[0].precision))

    def train(block: int) -> None:
        first, everyone = block * contest.size.block, [True] * replicas
        learner.advance(contest.data, contest.blocks[block], first, everyone, lambda replica, done: None)

    return Contender(name, train, lambda: learner.model_of(0))


class Module(lightning.LightningModule):
    """The same model as one writes it for a Lightning Trainer."""

    def __init__(self, model: nn.Module, vocab_size: int) -> None:
        super().__init__()
        self.model = model
        self.accuracy = MulticlassAccuracy(vocab_size, average="micro", ignore_index=IGNORE)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        tokens, targets = batch
        logits = self.model(tokens)
        loss = cross_entropy(logits, targets)
        self.accuracy(logits.mT, targets)
        self.log_dict({"loss": loss, "accuracy": self.accuracy})
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adamw_of(self)


def compete(contest: Contest, contenders: list[Contender]) -> Contender:
    """Run every round: the given contenders between the blocks of a Lightning Trainer, which is returned."""
    module = Module(contest.model(), contest.cell.task.vocab_size)
    # The rows as drawn, on the host, as a DataLoader has them.
    rows = TensorDataset(contest.data.inputs.cpu(), contest.data.targets.cpu())
    batches: Any = [batch.tolist() for block in contest.blocks for batch in block]
    seconds, start = list[float](), 0.0

    def begin(*_: Any) -> None:
        nonlocal start
        start = now()

    def batch_end(trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        block, step = divmod(index, contest.size.block)
        if step + 1 < contest.size.block:
            return
        seconds.append(now() - start)
        # Another order each round, so that nobody always follows the same one.
        for i in range(len(contenders)):
            contenders[(block + i) % len(contenders)].run(block)
        begin()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It advises workers and a progress bar.
        trainer = lightning.Trainer(
            accelerator=contest.where.type,
            devices=1,
            max_epochs=1,
            # `fit` cannot be left and resumed, so the others run inside it.
            callbacks=[LambdaCallback(on_train_start=begin, on_train_batch_end=batch_end)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(rows, batch_sampler=batches))
    name = "lightning.Trainer, DataLoader, torchmetrics"
    return Contender(name, lambda block: None, lambda: module.model, seconds[1:])


def race(contest: Contest, fast: bool) -> list[dict[str, Any]]:
    """The contenders at one size: seconds per step, ratio to the bare loop, and their last loss."""
    base, loop = bare(contest), ours(contest, "ours")
    others = [ours(contest, "ours, bf16-mixed", precision="bf16-mixed")]
    if not fast:
        others.append(ours(contest, "ours, compile", compile=True))
    trainer = compete(contest, [base, loop, *others])
    return [
        row(contest, contender, base) | {"loss": contest.loss(contender.model().to(contest.where))}
        for contender in (base, loop, trainer, *others)
    ]


def row(contest: Contest, contender: Contender, base: Contender) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(contender.seconds, base.seconds, strict=True)]
    return {
        "size": str(contest.size),
        "contender": contender.name,
        "seconds_per_step": median(contender.seconds) / contest.size.block,
        "ratio": median(ratios),
    }


def agree(rows: list[dict[str, Any]]) -> str:
    """Whether the first three, which do the same arithmetic, ended with the same loss."""
    first, *others = [r["loss"] for r in rows[:3]]
    error = max(abs(loss - first) / first for loss in others)
    if error > 1e-4:
        raise SystemExit(
            f"{rows[0]['size']}: the losses {first}, {others} differ by {error:.1e}; nothing was compared"
        )
    end = f"end with the same loss, {first:.5f}, within {error:.0e}"
    return f"{rows[0]['size']}: bare loop, ours and the Trainer {end}"


def replicas(contest: Contest) -> list[dict[str, Any]]:
    """On an accelerator: seconds per step of a whole group, batched over in turns."""
    rows = []
    for count in (1, 6, 24):
        pair = [
            ours(contest, f"{count} replicas, in turns", replicas=count),
            ours(contest, f"{count} replicas, batched", replicas=count, batched=True),
        ]
        for block in range(contest.size.rounds + 1):
            for contender in pair:
                contender.run(block)
        rows += [row(contest, contender, pair[0]) for contender in pair]
    return rows


def table(rows: list[dict[str, Any]], over: str) -> str:
    lines = (
        f"| {r['size']} | {r['contender']} | {1e3 * r['seconds_per_step']:.2f} | {r['ratio']:.2f} |"
        for r in rows
    )
    head = f"| (width, length, batch) | contender | ms per step | over {over} |"
    return "\n".join([head, "|---|---|---|---|", *lines])


def main() -> None:
    global clock
    parser = harness.options(__doc__, write=None)
    option = parser.add_argument
    option("--sizes", default="quick,baseline", help="of tiny, quick, baseline; comma-separated")
    option("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    option("--fast", action="store_true", help="few repetitions, no compiler: does it run?")
    option("--threads", type=int, help="CPU threads; one is steadier where others compute as well")
    option("--json", type=Path, metavar="FILE", help="also write the records to this file")
    option("--clock", choices=list(CLOCKS), default=clock, help="cpu: leave out the time of others")
    arguments = parser.parse_args()
    clock = arguments.clock
    unknown = set(arguments.sizes.split(",")) - set(SIZES)
    if unknown:
        parser.error(f"--sizes {arguments.sizes}: choose from {', '.join(SIZES)}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    here = environment_of(find_place(arguments.device).device)
    rows, groups, notes = [], [], []
    table_of = FAST if arguments.fast else SIZES
    for size in (size for name in arguments.sizes.split(",") for size in table_of[name]):
        contest = Contest(size, arguments.device)
        found = race(contest, arguments.fast)
        rows += found
        notes.append(agree(found))
        if arguments.device.startswith("cuda"):
            groups += replicas(contest)
    threads = counted(here["threads"], "thread")
    print(f"{here['device_name']}, torch {here['torch']}, {clock} clock, {threads}\n")
    print(table(rows, "bare"), *notes, sep="\n")
    if groups:
        print(f"\n{table(groups, 'in turns')}")
    content = {"environment": here | {"clock": clock}, "records": rows, "replicas": groups}
    harness.write(arguments.json, content)


if __name__ == "__main__":
    main()
