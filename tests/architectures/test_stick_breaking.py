"""Stick-breaking attention against its definition, key by key in float64; the contract covers the rest."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.architectures.helpers import agree, attended, finite, in_pieces, layer_of, noise

DIM = 48
make = partial(layer_of, dim=DIM, away=0.2)
OPTIONS = [
    "stick-breaking",
    "stick-breaking[heads=2, key_dim=5, value_dim=9]",
    "stick-breaking[heads=6, kv_heads=2, qk_norm=true, gate=true, conv=3, bias=all]",
]


def naive(layer: Any, x: Tensor) -> Tensor:
    def weigh(q: Tensor, k: Tensor, t: int, h: int) -> Tensor:
        left, weights = torch.ones_like(q[:, 0]), []
        for s in reversed(range(t)):
            part = torch.sigmoid((k[:, s] * q).sum(-1) / math.sqrt(layer.key_dim))
            weights.append(left * part)
            left = left * (1 - part)
        return torch.stack([*reversed(weights), left], dim=1)

    return attended(layer, x, weigh)


@pytest.mark.parametrize("spec", OPTIONS)
@pytest.mark.parametrize("length", [1, 11, 70])
def test_forward_and_its_gradient_are_those_of_the_definition(spec: str, length: int) -> None:
    agree(make(spec), naive, noise(2, length, DIM), atol=1e-11, slope=1e-9 if length == 11 else None)


@pytest.mark.parametrize("spec", OPTIONS)
def test_pieces_and_steps_continue_the_sequence(spec: str) -> None:
    layer, x = make(spec), noise(2, 90, DIM)
    torch.testing.assert_close(in_pieces(layer, x, 9, 88, 89)[0], layer(x), rtol=0, atol=1e-12)


def test_of_equal_keys_the_latest_is_read_and_without_a_key_the_token_itself() -> None:
    layer, x = make("stick-breaking"), noise(2, 11, DIM)
    with torch.no_grad():
        layer.query.weight.mul_(1e3)
        layer.key.weight.copy_(layer.query.weight)
        same = x[:, :1].expand(-1, 11, -1) + 1e-6 * x  # all keys alike: each reads the one before it
        values = same @ layer.value.weight.T @ layer.out.weight.T
        torch.testing.assert_close(layer(same)[:, 1:], values[:, :-1], rtol=0, atol=1e-9)
        layer.key.weight.neg_()
        torch.testing.assert_close(layer(same), values, rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [1e-3, 30.0, 1e3])
def test_scores_of_any_size_keep_values_and_gradients_finite(size: float) -> None:
    layer = make("stick-breaking").float()
    with torch.no_grad():
        layer.query.weight.mul_(size)
    finite(layer, noise(2, 70, DIM).float())
