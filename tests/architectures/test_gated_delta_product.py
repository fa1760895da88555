"""Gated DeltaProduct against its equations, step by step of a token; the contract tests cover the rest."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from tests.architectures.helpers import (
    agree,
    close,
    convolved,
    finite,
    in_pieces,
    layer_of,
    noise,
    parameters_in,
    rms,
    silu,
    unit,
    unroll,
)

DIM = 32
make = partial(layer_of, "gated-delta-product")


def naive(layer: Any, x: Tensor) -> Tensor:
    """The layer from its parameters: for each token the decay, then n overwrites, then the reading."""
    heads, key, value, n = layer.heads, layer.key_dim, layer.value_dim, layer.config.substeps
    z = convolved(x @ layer.project.weight.T, layer.conv.weight)
    q, k, v = z.split([heads * key, n * heads * key, n * heads * value], dim=-1)
    q, k = q.reshape(*x.shape[:2], heads, key), k.reshape(*x.shape[:2], n, heads, key)
    q, k = unit(q), unit(k)
    v = v.reshape(*x.shape[:2], n, heads, value)
    strength = torch.sigmoid(x @ layer.strength.weight.T).reshape(*x.shape[:2], n, heads)
    strength = strength * (2 if layer.config.negative_eigenvalues else 1)
    gate = x @ layer.gate.weight.T
    s = x.new_zeros(x.shape[0], heads, key, value)
    rows = []
    for t in range(x.shape[1]):
        if layer.config.forget:
            a = torch.exp(-layer.log_rate.exp() * softplus(x[:, t] @ layer.dt.weight.T + layer.dt_bias))
            s = a[..., None, None] * s
        for j in range(n):
            held = (k[:, t, j, ..., None] * s).sum(-2)
            change = strength[:, t, j, :, None] * (v[:, t, j] - held)
            s = s + k[:, t, j, ..., None] * change[..., None, :]
        o = rms((s * q[:, t, ..., None]).sum(-2) / math.sqrt(key)) * layer.norm
        rows.append((o.flatten(1) * silu(gate[:, t])) @ layer.out.weight.T)
    return torch.stack(rows, dim=1)


OPTIONS = [
    "",
    "substeps=1, conv=0",
    "substeps=3, forget=false",
    "substeps=4, negative_eigenvalues=false, key_dim=8, value_dim=24, conv=2",
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 23, 37, 67])
def test_forward_and_its_gradient_are_those_of_the_recurrence(options: str, length: int) -> None:
    agree(make(options, away=0.3), naive, noise(2, length, DIM), slope=1e-9 if length == 23 else None)


@pytest.mark.parametrize("options", OPTIONS)
def test_steps_equal_forward_and_prefill_continues(options: str) -> None:
    layer = make(options, away=0.3)
    x = noise(2, 41, DIM)
    (y, state), (z, last) = unroll(layer, x), in_pieces(layer, x, 17)
    torch.testing.assert_close(y, layer(x), rtol=0, atol=1e-11)
    torch.testing.assert_close(z, layer(x), rtol=0, atol=1e-11)
    for a, b in zip(last, state, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_one_step_a_token_is_a_gated_delta_net() -> None:
    base = layer_of("gated-delta-net", "negative_eigenvalues=true", away=0.3)
    layer = make("substeps=1")
    layer.load_state_dict(base.state_dict())
    x = noise(2, 37, DIM)
    torch.testing.assert_close(layer(x), base(x), rtol=0, atol=1e-12)


def test_two_reflections_make_a_rotation() -> None:
    # Writing nothing with strength 2 reflects; two reflections turn by twice the angle between the keys.
    layer = make("heads=1, key_dim=2, value_dim=2, conv=0, forget=false")
    s, (one, two) = torch.eye(2).double()[None, None], (torch.tensor([1.0, 0.0]), torch.tensor([0.8, 0.6]))
    k = torch.stack([one, two]).double()[None, None, :, None]  # (B, T, n, H, K)
    from architectures.families.matrix_memory import Vectors

    tokens = Vectors(q=k[:, :, 0], k=2 * k, v=torch.zeros_like(k), y=k)
    turned = layer.recur(tokens, s)[1][0, 0]
    angle = 2 * math.acos(0.8)
    expected = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    ).double()
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-7)


def test_the_decay_starts_as_in_the_recipe() -> None:
    layer = make(dim=1024)
    rate, step = layer.log_rate.detach().exp(), softplus(layer.dt_bias.detach())
    assert layer.log_rate.shape == (64,) and rate.max() <= 16 and rate.min() < 2 and 6 < rate.mean() < 10
    assert step.min() >= 1e-3 - 1e-9 and step.max() <= 0.1 + 1e-9 and 0.004 < step.median() < 0.025
    assert not any(n.startswith(("dt", "log_rate")) for n, _ in make("forget=false").named_parameters())


@pytest.mark.parametrize("n", [1, 2, 3])
def test_sizes_are_as_published(n: int) -> None:
    layer = make(f"substeps={n}", dim=128)
    sizes = layer.measure_state(40)
    assert (sizes["recurrent"], sizes["conv"]) == (2048, 3 * (128 + 2 * n * 128))
    assert n != 2 or sizes["total"] == 3968
    d, heads = 128, 8
    wide = (1 + 2 * n) * d
    assert parameters_in(layer) == (
        d * wide + 4 * wide + 2 * d * d + d * heads + n * d * heads + 2 * heads + 16
    )
    assert {m for m, h in layer.hints().items() if not h.decay} == {"log_rate", "dt_bias", "conv.weight"}


@pytest.mark.parametrize("bias, rate", [(-80.0, 0.0), (80.0, 3.0), (0.0, 10.0), (0.0, -20.0)])
@pytest.mark.parametrize("strength", [-1e4, 0.0, 1e4])
def test_no_decay_and_no_strength_breaks_values_or_gradients(
    bias: float, rate: float, strength: float
) -> None:
    layer = make()
    with torch.no_grad():
        layer.dt_bias.fill_(bias)
        layer.log_rate.fill_(rate)
        layer.strength.weight.fill_(strength)
    x = noise(2, 40, DIM)
    expected, y = naive(layer, x).detach(), finite(layer.float(), x.float())
    # With no strength at all nothing is written, and the norm divides rounding by its eps.
    if strength == 0:
        close(y, expected, 2e-4)
