"""Based and ReBased against the sum over earlier tokens and against their features, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.architectures.helpers import agree, close, convolved, finite, layer_of, moved, noise, parameters_in

DIM = 32
NAMES = ["based", "rebased"]


def vectors(layer: Any, x: Tensor) -> list[Tensor]:
    """q, k, v (B, T, H, .) before the kernel."""
    found = []
    for name in ("query", "key", "value"):
        z = convolved(x @ getattr(layer, name).weight.T, getattr(layer, f"{name}_conv").weight)
        z = z.unflatten(-1, (layer.heads, -1))
        if name != "value" and layer.config.kernel == "square":
            mean, variance = z.mean(-1, keepdim=True), z.var(-1, correction=0, keepdim=True)
            z = (z - mean) / torch.sqrt(variance + 1e-5) * layer.norm_weight + layer.norm_bias
        found.append(z)
    return found


def naive(layer: Any, x: Tensor) -> Tensor:
    """Each token's weights over the earlier ones, in pairs."""
    q, k, v = vectors(layer, x)
    rows = []
    for t in range(x.shape[1]):
        z = torch.einsum("bhk,bshk->bsh", q[:, t], k[:, : t + 1]) / math.sqrt(layer.key_dim)
        p = 1 + z + z**2 / 2 if layer.config.kernel == "taylor" else z**2
        eps = 1e-12 if layer.config.kernel == "taylor" else 1e-6
        rows.append((p[..., None] * v[:, : t + 1]).sum(1) / (p.sum(1)[..., None] + eps))
    return torch.stack(rows, dim=1).flatten(-2) @ layer.out.weight.T


def features(layer: Any, z: Tensor) -> Tensor:
    """phi, (..., K) -> (..., F), product by product."""
    width, root = layer.key_dim, math.sqrt(layer.key_dim)
    taylor = layer.config.kernel == "taylor"
    columns = [torch.ones_like(z[..., 0]), *(z / math.sqrt(root)).unbind(-1)] if taylor else []
    for i in range(width):
        for j in range(i, width):
            product = z[..., i] * z[..., j] / root
            factor = 1 / math.sqrt(2) if i == j else 1.0
            columns.append(product * (factor if taylor else math.sqrt(2) * factor))
    return torch.stack(columns, dim=-1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options", ["", "heads=1, key_dim=3, conv=3", "heads=4, key_dim=1, value_dim=5", "key_dim=5, conv=2"]
)
def test_forward_and_its_gradient_are_those_of_the_sum_over_earlier_tokens(name: str, options: str) -> None:
    layer, x = layer_of(name, options, away=0.1), noise(2, 131, DIM)
    whole = layer(x)
    for length in (1, 5, 64, 67):
        close(layer(x[:, :length]), whole[:, :length], 1e-9)
    agree(layer, naive, x, atol=1e-9, slope=None)
    agree(layer, naive, x[:1, :70], atol=1e-9, slope=1e-8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cut", [1, 70])
def test_the_state_is_the_sum_of_features_and_values(name: str, cut: int) -> None:
    layer = moved(layer_of(name, "key_dim=5"))
    x = noise(2, 71, DIM)
    q, k, v = vectors(layer, x)
    fq, fk, one = features(layer, q), features(layer, k), torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
    expected = torch.einsum("bthf,bthv->bhfv", fk, one)
    _, state = layer.prefill(x[:, :cut], layer.init_state(2))
    _, state = layer.prefill(x[:, cut:-1], state) if cut < 70 else (None, state)
    y, state = layer.step(x[:, -1], state)
    torch.testing.assert_close(state[0], expected, rtol=0, atol=1e-11)
    o = torch.einsum("bhf,bhfv->bhv", fq[:, -1], expected)
    close(y, (o[..., :-1] / (o[..., -1:] + layer.eps)).flatten(-2) @ layer.out.weight.T, 1e-9)


def test_state_and_parameters_at_width_128() -> None:
    based, rebased = layer_of("based", dim=128), layer_of("rebased", dim=128)
    assert based.features == 153 and rebased.features == 136
    assert based.measure_state(40)["total"] == based.nominal_state(40) == 20_808 == 8 * 153 * 17
    assert rebased.measure_state(40)["total"] == 8 * 136 * 17
    assert parameters_in(based) == 4 * 128**2
    assert parameters_in(rebased) == 4 * 128**2 + 32
    assert layer_of("based", "heads=4, key_dim=8", dim=128).measure_state(9)["total"] == 4 * 45 * 33


def test_the_norm_starts_as_one_that_changes_nothing_more() -> None:
    layer = layer_of("rebased")
    assert torch.equal(layer.norm_weight, torch.ones(16).double()) and not layer.norm_bias.any()


@pytest.mark.parametrize("name", NAMES)
def test_no_input_breaks_the_values_or_the_gradient(name: str) -> None:
    layer = layer_of(name).float()
    for size in (0.0, 1e-6, 1e3):
        finite(layer, (size * noise(2, 70, DIM)).float())


def test_autocast_rounds_nothing_of_the_sums() -> None:
    layer = layer_of("based").float()
    tokens, _ = layer.write(noise(1, 70, DIM).float(), layer.init_state(1)[1:], None)
    tokens, s = layer.feed(tokens), layer.init_state(1)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer.recur(tokens, s)
    assert all(torch.equal(a, b) for a, b in zip(low, layer.recur(tokens, s), strict=True))
