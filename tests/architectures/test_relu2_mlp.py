"""The squared-ReLU MLP against its definition; the contract tests cover the rest."""

from __future__ import annotations

import torch

import architectures


def make(options: str = "", dim: int = 16) -> torch.nn.Module:
    model = architectures.build(f"1*relu2-mlp{options}", vocab_size=5, dim=dim, max_len=8, seed=0)
    return model.layers()[0][1].double()


def test_it_is_the_square_of_a_relu_between_two_maps() -> None:
    layer = make()
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    hidden = x @ layer.up.weight.T
    expected = torch.where(hidden > 0, hidden**2, torch.zeros_like(hidden)) @ layer.down.weight.T
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_twice_the_input_is_four_times_the_output() -> None:
    layer = make()
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(layer(2 * x), 4 * layer(x), rtol=1e-12, atol=0)


def test_the_inner_width_is_four_times_the_width_or_as_given() -> None:
    assert make().up.weight.shape == (64, 16) and make("[inner=7]").up.weight.shape == (7, 16)
    assert {n for n, _ in make().named_parameters()} == {"up.weight", "down.weight"}
