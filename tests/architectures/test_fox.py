"""Forgetting attention against its definition, token by token in float64; the contract covers the rest."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.architectures.helpers import (
    agree,
    finite,
    gated_out,
    heads_of_attention,
    in_pieces,
    layer_of,
    noise,
    parameters_in,
)

DIM = 48
make = partial(layer_of, dim=DIM, max_len=600, away=0.05)
OPTIONS = [
    "fox",
    "fox[heads=2, key_dim=5, value_dim=9]",
    "fox[qk_norm=true, gate=true, conv=3]",
    "fox[heads=6, kv_heads=2]",
]


def naive(layer: Any, x: Tensor) -> Tensor:
    """The definition; the weight of a key is multiplied by f of every later token, one after the other."""
    q, k, v = heads_of_attention(layer, x)
    f = torch.sigmoid(x @ layer.forget.weight.T + layer.forget.bias)
    rows = []
    for t in range(x.shape[1]):
        found = []
        for h in range(layer.heads):
            g = h * layer.kv_heads // layer.heads
            weights = (k[:, : t + 1, g] * q[:, t : t + 1, h]).sum(-1).div(math.sqrt(layer.key_dim)).exp()
            kept = [f[:, s + 1 : t + 1, h].prod(1) for s in range(t + 1)]
            weights = weights * torch.stack(kept, dim=1)
            weights = weights / weights.sum(1, keepdim=True)
            found.append((weights[..., None] * v[:, : t + 1, g]).sum(1))
        rows.append(gated_out(layer, torch.cat(found, dim=-1), x[:, t]))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("spec", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 11, 37])
def test_forward_and_its_gradient_are_those_of_the_definition(spec: str, length: int) -> None:
    agree(
        make(spec), naive, noise(2, length, DIM), atol=1e-11, slope=1e-9 if length == 11 else None, low=3e-5
    )


@pytest.mark.parametrize("spec", [*OPTIONS, "fox[rope=true]"])
def test_pieces_and_steps_continue_the_sequence(spec: str) -> None:
    layer, x = make(spec), noise(2, 24, DIM)
    y, state = in_pieces(layer, x, 9, 23)
    torch.testing.assert_close(y, layer(x), rtol=0, atol=1e-12)
    assert len(state) == len(layer.state_kinds)


@pytest.mark.parametrize("rope", ["false", "true"])
def test_a_layer_that_forgets_nothing_is_attention(rope: str) -> None:
    layer, plain = make(f"fox[rope={rope}]"), make(f"mh-attention[rope={rope}]")
    kept = {"forget.weight": torch.zeros(3, DIM), "forget.bias": torch.full((3,), 1e4)}
    layer.load_state_dict({**plain.state_dict(), **kept})
    x = noise(2, 23, DIM)
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=1e-12)


def test_a_layer_that_forgets_everything_sees_the_token_itself() -> None:
    layer, x = make("fox"), noise(2, 23, DIM)
    with torch.no_grad():
        layer.forget.weight.zero_()
        layer.forget.bias.fill_(-1e3)
    expected = x @ layer.value.weight.T @ layer.out.weight.T
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bias", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_no_gate_breaks_the_values_or_the_gradient(bias: float) -> None:
    layer = make("fox").float()
    with torch.no_grad():
        layer.forget.bias.fill_(bias)
    x = noise(2, 67, DIM).float()
    finite(layer, x)
    _, state = layer.prefill(x, layer.init_state(2))
    assert bool(torch.isfinite(layer.step(x[:, 0], state)[0]).all())


def test_a_long_sequence_keeps_its_digits_also_in_bfloat16() -> None:
    layer, x = make("fox"), noise(1, 512, DIM)
    exact, low = layer(x), layer.float()
    scale = float(exact.detach().abs().max())
    torch.testing.assert_close(low(x.float()), exact.float(), rtol=0, atol=1e-4 * scale)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole = low(x.float())
        first, state = low.prefill(x[:, :500].float(), low.init_state(1))
        rest, _ = low.prefill(x[:, 500:].float(), state)
    for found in (whole, torch.cat([first, rest], 1)):
        torch.testing.assert_close(found.float(), exact.float(), rtol=0, atol=0.05 * scale)


def test_the_state_holds_one_sum_a_head_and_token_besides_the_cache() -> None:
    layer = make("fox", dim=128)
    assert layer.measure_state(40)["growing"] == 2 * 40 * 128 + 40 * 8
    assert parameters_in(layer) == 4 * 128**2 + 128 * 8 + 8
    low = make("fox").to(torch.bfloat16)
    y, state = low.step(noise(2, DIM).bfloat16(), low.init_state(2))
    assert (y.dtype, state[0].dtype, state[-1].dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert low(noise(2, 5, DIM).bfloat16()).dtype == torch.bfloat16
