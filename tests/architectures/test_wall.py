"""Wall attention against its definition, query by query in float64; the contract covers the rest."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.primitives.wall import wall_attend
from tests.architectures.helpers import agree, attended, finite, in_pieces, layer_of, noise

DIM = 48
make = partial(layer_of, dim=DIM, max_len=600, away=0.05)
OPTIONS = [
    "wall",
    "wall[heads=2, key_dim=5, value_dim=9]",
    "wall[heads=6, kv_heads=2, qk_norm=true, gate=true, conv=3, bias=all]",
]


def forgetting(layer: Any, bias: float) -> Any:
    with torch.no_grad():
        layer.forget.bias.add_(bias)
    return layer


def naive(layer: Any, x: Tensor) -> Tensor:
    """The definition; each channel of a product is multiplied by f of every later token."""
    f = torch.sigmoid(x @ layer.forget.weight.T + layer.forget.bias).unflatten(-1, (layer.heads, -1))

    def weigh(q: Tensor, k: Tensor, t: int, h: int) -> Tensor:
        kept = torch.stack([f[:, s + 1 : t + 1, h].prod(1) for s in range(t + 1)], dim=1)
        return ((k * kept * q[:, None]).sum(-1) / math.sqrt(layer.key_dim)).softmax(1)

    return attended(layer, x, weigh)


@pytest.mark.parametrize("spec", OPTIONS)
@pytest.mark.parametrize("length", [1, 11, 37])
@pytest.mark.parametrize("bias", [0.0, -8.0])
def test_forward_and_its_gradient_are_those_of_the_definition(spec: str, length: int, bias: float) -> None:
    layer = forgetting(make(spec), bias)
    agree(layer, naive, noise(2, length, DIM), atol=1e-11, slope=1e-9 if length == 11 else None)


@pytest.mark.parametrize("spec", OPTIONS)
def test_pieces_and_steps_continue_the_sequence(spec: str) -> None:
    layer, x = forgetting(make(spec), -8.0), noise(2, 44, DIM)
    y, state = in_pieces(layer, x, 9, 42, 43)
    torch.testing.assert_close(y, layer(x), rtol=0, atol=1e-12)
    assert len(state) == len(layer.state_kinds)


def test_chunks_of_any_size_give_the_same() -> None:
    q, k, v = (noise(2, 37, 3, 5, seed=i) for i in range(3))
    sums = -noise(2, 37, 3, 5, seed=4).square().cumsum(1)
    expected = wall_attend(q[:, 9:], k, v, sums, scale=0.4, chunk=1)
    for chunk in (4, 8, 64):
        found = wall_attend(q[:, 9:], k, v, sums, scale=0.4, chunk=chunk)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_layer_that_forgets_nothing_is_attention_and_one_that_forgets_all_weighs_alike() -> None:
    layer, plain, x = make("wall"), make("mh-attention[rope=false]"), noise(2, 23, DIM)
    zero = torch.zeros(DIM, DIM)
    layer.load_state_dict(
        {**plain.state_dict(), "forget.weight": zero, "forget.bias": torch.full((DIM,), 1e4)}
    )
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=1e-12)
    with torch.no_grad():
        layer.forget.bias.fill_(-1e3)
        layer.query.weight.zero_()
    values = x @ layer.value.weight.T
    mean = values.cumsum(1) / torch.arange(1, 24)[:, None]
    torch.testing.assert_close(layer(x), mean @ layer.out.weight.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bias", [-1e4, -100.0, 0.0, 1e4])
def test_no_gate_breaks_the_values_or_the_gradient(bias: float) -> None:
    layer, x = make("wall").float(), noise(2, 67, DIM).float()
    with torch.no_grad():
        layer.forget.bias.fill_(bias)
    finite(layer, x)
    _, state = layer.prefill(x, layer.init_state(2))
    assert bool(torch.isfinite(layer.step(x[:, 0], state)[0]).all())


def test_it_starts_near_attention_and_keeps_a_sum_a_channel() -> None:
    assert torch.equal(layer_of("wall").forget.bias, torch.full((32,), 8.0).double())
    assert make("wall", dim=128).measure_state(40)["growing"] == 40 * 3 * 128
    low = make("wall").to(torch.bfloat16)
    _, state = low.step(noise(2, DIM).bfloat16(), low.init_state(2))
    assert state[0].dtype == torch.bfloat16 and state[-1].dtype == torch.float32
