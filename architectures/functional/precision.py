"""What must not be rounded by autocast."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def full_precision(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """No autocast inside, on the device of x: rounding would change a choice between close scores."""
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
