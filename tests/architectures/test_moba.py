"""Mixture of block attention against sets of positions, in float64; the contract covers the rest."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.functional.rotary import rotate_first
from architectures.primitive import Choices, Context
from tests.architectures.helpers import (
    agree,
    close,
    gated_out,
    heads_of_attention,
    in_pieces,
    layer_of,
    noise,
)

DIM = 32
make = partial(layer_of, "moba", away=0.1)
OPTIONS = [
    "block=4, top_k=3",
    "block=3, top_k=1, heads=1, rope=false",
    "block=5, top_k=2, heads=4, key_dim=6, value_dim=3, kv_heads=2, conv=3, qk_norm=true, gate=true",
]


def seen(layer: Any, q: Tensor, k: Tensor, t: int) -> list[int]:
    """The positions that token t sees: q (K,), k (S, K) of one head."""
    block, own = layer.config.block, t // layer.config.block
    means = [float(q @ k[c * block : (c + 1) * block].mean(0)) for c in range(own)]
    best = sorted(range(own), key=lambda c: (means[c], c), reverse=True)[: layer.config.top_k - 1]
    return [s for s in range(t + 1) if s // block in (*best, own)]


def naive(layer: Any, x: Tensor) -> Tensor:
    q, k, v = heads_of_attention(layer, x)
    if layer.rotated:
        at = torch.arange(x.shape[1])
        q, k = (rotate_first(z, at, layer.rotated, layer.rotary_width) for z in (q, k))
    rows = []
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            found = []
            for h in range(layer.heads):
                g = h * layer.kv_heads // layer.heads
                js = seen(layer, q[b, t, h].detach(), k[b, :, g].detach(), t)
                weights = (k[b, js, g] @ q[b, t, h] / math.sqrt(layer.key_dim)).softmax(0)
                found.append(weights @ v[b, js, g])
            rows.append(gated_out(layer, torch.cat(found), x[b, t]))
    return torch.stack(rows).unflatten(0, x.shape[:2])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 4, 37])
def test_forward_and_its_gradient_are_those_of_the_definition(options: str, length: int) -> None:
    x = noise(2, length, DIM)
    agree(make(options), naive, x, atol=1e-11, slope=1e-9 if length == 37 else None, low=1e-4)


@pytest.mark.parametrize("options", OPTIONS)
def test_pieces_and_steps_continue_the_sequence(options: str) -> None:
    layer, x = make(options), noise(2, 60, DIM)
    close(in_pieces(layer, x, 1, 9, 10, 11, 12, 13, 41)[0], layer(x))


@pytest.mark.parametrize("options", ["block=5, top_k=8", "block=64, top_k=1"])
def test_all_blocks_are_full_attention(options: str) -> None:
    layer, plain, x = make(options), layer_of("mh-attention"), noise(2, 38, DIM)
    plain.load_state_dict(layer.state_dict())
    close(layer(x), plain(x), 1e-12)


def test_the_choice_is_replayed_and_has_no_gradient() -> None:
    layer, x = make("block=2, top_k=2"), noise(1, 12, DIM)
    ctx = Context(choices=Choices())
    layer(x, ctx)
    (chosen,) = ctx.choices.made  # type: ignore[union-attr]
    assert not torch.equal(layer(x, Context(choices=Choices(given=[torch.ones_like(chosen)]))), layer(x))


def test_work_state_and_refusals() -> None:
    layer = make("block=4, top_k=2", dim=128)
    visible = sum(t % 4 + 1 + (4 if t >= 4 else 0) for t in range(10))
    assert layer.pairs(10) == visible
    assert layer.flops(10) == 80 * 128**2 + 4 * visible * 128 + 2 * 128 * sum(t // 4 for t in range(10))
    assert layer.measure_state(40)["growing"] == 2 * 40 * 128
    # Two tokens of its own block, four of another one, and the means of ten blocks; or all that there is.
    assert layer.reads(42) == (2 + 4) * 8 * 32 + 10 * 8 * 16 and layer.reads(6) == 6 * 8 * 32
    wide = make("top_k=99", dim=128)
    assert wide.pairs(100) == 100 * 101 // 2
    with pytest.raises(ValueError, match="top_k=0 must be at least 1"):
        make("top_k=0")
