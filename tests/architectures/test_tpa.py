"""Tensor product attention against its definition in float64; the contract covers the rest."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.functional.rotary import rotate
from tests.architectures.helpers import agree, in_pieces, layer_of, noise, parameters_in

DIM = 48
make = partial(layer_of, dim=DIM, away=0.2)
OPTIONS = [
    "tpa",
    "tpa[heads=4, key_dim=6, value_dim=9, query_rank=3, rank=1]",
    "tpa[rope=false, query_rank=1, rank=4]",
]


def product(layer: Any, x: Tensor, name: str, rank: int) -> Tensor:
    """The heads (B, T, H, K) as a sum of outer products, one after the other."""
    a = x @ layer.over_heads[name].weight.T
    b = x @ layer.over_channels[name].weight.T
    width = b.shape[-1] // rank
    total = torch.zeros(*x.shape[:2], layer.heads, width, dtype=x.dtype)
    for r in range(rank):
        row = b[..., r * width : (r + 1) * width]
        total = total + a[..., r * layer.heads : (r + 1) * layer.heads, None] * row[..., None, :]
    return total / rank


def naive(layer: Any, x: Tensor) -> Tensor:
    q = product(layer, x, "query", layer.config.query_rank)
    k, v = (product(layer, x, name, layer.config.rank) for name in ("key", "value"))
    if layer.config.rope:  # of the sums, where the layer turns their parts
        q, k = (rotate(z, torch.arange(x.shape[1])) for z in (q, k))
    scores = torch.einsum("bthk,bshk->bhts", q, k) / math.sqrt(layer.key_dim)
    scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
    return torch.einsum("bhts,bshv->bthv", scores.softmax(-1), v).flatten(-2) @ layer.out.weight.T


@pytest.mark.parametrize("spec", OPTIONS)
@pytest.mark.parametrize("length", [1, 11, 37])
def test_forward_and_its_gradient_are_those_of_the_definition(spec: str, length: int) -> None:
    agree(make(spec), naive, noise(2, length, DIM), atol=1e-11, slope=1e-9 if length == 11 else None)


@pytest.mark.parametrize("spec", OPTIONS)
def test_pieces_and_steps_continue_the_sequence(spec: str) -> None:
    layer, x = make(spec), noise(2, 24, DIM)
    torch.testing.assert_close(in_pieces(layer, x, 9, 22, 23)[0], layer(x), rtol=0, atol=1e-12)


def test_with_one_factor_a_head_it_is_attention() -> None:
    layer, plain = make("tpa[query_rank=3, rank=3]"), layer_of("mh-attention", dim=DIM)
    x = noise(2, 13, DIM)
    x[..., 0] = 1  # a constant channel, from which fixed factors can be read
    with torch.no_grad():
        for name in ("query", "key", "value"):
            layer.over_heads[name].weight.zero_()[:, 0] = torch.eye(3).flatten()
            layer.over_channels[name].weight.copy_(3 * getattr(plain, name).weight)
        layer.out.weight.copy_(plain.out.weight)
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=1e-12)


def test_the_cache_holds_the_factors() -> None:
    layer = make("tpa", dim=128)
    assert layer.measure_state(40)["growing"] == 40 * 2 * 2 * (8 + 16)
    assert parameters_in(layer) == 128 * (6 + 2 + 2) * (8 + 16) + 128**2


def test_the_start_is_that_of_the_published_code() -> None:
    layer = layer_of("tpa", dim=128)
    assert not layer.out.weight.any()
    for rank, name in ((6, "query"), (2, "key"), (2, "value")):
        over_heads, over_channels = layer.over_heads[name].weight, layer.over_channels[name].weight
        for weight, fans in ((over_heads, rank * (128 + 8)), (over_channels, 16 * (128 + rank))):
            assert 0.95 * math.sqrt(6 / fans) < weight.abs().max() <= math.sqrt(6 / fans)


def test_an_odd_width_cannot_be_rotated() -> None:
    with pytest.raises(ValueError, match="key width 5 a head is odd"):
        make("tpa[key_dim=5]")
