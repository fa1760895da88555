"""The gated short convolution against its definition; the contract tests cover the rest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import architectures
from architectures.primitive import Primitive

DIM = 16


def make(options: str = "", dim: int = DIM) -> Primitive:
    model = architectures.build(f"1*gated-short-conv{options}", vocab_size=5, dim=dim, max_len=32, seed=0)
    return model.layers()[0][1].double()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("taps", [1, 3, 5])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_forward_is_the_definition_written_as_loops(taps: int, length: int) -> None:
    layer = make(f"[conv={taps}]")
    x = noise(2, length, DIM)
    b, c, z = (x @ layer.project.weight.T).split(DIM, dim=-1)
    rows = []
    for t in range(length):
        y = torch.zeros(2, DIM, dtype=torch.float64)
        for back in range(min(taps, t + 1)):
            y = y + layer.conv.weight[:, taps - 1 - back] * b[:, t - back] * z[:, t - back]
        rows.append((c[:, t] * y) @ layer.out.weight.T)
    torch.testing.assert_close(layer(x), torch.stack(rows, dim=1), rtol=0, atol=1e-12)


def test_nothing_older_than_the_taps_is_seen() -> None:
    layer = make()
    x = noise(1, 9, DIM).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[:, 6].sum(), x)
    seen = gradient.abs().amax((0, 2)) > 0
    assert seen.tolist() == [t in (4, 5, 6) for t in range(9)]


def test_the_state_is_two_inputs_a_channel_and_the_layer_has_three_tensors() -> None:
    layer = make(dim=128)
    assert layer.measure_state(50) == {"recurrent": 0, "conv": 256, "growing": 0, "total": 256}
    shapes = {n: tuple(p.shape) for n, p in layer.named_parameters()}
    assert shapes == {"project.weight": (384, 128), "conv.weight": (128, 3), "out.weight": (128, 128)}


def test_no_taps_are_refused() -> None:
    with pytest.raises(ValueError, match="conv=0 must be at least 1"):
        make("[conv=0]")
