"""What must not be rounded by autocast."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def full_precision(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """No autocast inside, on the device of x: rounding would change states, and choices."""
    available = torch.amp.autocast_mode.is_autocast_available(x.device.type)  # not on meta
    return torch.autocast(x.device.type, enabled=False) if available else contextlib.nullcontext()
