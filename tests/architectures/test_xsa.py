"""Exclusive self-attention against its definition, token by token in float64."""

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
    finite,
    gated_out,
    heads_of_attention,
    in_pieces,
    layer_of,
    model_of,
    noise,
    random_tokens,
    wild,
)

DIM = 48
make = partial(layer_of, dim=DIM, away=0.05)
OPTIONS = [
    "xsa[rope=false]",
    "gated-xsa[rope=false, heads=6, kv_heads=2, qk_norm=true, bias=all]",
    "xsa[rope=false, heads=2, key_dim=5, value_dim=9, gate=true, conv=3]",
]


def naive(layer: Any, x: Tensor) -> Tensor:
    """The definition: of what a head finds, the part along the own value is taken away."""
    q, k, v = heads_of_attention(layer, x)
    rows = []
    for t in range(x.shape[1]):
        found = []
        for h in range(layer.heads):
            g = h * layer.kv_heads // layer.heads
            scores = (k[:, : t + 1, g] * q[:, t : t + 1, h]).sum(-1) / math.sqrt(layer.key_dim)
            y, own = (scores.softmax(1)[..., None] * v[:, : t + 1, g]).sum(1), v[:, t, g]
            unit = own / own.norm(dim=-1, keepdim=True)
            part = torch.tanh(layer.removed[h]) if layer.config.learned else 1.0
            found.append(y - part * (y * unit).sum(-1, keepdim=True) * unit)
        rows.append(gated_out(layer, torch.cat(found, dim=-1), x[:, t]))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("spec", OPTIONS)
@pytest.mark.parametrize("length", [2, 11])
def test_forward_and_its_gradient_are_those_of_the_definition(spec: str, length: int) -> None:
    agree(make(spec), naive, noise(2, length, DIM), atol=1e-12, slope=1e-10, low=1e-5)


@pytest.mark.parametrize("spec", ["xsa", "gated-xsa[heads=6, kv_heads=2, conv=2]"])
def test_pieces_and_steps_continue_the_sequence(spec: str) -> None:
    layer, x = make(spec), noise(2, 24, DIM)
    close(in_pieces(layer, x, 1, 9, 20, 21)[0], layer(x), 1e-12)


def test_where_nothing_is_removed_it_is_attention() -> None:
    layer, plain = layer_of("gated-xsa", dim=DIM), layer_of("mh-attention", dim=DIM)
    assert not bool(layer.removed.any())
    x = noise(2, 23, DIM)
    assert torch.equal(layer(x), plain(x))


def test_what_is_found_is_orthogonal_to_the_own_value_and_the_first_token_finds_nothing() -> None:
    layer, x = make("xsa"), noise(2, 23, DIM)
    layer.read = lambda o, x: o
    o, own = layer(x).detach(), layer.value(x).detach().unflatten(-1, (3, 16))
    assert float((o * own).sum(-1).abs().max()) < 1e-12
    assert float(o[:, 0].abs().max()) < 1e-12 < 1e-2 < float(o[:, 1:].norm(dim=-1).min())


@pytest.mark.parametrize("size", [0.0, 1e-6, 1e3])
def test_no_size_of_the_values_breaks_the_gradient(size: float) -> None:
    layer = make("xsa").float()
    with torch.no_grad():
        layer.value.weight.mul_(size)
    finite(layer, noise(2, 13, DIM).float())


def test_it_costs_a_number_a_head_at_most() -> None:
    plain, all_of_it, part = (layer_of(n, dim=128) for n in ("mh-attention", "xsa", "gated-xsa"))
    assert {n: p.numel() for n, p in part.named_parameters() if n == "removed"} == {"removed": 8}
    assert dict(all_of_it.named_parameters()).keys() == dict(plain.named_parameters()).keys()
    assert all_of_it.measure_state(40) == plain.measure_state(40)
    assert all_of_it.flops(40) == plain.flops(40) + 6 * 40 * 128


def test_growth_keeps_the_function() -> None:
    model, tokens = model_of("gated-xsa[heads=2, bias=qkv] mlp", dim=16), random_tokens(2, 12, vocab=7)
    for operation, to in ((add_heads, 4), (widen_keys, 12), (widen_values, 9), (widen_hidden, 24)):
        grown, _ = operation(model, to=to, fill=wild())
        close(grown(tokens), model(tokens), 1e-10)
        model = grown


def test_a_value_of_one_channel_is_refused() -> None:
    with pytest.raises(ValueError, match="value_dim=1 has the direction of the own value only"):
        make("xsa[heads=2, key_dim=4, value_dim=1]")
