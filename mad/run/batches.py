"""From a task to tensors on the device: drawn once, kept there, batched by index."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mad.data.records import RunConfig
from synthetic_tasks import Batch, Task

ORDER = 0x6F72646572  # Keeps the order's stream apart from the data's.


@dataclass(frozen=True)
class Split:
    """A split on the device: `inputs` and `targets` (rows, T), and the same as drawn, on the host."""

    drawn: Batch
    inputs: Tensor
    targets: Tensor


def load(
    task: Task, *, seed: int, split: str, rows: int, device: torch.device, training: bool = False
) -> Split:
    """Draw a split and move it to the device; `training` takes the targets that the model is trained on."""
    drawn = task.draw(seed, split, rows)
    targets = task.training_targets(drawn) if training else drawn.targets
    return Split(drawn, torch.from_numpy(drawn.inputs).to(device), torch.from_numpy(targets).to(device))


def split_of(run: RunConfig, task: Task, split: str, device: torch.device) -> Split:
    """A split of a run: its own training data, and the protocol's validation and test data."""
    training = split == "train"
    seed = run.seed if training else run.protocol.data_seed
    rows = getattr(run, f"{split}_examples")
    return load(task, seed=seed, split=split, rows=rows, device=device, training=training)


def order(seed: int, rows: int, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Endless batches of row indices: a new permutation each epoch, whose last batch may be smaller.

    Keyed by (seed, epoch) alone: neither the model nor the number of replicas can change it.
    """
    epoch = 0
    while True:
        permutation = np.random.default_rng([ORDER, seed, epoch]).permutation(rows)
        yield from torch.from_numpy(permutation).to(device).split(batch_size)
        epoch += 1
