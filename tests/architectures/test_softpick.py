"""Softpick against its definition, query by query in float64; the contract covers the rest."""

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
    "softpick",
    "softpick[heads=2, key_dim=6, value_dim=9, rope=false, bias=qkv]",
    "softpick[heads=6, kv_heads=2, qk_norm=true, gate=true, conv=3, bias=all]",
]


def naive(layer: Any, x: Tensor) -> Tensor:
    def weigh(q: Tensor, k: Tensor, t: int, h: int) -> Tensor:
        e = ((k * q[:, None]).sum(-1) / math.sqrt(layer.key_dim)).exp() - 1
        return e.relu() / (e.abs().sum(1, keepdim=True) + 1e-6)

    return attended(layer, x, weigh)


@pytest.mark.parametrize("spec", OPTIONS)
@pytest.mark.parametrize("length", [1, 11, 70])
def test_forward_and_its_gradient_are_those_of_the_definition(spec: str, length: int) -> None:
    agree(make(spec), naive, noise(2, length, DIM), atol=1e-11, slope=1e-9 if length == 11 else None)


@pytest.mark.parametrize("spec", OPTIONS)
def test_pieces_and_steps_continue_the_sequence(spec: str) -> None:
    layer, x = make(spec), noise(2, 90, DIM)
    torch.testing.assert_close(in_pieces(layer, x, 9, 88, 89)[0], layer(x), rtol=0, atol=1e-12)


def test_a_head_whose_scores_are_all_negative_finds_nothing() -> None:
    layer, x = make("softpick[rope=false]"), noise(2, 11, DIM)
    with torch.no_grad():
        layer.query.weight.copy_(-layer.key.weight)
        x = x[:, :1].expand(-1, 11, -1)
        assert not layer(x).any()
        layer.query.weight.neg_()
        assert layer(x).any()


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0, 1e3])
def test_scores_of_any_size_keep_values_and_gradients_finite(size: float) -> None:
    layer = make("softpick").float()
    with torch.no_grad():
        layer.query.weight.mul_(size)
    finite(layer, noise(2, 70, DIM).float())


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-8, 1e-12])
def test_scores_near_0_are_weighed_and_not_their_rounding(size: float) -> None:
    layer, x = make("softpick"), noise(2, 130, DIM)
    with torch.no_grad():
        layer.query.weight.mul_(size)
        expected = layer(x)
        torch.testing.assert_close(layer.float()(x.float()).double(), expected, rtol=0, atol=1e-5)
