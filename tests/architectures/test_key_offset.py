"""Attention with a partial key offset against its definition, token by token in float64."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import architectures
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

DIM = 48
make = partial(layer_of, "key-offset-attention", dim=DIM, away=0.05)
OPTIONS = [
    "",
    "heads=6, kv_heads=2, bias=all, rope_base=50",
    "rope_fraction=0.25, qk_norm=true, gate=true, conv=3",
    "rope=false, heads=2, key_dim=5, value_dim=9",
]


def naive(layer: Any, x: Tensor) -> Tensor:
    """The definition: each key is written down as it is met, one query and one head at a time."""
    (q, k, v), config = heads_of_attention(layer, x), layer.config
    width = 2 * round(config.rope_fraction * layer.key_dim / 2) if config.rope else 0
    q = torch.stack([turned(q[:, t], t, width, config.rope_base) for t in range(x.shape[1])], dim=1)
    keys = []
    for t in range(x.shape[1]):
        before = k[:, max(t - 1, 0), :, width:]
        keys.append(torch.cat([turned(k[:, t], t, width, config.rope_base)[..., :width], before], dim=-1))
    rows = []
    for t in range(x.shape[1]):
        found = []
        for h in range(layer.heads):
            g = h * layer.kv_heads // layer.heads
            scores = torch.stack([(keys[s][:, g] * q[:, t, h]).sum(-1) for s in range(t + 1)], dim=1)
            weights = (scores / math.sqrt(layer.key_dim)).softmax(1)
            found.append((weights[..., None] * v[:, : t + 1, g]).sum(1))
        rows.append(gated_out(layer, torch.cat(found, dim=-1), x[:, t]))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 2, 11])
def test_forward_and_its_gradient_are_those_of_the_definition(options: str, length: int) -> None:
    agree(make(options), naive, noise(2, length, DIM), atol=1e-12, slope=1e-10, low=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
def test_pieces_and_steps_continue_the_sequence(options: str) -> None:
    layer, x = make(options), noise(2, 24, DIM)
    y, state = in_pieces(layer, x, 1, 9, 20, 21)
    close(y, layer(x), 1e-12)
    assert len(state) == len(layer.state_kinds)


def test_without_unrotated_keys_it_is_attention_with_partial_rope() -> None:
    layer, plain = make(), layer_of("mh-attention[rope_fraction=0.5]", dim=DIM)
    with torch.no_grad():
        layer.key.weight.unflatten(0, (3, 16))[:, 8:] = 0
    plain.load_state_dict(layer.state_dict())
    x = noise(2, 23, DIM)
    close(layer(x), plain(x), 1e-12)


def test_one_layer_finds_what_followed_the_same_token() -> None:
    """With one-hot tokens and a query that asks the unrotated channels, the answer is the token after."""
    layer, size = make("heads=1, key_dim=32, rope_fraction=0.5", dim=16), 16
    eye = torch.eye(size, dtype=torch.float64)
    with torch.no_grad():
        for linear in (layer.query, layer.key):
            linear.weight.copy_(torch.cat([0 * eye, 30 * eye]))
        layer.value.weight.copy_(eye)
        layer.out.weight.copy_(eye)
    tokens = torch.tensor([3, 7, 1, 9, 4, 7])
    y = layer(eye[tokens][None])
    assert int(y[0, -1].argmax()) == 1 and float(y[0, -1, 1].detach()) > 0.99


def test_the_state_is_the_cache_and_half_a_key() -> None:
    layer = make(dim=128)
    sizes = layer.measure_state(40)
    assert (sizes["growing"], sizes["conv"]) == (2 * 40 * 128, 64)
    assert parameters_in(layer) == 4 * 128**2
    assert layer.flops(40) == layer_of("mh-attention", dim=128).flops(40)


def test_growth_keeps_the_function() -> None:
    model, tokens = model_of("key-offset-attention[heads=2] mlp", dim=16), random_tokens(2, 12, vocab=7)
    for operation, to in ((add_heads, 4), (widen_keys, 12), (widen_values, 9), (widen_hidden, 24)):
        grown, _ = operation(model, to=to, fill=wild())
        close(grown(tokens), model(tokens), 1e-10)
        model = grown


def test_nothing_to_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves no channel to offset; choose a smaller one"):
        architectures.build("key-offset-attention[rope_fraction=1]", vocab_size=5, dim=32, max_len=8, seed=0)
