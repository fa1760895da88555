"""Parallax against its definition, query by query in float64; the contract covers the rest."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.architectures.helpers import agree, attended, in_pieces, layer_of, mapped, noise, rms, rotated

DIM = 48
make = partial(layer_of, dim=DIM, away=0.2)
OPTIONS = [
    "parallax",
    "parallax[heads=2, key_dim=6, value_dim=9, rope_fraction=0.5, rope_base=100]",
    "parallax[heads=6, kv_heads=2, qk_norm=true, gate=true, conv=3, bias=all]",
]


def naive(layer: Any, x: Tensor) -> Tensor:
    """E_p[v] - Cov_p(r . k, v), with the covariance as it is defined."""
    r = mapped(layer.second, x).unflatten(-1, (layer.heads, -1))
    r = rms(r) * layer.second_norm.weight if layer.config.qk_norm else r
    r = rotated(layer, r)

    def weigh(q: Tensor, k: Tensor, t: int, h: int) -> Tensor:
        p = ((k * q[:, None]).sum(-1) / math.sqrt(layer.key_dim)).softmax(1)
        asked = (k * r[:, t, None, h]).sum(-1)
        return p - p * (asked - (p * asked).sum(1, keepdim=True))

    return attended(layer, x, weigh)


@pytest.mark.parametrize("spec", OPTIONS)
@pytest.mark.parametrize("length", [1, 11, 70])
def test_forward_and_its_gradient_are_those_of_the_definition(spec: str, length: int) -> None:
    agree(make(spec), naive, noise(2, length, DIM), atol=1e-11, slope=1e-9 if length == 11 else None)


@pytest.mark.parametrize("spec", OPTIONS)
def test_pieces_and_steps_continue_the_sequence(spec: str) -> None:
    layer, x = make(spec), noise(2, 90, DIM)
    torch.testing.assert_close(in_pieces(layer, x, 9, 88, 89)[0], layer(x), rtol=0, atol=1e-11)


def test_without_a_second_query_it_is_attention() -> None:
    layer, plain, x = make("parallax"), make("mh-attention"), noise(2, 23, DIM)
    layer.load_state_dict({**plain.state_dict(), "second.weight": torch.zeros(DIM, DIM)})
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=1e-12)
