"""Attention with sparsely read gates against its definition; the contract covers the rest."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.growth import add_heads, widen_hidden, widen_keys, widen_values
from tests.architectures.helpers import (
    agree,
    close,
    in_pieces,
    layer_of,
    model_of,
    noise,
    parameters_in,
    random_tokens,
    wild,
)

DIM = 48
make = partial(layer_of, "sparse-gate-attention", dim=DIM, away=0.05)
OPTIONS = ["", "read=48, heads=6, kv_heads=2", "read=1, gate=true, value_dim=9, heads=2, key_dim=6"]


def naive(layer: Any, x: Tensor) -> Tensor:
    """Attention without a map behind its heads, each of them gated, and then the map."""
    options = f"heads={layer.heads}, kv_heads={layer.kv_heads}, key_dim={layer.key_dim}"
    plain = layer_of(f"attention[{options}, value_dim={layer.value_dim}]", dim=DIM)
    plain.query, plain.key, plain.value = layer.query, layer.key, layer.value
    plain.out = torch.nn.Identity()
    plain.read = lambda o, x: o
    found = plain(x)  # (B, T, H, V)
    rows = []
    for t in range(x.shape[1]):
        first = x[:, t, : layer.config.read]
        heads = [
            found[:, t, h] / (1 + torch.exp(-(first @ layer.head_gate.weight[h])))[:, None]
            for h in range(layer.heads)
        ]
        o = torch.cat(heads, dim=-1)
        if layer.config.gate:
            o = o * torch.sigmoid(x[:, t] @ layer.gate.weight.T)
        rows.append(o @ layer.out.weight.T)
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 11])
def test_forward_and_its_gradient_are_those_of_the_definition(options: str, length: int) -> None:
    agree(make(options), naive, noise(2, length, DIM), atol=1e-12, slope=1e-10, low=1e-5)


def test_pieces_and_steps_continue_the_sequence() -> None:
    layer, x = make(), noise(2, 24, DIM)
    close(in_pieces(layer, x, 9, 20, 21)[0], layer(x), 1e-12)


def test_at_the_start_half_of_what_attention_finds_is_kept() -> None:
    layer, plain = layer_of("sparse-gate-attention", dim=DIM), layer_of("mh-attention", dim=DIM)
    assert not bool(layer.head_gate.weight.any())
    x = noise(2, 9, DIM)
    close(layer(x), plain(x) / 2, 1e-12)


def test_it_is_gated_attention_with_one_number_a_head() -> None:
    layer, full = make("read=48"), layer_of("gated-attention", dim=DIM)
    copied = {**layer.state_dict(), "gate.weight": layer.head_gate.weight.repeat_interleave(16, dim=0)}
    del copied["head_gate.weight"]
    full.load_state_dict(copied)
    x = noise(2, 9, DIM)
    close(layer(x), full(x), 1e-12)


def test_the_gates_cost_twelve_numbers_a_head() -> None:
    layer, plain = make(dim=128), layer_of("mh-attention", dim=128)
    assert parameters_in(layer) == parameters_in(plain) + 8 * 12
    assert layer.flops(40) == plain.flops(40) + 40 * (2 * 8 * 12 + 128)
    assert layer.measure_state(40) == plain.measure_state(40)


def test_growth_keeps_the_function() -> None:
    model, tokens = model_of("sparse-gate-attention[heads=2] mlp", dim=16), random_tokens(2, 12, vocab=7)
    for operation, to in ((add_heads, 4), (widen_keys, 12), (widen_values, 9), (widen_hidden, 24)):
        grown, _ = operation(model, to=to, fill=wild())
        close(grown(tokens), model(tokens), 1e-10)
        model = grown


def test_more_channels_than_there_are_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="read=49 is more than the width 48; choose at most 48"):
        make("read=49")
