"""Attention with a sink against its definition, query by query in float64; the contract covers the rest."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.functional.attention import attend_past
from tests.architectures.helpers import agree, attended, in_pieces, layer_of, noise, rotated_heads

DIM = 48
make = partial(layer_of, dim=DIM, away=0.3)
OPTIONS = [
    "sink-attention",
    "sink-attention[heads=2, key_dim=6, value_dim=9, rope=false, bias=qkv]",
    "sink-attention[heads=6, kv_heads=2, qk_norm=true, gate=true, conv=3, bias=all]",
    "sliding-sink-attention[window=5, heads=6, kv_heads=2]",
    "sliding-sink-attention[window=1]",
    "sliding-sink-attention",
]


def naive(layer: Any, x: Tensor) -> Tensor:
    def weigh(q: Tensor, k: Tensor, t: int, h: int) -> Tensor:
        parts = ((k * q[:, None]).sum(-1) / math.sqrt(layer.key_dim)).exp()
        parts = parts * (torch.arange(t + 1) > t - (layer.window or t + 1))
        return parts / (layer.sink[h].exp() + parts.sum(1, keepdim=True))

    return attended(layer, x, weigh)


@pytest.mark.parametrize("spec", OPTIONS)
@pytest.mark.parametrize("length", [1, 11, 70])
def test_forward_and_its_gradient_are_those_of_the_definition(spec: str, length: int) -> None:
    agree(make(spec), naive, noise(2, length, DIM), atol=1e-11, slope=1e-9 if length == 11 else None)


@pytest.mark.parametrize("spec", OPTIONS)
def test_pieces_and_steps_continue_the_sequence(spec: str) -> None:
    layer, x = make(spec), noise(2, 44, DIM)
    torch.testing.assert_close(in_pieces(layer, x, 9, 42, 43)[0], layer(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("spec", "other"),
    [("sink-attention", "mh-attention"), ("sliding-sink-attention", "mh-sliding-attention")],
)
def test_a_sink_that_draws_nothing_leaves_attention(spec: str, other: str) -> None:
    layer, plain, x = make(spec), make(other), noise(2, 40, DIM)
    layer.load_state_dict({**plain.state_dict(), "sink": torch.full((3,), -1e4)})
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=1e-12)


def test_the_sink_scales_what_attention_finds_by_a_gate_of_its_scores() -> None:
    layer, x = make("sink-attention"), noise(2, 13, DIM)
    q, k, v = rotated_heads(layer, x)
    scores = torch.einsum("bthk,bshk->bths", q, k) / 4
    scores = scores.masked_fill(torch.ones(13, 13, dtype=torch.bool).triu(1)[:, None], -math.inf)
    kept = torch.sigmoid(scores.logsumexp(-1) - layer.sink)
    expected = layer.out((attend_past(q, k, v, scale=0.25) * kept[..., None]).flatten(-2))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_it_starts_at_0_and_the_window_bounds_the_cache() -> None:
    assert not layer_of("sink-attention").sink.any()
    assert make("sliding-sink-attention", dim=128).measure_state(100)["recurrent"] == 32 * 2 * 128
