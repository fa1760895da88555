"""Gated slot attention against its recurrence, token by token in float64; the contract covers the rest."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.architectures.helpers import (
    agree,
    close,
    finite,
    in_pieces,
    layer_of,
    noise,
    parameters_in,
    rms,
    short_conv,
    silu,
)

DIM = 32
make = partial(layer_of, "gsa")


def naive(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the slots' keys and values beside each other."""
    heads, slots, key, value = layer.heads, layer.slots, layer.key_dim, layer.value_dim
    z = short_conv(x @ layer.project.weight.T, layer.conv.weight)
    q, k, v = silu(z).split([heads * key, heads * key, heads * value], dim=-1)
    alpha = (torch.sigmoid(x @ layer.forget.weight.T) ** (1 / 8)).clamp(min=torch.tensor(-5.0).double().exp())
    rows = []
    states = [torch.zeros(x.shape[0], slots, key + value, dtype=x.dtype) for _ in range(heads)]
    for t in range(x.shape[1]):
        outputs = []
        for j in range(heads):
            a = alpha[:, t, j * slots : (j + 1) * slots, None]
            kj, vj = k[:, t, j * key : (j + 1) * key], v[:, t, j * value : (j + 1) * value]
            states[j] = a * states[j] + (1 - a) * torch.cat([kj, vj], dim=-1)[:, None]
            logits = torch.einsum("bmk,bk->bm", states[j][..., :key], q[:, t, j * key : (j + 1) * key])
            outputs.append(torch.einsum("bm,bmv->bv", logits.softmax(-1), states[j][..., key:]))
        o = rms(silu(torch.cat(outputs, dim=-1))) * layer.norm.weight
        rows.append(o @ layer.out.weight.T)
    return torch.stack(rows, dim=1), torch.stack(states, dim=1)


@pytest.mark.parametrize(
    "options",
    [
        *("", "heads=1, slots=5", "heads=4, key_dim=6, value_dim=3, slots=9, conv=3"),
        *("slots=1, conv=1", "slots=5, conv=2"),
    ],
)
def test_forward_its_gradient_and_the_state_are_those_of_the_recurrence(options: str) -> None:
    layer, x = make(options, away=0.1), 2 * noise(2, 67, DIM)
    with torch.no_grad():
        expected, last = naive(layer, x)
    for length in (1, 5, 37):
        close(layer(x[:, :length]), expected[:, :length], 1e-9)
    y, state = in_pieces(layer, x, 41, 66)
    close(y, expected, 1e-9)
    close(state[0], last, 1e-9)
    close(copy.deepcopy(layer).float()(x.float()), expected, 1e-4)
    agree(layer, lambda layer, x: naive(layer, x)[0], x[:1, :35], atol=1e-9, slope=1e-8)


@pytest.mark.parametrize("logit", [-1e4, -400.0, -40.0, 0.0, 40.0, 400.0])
def test_no_gate_breaks_the_values_or_the_gradient(logit: float) -> None:
    layer = make().float()
    x = noise(2, 67, DIM).float()
    x[..., 0] = torch.where(noise(2, 67, seed=4) > 0, 1.0, 0.5).float()
    with torch.no_grad():
        layer.forget.weight[:, 0] = logit
    y = finite(layer, x)
    close(y, naive(layer.double(), x.double())[0], 2e-3)


def test_autocast_rounds_nothing_of_the_recurrence() -> None:
    layer = make().float()
    tokens, _ = layer.write(noise(1, 40, DIM).float(), layer.init_state(1)[1:], None)
    s = layer.init_state(1)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer.recur(tokens, s)
    assert all(torch.equal(a, b) for a, b in zip(low, layer.recur(tokens, s), strict=True))


def test_state_and_parameters_at_width_128() -> None:
    paper = make("heads=4, slots=32", dim=128)
    assert paper.measure_state(40)["total"] == paper.nominal_state(40) == 8_192
    ours = make(dim=128)
    assert (ours.heads, ours.slots) == (8, 16) and ours.measure_state(40)["total"] == 8 * 16 * 32
    assert parameters_in(ours) == 5 * 128**2 + 128
    assert make("slots=64", dim=128).nominal_state(9) == 8 * 64 * 32
    assert make("conv=4", dim=128).measure_state(9)["conv"] == 3 * 384


def test_a_single_slot_reads_back_its_average_whatever_the_query() -> None:
    layer = make("slots=1")
    x = noise(1, 9, DIM)
    y = layer(x)
    with torch.no_grad():
        layer.project.weight[: layer.heads * layer.key_dim] = 0
    torch.testing.assert_close(layer(x), y, rtol=0, atol=1e-12)
