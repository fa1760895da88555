"""Peak memory: bytes of the tensors that are alive at once, counted by hand in small cases."""

from __future__ import annotations

import pytest
import torch
from peak_memory import PeakMemory


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_peak_is_that_of_what_lives_at_once(device: str) -> None:
    x = torch.ones(1000, device=device)
    with PeakMemory() as memory:
        y = x * 2  # 4,000 bytes
        z = y + 1  # 8,000
        del y
        w = z * 3  # 8,000: y is gone
        part = w[:10]  # a view holds all of w
        del w
        assert (memory.alive, memory.peak) == (8_000, 8_000)
        del part
        assert memory.alive == 4_000
        u = torch.zeros(3000, device=device)
        assert (memory.alive, memory.peak) == (16_000, 16_000)
        del u
        last = torch.zeros(10, device=device)
        assert (memory.alive, memory.peak) == (4_040, 16_000), "the peak is past"
    del z, last
    assert (memory.alive, memory.peak) == (0, 16_000)


def test_what_is_written_in_place_or_was_there_before_is_not_counted() -> None:
    x = torch.ones(1000)
    with PeakMemory() as memory:
        x.add_(1)
        x.view(10, 100).mul_(2)
    assert memory.peak == 0


def test_what_is_saved_for_backward_is_counted_until_it_is_freed() -> None:
    x = torch.ones(1000, requires_grad=True)
    with PeakMemory() as memory:
        loss = x.exp().exp().sum()  # both exponentials are kept
        assert 8_000 <= memory.alive <= 8_008
        loss.backward()
    assert 12_000 <= memory.peak <= 16_016
    assert memory.alive <= 4_008, "the gradient of x is left, and the loss"
