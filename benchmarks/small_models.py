"""Training small language models on text that every Python brings along: the sources of its library."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

VALIDATION_EVERY = 10


def standard_library() -> tuple[list[bytes], list[bytes]]:
    """The sources of the modules for training, and every tenth of them for validation."""
    sources = [path.read_bytes() for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))]
    train = [source for i, source in enumerate(sources) if i % VALIDATION_EVERY]
    return train, sources[::VALIDATION_EVERY]


def byte_tokens(between: bytes = b"") -> tuple[Tensor, Tensor]:
    """Bytes for training and for validation, with `between` between two sources."""
    train, held_out = (
        torch.frombuffer(bytearray(between.join(part)), dtype=torch.uint8) for part in standard_library()
    )
    return train, held_out


def rows(tokens: Tensor, count: int, length: int, generator: torch.Generator) -> Tensor:
    """Rows of `length` + 1 tokens at random places."""
    start = torch.randint(len(tokens) - length - 1, (count,), generator=generator)
    return tokens[start[:, None] + torch.arange(length + 1)].long()


def nats(model: Any, batch: Tensor) -> Tensor:
    """Mean loss per token of rows with their targets."""
    return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


def adamw(model: Any, lr: float, **options: Any) -> torch.optim.AdamW:
    """Weight decay 0.1 where the hints of a layer allow decay."""
    hints = model.hints()
    groups = [
        {"params": [p for n, p in model.named_parameters() if hints[n].decay == decay], "weight_decay": wd}
        for decay, wd in ((True, 0.1), (False, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), **options)


def update(model: Any, optimizer: torch.optim.Optimizer, loss: Tensor, lr: float) -> None:
    """One step at this rate, with the gradient clipped at norm 1."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
