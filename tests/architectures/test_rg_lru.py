"""The RG-LRU against its recurrence, token by token in float64; the contract tests cover the rest."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.architectures.helpers import agree, finite, layer_of, noise, short_conv

DIM = 32
make = partial(layer_of, "rg-lru")


def naive(layer: Any, x: Tensor) -> Tensor:
    """The equations of the paper, with the gates' blocks laid out as full matrices."""
    inner, heads, width = layer.inner, layer.heads, layer.inner // layer.heads
    z, u = (x @ layer.project.weight.T).split(inner, dim=-1)
    blocks = layer.gate_weight
    full_r = torch.block_diag(*(blocks[j, :, :width] for j in range(heads)))
    full_i = torch.block_diag(*(blocks[j, :, width:] for j in range(heads)))
    bias_r, bias_i = layer.gate_bias[:, :width].flatten(), layer.gate_bias[:, width:].flatten()
    u = short_conv(u, layer.conv.weight, layer.conv_bias)
    h = torch.zeros(x.shape[0], inner, dtype=torch.float64)
    rows = []
    for t in range(x.shape[1]):
        c = u[:, t]
        r, i = torch.sigmoid(c @ full_r + bias_r), torch.sigmoid(c @ full_i + bias_i)
        a = torch.sigmoid(-layer.rate) ** (8 * r)
        m = torch.sqrt(1 - a**2) if t else torch.ones_like(a)
        h = a * h + m * (i * c)
        gelu = z[:, t] * 0.5 * (1 + torch.erf(z[:, t] / math.sqrt(2)))
        rows.append((gelu * h) @ layer.out.weight.T)
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("options", ["", "expand=1.5", "heads=1", "heads=8, conv=2", "conv=1", "conv=0"])
def test_forward_and_its_gradient_are_those_of_the_recurrence(options: str) -> None:
    agree(make(options, away=0.1), naive, noise(2, 23, DIM), atol=1e-11)


def test_only_the_first_token_of_a_sequence_is_written_unscaled() -> None:
    layer = make()
    x = noise(1, 6, DIM)
    whole = layer(x)
    _, state = layer.prefill(x[:, :2], layer.init_state(1))
    assert state[2].tolist() == [2]
    torch.testing.assert_close(layer.prefill(x[:, 2:], state)[0], whole[:, 2:], rtol=0, atol=1e-12)
    # A state that says that nothing was seen writes its next token as a first one.
    forgotten = (*state[:2], torch.zeros_like(state[2]))
    assert (layer.prefill(x[:, 2:], forgotten)[0] - whole[:, 2:]).abs().max() > 1e-3


def test_the_rows_of_a_state_may_be_at_different_positions() -> None:
    layer = make()
    x = noise(2, 4, DIM)
    _, late = layer.prefill(x[:1], layer.init_state(1))
    fresh = layer.init_state(1)
    mixed = tuple(torch.cat(pair) for pair in zip(late, fresh, strict=True))
    y, _ = layer.step(x[:, 0], mixed)
    torch.testing.assert_close(y[:1], layer.step(x[:1, 0], late)[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(y[1:], layer.step(x[1:, 0], fresh)[0], rtol=0, atol=1e-12)


def test_the_initial_rates_are_those_of_the_public_code() -> None:
    rho = torch.sigmoid(-make(dim=1024).rate.detach())
    assert rho.min() >= 0.9 - 1e-6 and rho.max() <= 0.999 + 1e-6
    low, high = 0.9**2, 0.999**2
    assert abs(float((rho**2).mean()) - (low + high) / 2) < 0.01


def test_the_other_initial_values_are_as_documented() -> None:
    layer = make(dim=256)
    assert float(layer.gate_weight.detach().std()) == pytest.approx(layer.width**-0.5, rel=0.05)
    assert not layer.gate_bias.any() and not layer.conv_bias.any()
    for weight in (p.detach() for p in (layer.project.weight, layer.out.weight, layer.conv.weight)):
        bound = weight.shape[-1] ** -0.5
        assert 0.99 * bound < float(weight.abs().max()) <= bound
        assert float(weight.std()) == pytest.approx(bound * 3**-0.5, rel=0.05)


@pytest.mark.parametrize("rate", [-100.0, -30.0, 30.0, 100.0])
def test_no_rate_breaks_the_values_or_the_gradient(rate: float) -> None:
    layer = make().float()
    with torch.no_grad():
        layer.rate.fill_(rate)
    finite(layer, noise(2, 33, DIM).float())


def test_the_state_is_published_and_kept_in_float32_under_bfloat16_weights() -> None:
    layer = make(dim=128)
    assert layer.measure_state(40) == {"recurrent": 128, "conv": 384, "growing": 0, "total": 512}
    assert layer.nominal_state(40) == 128
    low = make().to(torch.bfloat16)
    state = low.init_state(2)
    y, state = low.step(noise(2, DIM).bfloat16(), state)
    assert (y.dtype, state[0].dtype, state[1].dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)


def test_the_rates_are_not_decayed() -> None:
    hints = make().hints()
    assert not hints["rate"].decay and not hints["gate_bias"].decay and "gate_weight" not in hints


@pytest.mark.parametrize(("expand", "inner"), [("1.3333", 48), ("1.5", 48), ("1", 32), ("0.01", 16)])
def test_the_width_of_the_recurrence_is_a_multiple_of_16(expand: str, inner: int) -> None:
    assert make(f"expand={expand}").inner == inner
