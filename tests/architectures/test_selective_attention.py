"""Selective attention against its definition, query by query in float64; the contract covers the rest."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.architectures.helpers import agree, attended, in_pieces, layer_of, noise, rotated_heads

DIM = 48
make = partial(layer_of, dim=DIM, away=0.2)
OPTIONS = [
    "selective-attention",
    "selective-attention[heads=2, key_dim=5, value_dim=9, rope=false, bias=qkv]",
    "selective-attention[heads=6, kv_heads=2, qk_norm=true, gate=true, conv=3, bias=all]",
]


def naive(layer: Any, x: Tensor) -> Tensor:
    q, k, _ = rotated_heads(layer, x)
    first = torch.einsum("btk,bsk->bts", q[:, :, 0], k[:, :, 0]) / math.sqrt(layer.key_dim)

    def weigh(q: Tensor, k: Tensor, t: int, h: int) -> Tensor:
        scores = (k * q[:, None]).sum(-1) / math.sqrt(layer.key_dim)
        kept = []
        for s in range(t + 1):
            kept.append(scores[:, s] - (s > 0) * first[:, s + 1 : t, s].relu().sum(1))
        return torch.stack(kept, dim=1).softmax(1)

    return attended(layer, x, weigh)


@pytest.mark.parametrize("spec", OPTIONS)
@pytest.mark.parametrize("length", [1, 2, 11, 70])
def test_forward_and_its_gradient_are_those_of_the_definition(spec: str, length: int) -> None:
    agree(make(spec), naive, noise(1, length, DIM), atol=1e-11, slope=1e-9 if length == 11 else None)


@pytest.mark.parametrize("spec", OPTIONS)
def test_pieces_and_steps_continue_the_sequence(spec: str) -> None:
    layer, x = make(spec), noise(2, 90, DIM)
    y, state = in_pieces(layer, x, 9, 88, 89)
    torch.testing.assert_close(y, layer(x), rtol=0, atol=1e-11)
    assert len(state) == len(layer.state_kinds) and state[-1].shape == (2, 90)


def test_a_first_head_that_looks_at_nothing_leaves_attention() -> None:
    # One head in all: where its scores are below 0 it takes nothing away.
    layer, plain = (
        make("selective-attention[heads=1, rope=false]"),
        make("attention[heads=1, rope=false]"),
    )
    x = noise(2, 1, DIM).expand(-1, 23, -1) + 0.1 * noise(2, 23, DIM)
    with torch.no_grad():
        plain.key.weight.copy_(-plain.query.weight)
    layer.load_state_dict(plain.state_dict())
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=1e-12)
    with torch.no_grad():
        for each in (layer, plain):
            each.key.weight.neg_()
    assert (layer(x) - plain(x)).abs().max() > 1e-2


def test_the_cache_holds_one_number_a_token_besides_keys_and_values() -> None:
    assert make("selective-attention", dim=128).measure_state(40)["growing"] == 40 * (2 * 128 + 1)
