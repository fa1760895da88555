"""Paired heads against their definition, one query at a time in float64; the contract covers the rest."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.growth import add_heads, widen_hidden, widen_keys, widen_values
from tests.architectures.helpers import (
    agree,
    close,
    gated_out,
    heads_of_attention,
    in_pieces,
    layer_of,
    model_of,
    noise,
    parameters_in,
    random_tokens,
    turned,
    wild,
)

DIM = 32
make = partial(layer_of, "paired-attention", dim=DIM, away=0.1)
OPTIONS = [
    "",
    "heads=4, rope_fraction=0.5, qk_norm=true, gate=true",
    "heads=2, key_dim=6, value_dim=9, conv=3",
    "heads=8, kv_heads=2, bias=all, rope_base=50",
    "heads=8, kv_heads=4, rope=false",
]


def naive(layer: Any, x: Tensor) -> Tensor:
    """The definition: a query sees the keys of both heads of its pair, those of the second a slot later."""
    (q, k, v), config = heads_of_attention(layer, x), layer.config
    width = 2 * round(config.rope_fraction * layer.key_dim / 2) if config.rope else 0
    shared = layer.heads // layer.kv_heads
    rows = []
    for t in range(x.shape[1]):
        found = []
        for h in range(layer.heads):
            g = h // shared
            slot = 2 * t + g % 2
            query = turned(q[:, t, h], slot, width, config.rope_base)
            scores, values = [], []
            for s in range(x.shape[1]):
                for other in (g - g % 2, g - g % 2 + 1):
                    at = 2 * s + other % 2
                    if at <= slot:
                        scores.append((turned(k[:, s, other], at, width, config.rope_base) * query).sum(-1))
                        values.append(v[:, s, other])
            weights = (torch.stack(scores, dim=1) / math.sqrt(layer.key_dim)).softmax(1)
            found.append((weights[..., None] * torch.stack(values, dim=1)).sum(1))
        rows.append(gated_out(layer, torch.cat(found, dim=-1), x[:, t]))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 7])
def test_forward_and_its_gradient_are_those_of_the_definition(options: str, length: int) -> None:
    agree(make(options), naive, noise(2, length, DIM), atol=1e-12, slope=1e-10, low=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
def test_pieces_and_steps_continue_the_sequence(options: str) -> None:
    layer, x = make(options), noise(2, 24, DIM)
    close(in_pieces(layer, x, 1, 9, 20, 21)[0], layer(x), 1e-12)


def test_two_equal_heads_of_the_same_places_count_the_past_twice_and_the_present_once() -> None:
    """The second of a pair of equal heads, which sees everything twice, is attention."""
    layer, plain = make("heads=2, rope=false"), layer_of("attention[rope=false, key_dim=16, value_dim=16]")
    with torch.no_grad():
        for linear in (layer.query, layer.key, layer.value):
            linear.weight[16:] = linear.weight[:16]
        layer.out.weight[:, :16] = 0
        for name in ("query", "key", "value"):
            getattr(plain, name).weight.copy_(getattr(layer, name).weight[:16])
        plain.out.weight.copy_(layer.out.weight[:, 16:])
    x = noise(2, 13, DIM)
    close(layer(x), plain(x), 1e-12)


@pytest.mark.parametrize(("dim", "heads"), [(16, 2), (32, 2), (48, 2), (64, 4), (80, 4), (128, 8)])
def test_by_default_heads_are_even_in_number_and_about_sixteen_wide(dim: int, heads: int) -> None:
    assert make(dim=dim).heads == heads


def test_the_cache_is_that_of_attention_and_twice_the_pairs_are_seen() -> None:
    layer, plain = make(dim=128), layer_of("mh-attention", dim=128)
    assert layer.measure_state(40) == plain.measure_state(40)
    assert parameters_in(layer) == parameters_in(plain)
    pairs = 80 * 81 // 2 * 4 - 40 * 41 // 2 * 8
    assert layer.flops(40) - plain.flops(40) == 2 * pairs * 2 * 16


def test_growth_keeps_the_function() -> None:
    model, tokens = model_of("paired-attention[heads=2] mlp", dim=16), random_tokens(2, 12, vocab=7)
    for operation, to in ((add_heads, 4), (widen_keys, 12), (widen_values, 9), (widen_hidden, 24)):
        grown, _ = operation(model, to=to, fill=wild())
        close(grown(tokens), model(tokens), 1e-10)
        model = grown


@pytest.mark.parametrize("options", ["heads=3, key_dim=4, value_dim=4", "heads=4, kv_heads=1"])
def test_heads_that_cannot_be_paired_are_refused(options: str) -> None:
    with pytest.raises(ValueError, match="cannot be paired; choose an even number of heads"):
        make(options)
