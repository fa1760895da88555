"""Attention in polar coordinates against its definition in float64; the contract covers the rest."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.architectures.helpers import agree, attended, in_pieces, layer_of, noise

DIM = 48
make = partial(layer_of, dim=DIM, away=0.3)
OPTIONS = [
    "pope",
    "pope[heads=2, key_dim=5, value_dim=19, base=100]",
    "pope[heads=6, kv_heads=2, qk_norm=true, gate=true, conv=3, bias=all]",
]


def naive(layer: Any, x: Tensor) -> Tensor:
    """The definition: a sum of cosines of the distance."""

    def weigh(q: Tensor, k: Tensor, t: int, h: int) -> Tensor:
        score: Any = 0.0
        behind = torch.arange(t + 1, dtype=x.dtype) - t
        for c in range(layer.key_dim):
            size = torch.log1p(q[:, None, c].exp()) * torch.log1p(k[:, :, c].exp())
            turned = behind * layer.config.base ** (-c / layer.key_dim)
            score = score + size * torch.cos(turned + layer.angle[h, c])
        return (score / math.sqrt(layer.key_dim)).softmax(1)

    return attended(layer, x, weigh)


@pytest.mark.parametrize("spec", OPTIONS)
@pytest.mark.parametrize("length", [1, 11, 37])
def test_forward_and_its_gradient_are_those_of_the_definition(spec: str, length: int) -> None:
    layer = make(spec)
    with torch.no_grad():
        layer.angle.sub_(1.0)
    agree(layer, naive, noise(2, length, DIM), atol=1e-11, slope=1e-9 if length == 11 else None)


@pytest.mark.parametrize("spec", OPTIONS)
def test_pieces_and_steps_continue_the_sequence(spec: str) -> None:
    layer, x = make(spec), noise(2, 24, DIM)
    torch.testing.assert_close(in_pieces(layer, x, 9, 22, 23)[0], layer(x), rtol=0, atol=1e-11)


def test_at_the_start_a_head_scores_equal_tokens_by_their_distance_only() -> None:
    layer = layer_of("pope[heads=1]", dim=DIM)
    assert not layer.angle.any()
    x = noise(1, 1, DIM).expand(1, 9, -1)
    assert (layer(x) - layer(x)[:, :1]).abs().max() < 1e-12  # equal values, whatever their weights
    assert layer.measure_state(9)["growing"] == 9 * 2 * DIM


def test_an_angle_and_one_a_turn_away_are_the_same_and_both_can_learn() -> None:
    layer, x = make("pope"), noise(2, 13, DIM)
    slopes = []
    for angle in (0.5, 0.5 - 2 * math.pi):
        with torch.no_grad():
            layer.angle.fill_(angle)
        slopes += torch.autograd.grad(layer(x).square().sum(), layer.angle)
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-11)
    assert slopes[0].all()
