"""Differential attention against its definition, query by query in float64; the contract covers the rest."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.architectures.helpers import (
    agree,
    convolved,
    gated_out,
    in_pieces,
    layer_of,
    mapped,
    model_of,
    noise,
    rms,
    rotated,
)

DIM = 48
make = partial(layer_of, dim=DIM, away=0.1)
FIRST = [
    "diff-attention",
    "diff-attention[heads=4, key_dim=6, value_dim=9]",
    "diff-attention[heads=8, kv_heads=4, key_dim=4, value_dim=5, qk_norm=true, gate=true, conv=3, bias=all]",
]
SECOND = [name.replace("attention", "attention-v2") for name in FIRST]


def maps(layer: Any, x: Tensor, queries: int) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax maps (B, T, T) by [query][key], as (Q, G, B, T, T), and the values (B, T, G, V)."""
    u = torch.cat([mapped(m, x) for m in (layer.query, layer.key, layer.value)], dim=-1)
    u = convolved(u, layer.conv.weight)
    shared, key = layer.kv_heads, layer.key_dim
    q, k, v = u.split([queries * key, shared * key, shared * layer.value_dim], -1)
    q, k, v = q.unflatten(-1, (queries, -1)), k.unflatten(-1, (shared, -1)), v.unflatten(-1, (shared, -1))
    if layer.config.qk_norm:
        q, k = rms(q) * layer.query_norm.weight, rms(k) * layer.key_norm.weight

    scores = torch.einsum("btqk,bsgk->qgbts", rotated(layer, q), rotated(layer, k)) / math.sqrt(key)
    future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(-1), k, v


def naive(layer: Any, x: Tensor) -> Tensor:
    """Of a pair of queries the first meets the first of its pair of keys, the second the second."""
    p, _, v = maps(layer, x, layer.heads)
    start = 0.8 - 0.6 * math.exp(-0.3 * layer.index)
    (a, c), (b, d) = layer.lambda_query, layer.lambda_key
    share = (a * b).sum().exp() - (c * d).sum().exp() + start
    found = []
    for i in range(layer.heads // 2):
        g = i * (layer.kv_heads // 2) // (layer.heads // 2)
        both = torch.cat([v[:, :, 2 * g], v[:, :, 2 * g + 1]], dim=-1)
        o = (p[2 * i, 2 * g] - share * p[2 * i + 1, 2 * g + 1]) @ both
        found.append(rms(o, 1e-5) * layer.norm.weight * (1 - start))
    return gated_out(layer, torch.cat(found, dim=-1), x)


def naive_second(layer: Any, x: Tensor) -> Tensor:
    p, _, v = maps(layer, x, 2 * layer.heads)
    share = torch.sigmoid(mapped(layer.share, x))
    found = []
    for h in range(layer.heads):
        g = h * layer.kv_heads // layer.heads
        found.append(p[2 * h, g] @ v[:, :, g] - share[:, :, h, None] * (p[2 * h + 1, g] @ v[:, :, g]))
    return gated_out(layer, torch.cat(found, dim=-1), x)


@pytest.mark.parametrize("spec", FIRST + SECOND)
@pytest.mark.parametrize("length", [1, 11, 37])
def test_forward_and_its_gradient_are_those_of_the_definition(spec: str, length: int) -> None:
    definition = naive_second if "v2" in spec else naive
    agree(make(spec), definition, noise(2, length, DIM), atol=1e-10, slope=1e-9 if length == 11 else None)


@pytest.mark.parametrize("spec", FIRST + SECOND)
def test_pieces_and_steps_continue_the_sequence(spec: str) -> None:
    layer, x = make(spec), noise(2, 24, DIM)
    torch.testing.assert_close(in_pieces(layer, x, 9, 22, 23)[0], layer(x), rtol=0, atol=1e-11)


def test_without_the_second_map_it_is_attention_with_a_norm_or_attention() -> None:
    x, plain = noise(2, 13, DIM), make("mh-attention")
    layer = make("diff-attention-v2")
    query = plain.query.weight.unflatten(0, (3, 1, 16)).expand(-1, 2, -1, -1).flatten(0, 2)
    kept = plain.state_dict() | {"query.weight": query}
    layer.load_state_dict({**kept, "share.weight": torch.zeros(3, DIM)})
    # Two equal queries, of which half of one is taken away.
    torch.testing.assert_close(layer(x), plain(x) / 2, rtol=0, atol=1e-12)
    with torch.no_grad():
        layer.share.weight.copy_(-1e3 * x[:1, 0])
    torch.testing.assert_close(layer(x)[0, 0], plain(x)[0, 0], rtol=0, atol=1e-12)


def test_equal_maps_leave_a_share_which_the_norm_takes_away() -> None:
    layer, x = make("diff-attention[heads=2]"), noise(2, 13, DIM)
    with torch.no_grad():
        for m in (layer.query, layer.key):
            m.weight[m.out_features // 2 :] = m.weight[: m.out_features // 2]
        before = layer(x)
        layer.lambda_query.zero_()  # l becomes l_0, below 1 like l
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-2)


def test_the_constant_follows_the_place_among_the_mixers_and_is_stored() -> None:
    model = model_of("diff-attention[heads=2] mlp diff-attention[heads=2] mlp diff-attention[heads=2]")
    offsets = [layer.offset for _, layer in model.layers() if hasattr(layer, "offset")]
    assert offsets == pytest.approx([0.2, 0.8 - 0.6 * math.exp(-0.3), 0.8 - 0.6 * math.exp(-0.6)])


def test_heads_come_in_pairs_and_share_no_more_than_pairs() -> None:
    assert [make("diff-attention", dim=d).heads for d in (16, 48, 128)] == [2, 6, 8]
    assert make("diff-attention", dim=128).measure_state(40)["growing"] == 40 * 2 * 128
    shared = "kv_heads=3 is odd, and heads come in pairs; choose kv_heads from 2, 6"
    for options, text in (("heads=3", "heads=3 is odd"), ("heads=6, group=2", shared)):
        with pytest.raises(ValueError, match=text):
            make(f"diff-attention[{options}]")


def test_the_start_is_that_of_the_paper() -> None:
    layer = layer_of("diff-attention", dim=512)
    for vectors in (layer.lambda_query, layer.lambda_key):
        assert 0.05 < float(vectors.detach().std()) < 0.15
    assert torch.equal(layer.norm.weight, torch.ones(32).double())
