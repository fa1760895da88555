"""The gated short convolution against its definition; the contract tests cover the rest."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from tests.architectures.helpers import layer_of, noise, short_conv

DIM = 16
make = partial(layer_of, "gated-short-conv", dim=DIM)


@pytest.mark.parametrize("taps", [1, 3, 5])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_forward_is_the_definition_written_as_loops(taps: int, length: int) -> None:
    layer = make(f"conv={taps}")
    x = noise(2, length, DIM)
    b, c, z = (x @ layer.project.weight.T).split(DIM, dim=-1)
    expected = (c * short_conv(b * z, layer.conv.weight)) @ layer.out.weight.T
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


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
