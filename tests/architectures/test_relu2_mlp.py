"""The squared-ReLU MLP against its definition; the contract tests cover the rest."""

from __future__ import annotations

from functools import partial

import torch

from tests.architectures.helpers import layer_of, noise

make = partial(layer_of, "relu2-mlp", dim=16)


def test_it_is_the_square_of_a_relu_between_two_maps() -> None:
    layer = make()
    x = noise(2, 5, 16)
    hidden = x @ layer.up.weight.T
    expected = torch.where(hidden > 0, hidden**2, torch.zeros_like(hidden)) @ layer.down.weight.T
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_twice_the_input_is_four_times_the_output() -> None:
    layer = make()
    x = noise(2, 5, 16, seed=2)
    torch.testing.assert_close(layer(2 * x), 4 * layer(x), rtol=1e-12, atol=0)


def test_the_inner_width_is_four_times_the_width_or_as_given() -> None:
    assert make().up.weight.shape == (64, 16) and make("inner=7").up.weight.shape == (7, 16)
    assert {n for n, _ in make().named_parameters()} == {"up.weight", "down.weight"}
