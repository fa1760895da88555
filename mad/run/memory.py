"""How many replicas an accelerator holds at once: from what one and two of them take."""

from __future__ import annotations

from collections.abc import Callable

import torch

# Of the free memory; what is left goes to the pieces that an allocator cannot use.
USABLE = 0.9


def room(device: torch.device) -> int | None:
    """Bytes that may still be taken; None where that is unknown."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def taken(call: Callable[[], object], device: torch.device) -> int:
    """Bytes that a call takes on a CUDA device, at its peak."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return torch.cuda.max_memory_allocated(device) - before


def at_once(replicas: int, one: int, two: int, free: int) -> int:
    """How many of the replicas to batch, given the bytes that one and two of them take; at least one.

    As many batches as are needed, and those of about one size.
    """
    most = 1 + max(0, int(USABLE * free) - one) // max(1, two - one)
    batches = -(-replicas // min(most, replicas))
    return -(-replicas // batches)


def release(device: torch.device) -> None:
    """Give back what the allocator has kept, so that it can be cut anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
