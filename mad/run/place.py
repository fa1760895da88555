"""Where a run is trained: its device, and the precision of its products."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch

PRECISIONS = ("32-true", "bf16-mixed")


@dataclass(frozen=True)
class Place:
    """`alone`: that device was asked for; else groups of a sweep may take the others of its kind, too."""

    device: torch.device
    precision: str = "32-true"
    alone: bool = True

    @property
    def devices(self) -> list[torch.device]:
        """Those that a sweep may use."""
        if self.alone or self.device.type != "cuda":
            return [self.device]
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]

    def current(self) -> contextlib.AbstractContextManager[object]:
        """Make it the device of code that names none; a process that does so takes memory of no other."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext()

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """For forward and loss: products in bfloat16 where the precision is mixed."""
        if self.precision == "32-true":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def find_place(device: str = "auto", precision: str = "32-true") -> Place:
    """Refuses what this machine does not have. "auto" is the first of CUDA, MPS and CPU that is there."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    kind, colon, index = device.partition(":")
    numbered = kind == "cuda" and index.isdecimal()
    if kind not in ("auto", "cpu", "cuda", "mps") or (colon and not numbered):
        raise ValueError(f"device {device!r} is not one of auto, cpu, cuda, cuda:N, mps")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if kind == "auto":
        kind = next(name for name, found in there.items() if found)
    if not there[kind]:
        raise ValueError(f"device {kind!r} is not available here; choose --device cpu")
    if numbered and int(index) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(
            f"device {device!r}: this machine has {count}, counted from 0; choose a smaller number"
        )
    found = torch.device(kind if kind == "cpu" else f"{kind}:{int(index or 0)}")
    return Place(found, precision, alone=numbered)
