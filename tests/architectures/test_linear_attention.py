"""Linear attention against its sum over earlier tokens, in float64; the contract tests cover the rest."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.architectures.helpers import agree, close, convolved, finite, layer_of, noise, parameters_in, rms

DIM = 32
make = partial(layer_of, "mh-linear-attention")
MAPS = ["elu", "relu", "hedgehog", "elementwise-product", "identity"]
SHAPES = ["heads=none", "heads=1", "heads=3, key_dim=6, value_dim=10, conv=3"]


def feature(layer: Any, z: Tensor, side: str, head: int) -> Tensor:
    """phi of the vectors (B, T, K) of one head."""
    kind = layer.config.feature_map
    if kind == "elu":
        return torch.nn.functional.elu(z) + 1
    if kind == "relu":
        return z.clamp(min=0)
    if kind == "identity":
        return z
    learned = getattr(layer, f"{side}_map")
    mapped = z @ learned.weight[head]
    if kind == "hedgehog":
        mapped = 2 * (mapped + learned.bias[head])
        both = torch.cat([mapped, -mapped], dim=-1).exp()
        return both / both.sum(-1, keepdim=True)
    return mapped[..., : z.shape[-1]] * mapped[..., z.shape[-1] :]


def naive(layer: Any, x: Tensor) -> Tensor:
    q, k, v = (
        convolved(x @ getattr(layer, n).weight.T, getattr(layer, f"{n}_conv").weight)
        for n in ("query", "key", "value")
    )
    keys, values, heads = layer.key_dim, layer.value_dim, []
    for j in range(layer.heads):
        fq = feature(layer, q[..., j * keys : (j + 1) * keys], "query", j)
        fk = feature(layer, k[..., j * keys : (j + 1) * keys], "key", j)
        vj = v[..., j * values : (j + 1) * values]
        s = torch.zeros(x.shape[0], fq.shape[-1], values, dtype=x.dtype)
        z = torch.zeros(x.shape[0], fq.shape[-1], dtype=x.dtype)
        rows = []
        for t in range(x.shape[1]):
            s, z = s + fk[:, t, :, None] * vj[:, t, None], z + fk[:, t]
            o = (fq[:, t, None] @ s)[:, 0]
            if layer.config.feature_map in ("elementwise-product", "identity"):
                o = rms(o) * layer.norm
            else:
                o = o / ((fq[:, t] * z).sum(-1, keepdim=True) + 1e-6)
            rows.append(o)
        heads.append(torch.stack(rows, dim=1))
    return torch.cat(heads, dim=-1) @ layer.out.weight.T


@pytest.mark.parametrize("feature_map", MAPS)
@pytest.mark.parametrize("shape", [*SHAPES, "conv=2"])
def test_forward_and_its_gradient_are_those_of_the_recurrence(feature_map: str, shape: str) -> None:
    layer, x = make(f"{shape}, feature_map={feature_map}", away=0.1), noise(2, 67, DIM)
    whole = layer(x)
    for length in (1, 5, 37):
        close(layer(x[:, :length]), whole[:, :length], 1e-9)
    agree(layer, naive, x, atol=1e-9, slope=None)
    agree(layer, naive, x[:1, :35], atol=1e-9, slope=1e-8)


def test_hedgehog_starts_as_the_identity_and_its_features_are_shares() -> None:
    layer = make("feature_map=hedgehog")
    for learned in (layer.query_map, layer.key_map):
        assert (
            torch.equal(learned.weight, torch.eye(16).double().expand(2, 16, 16)) and not learned.bias.any()
        )
    z = noise(2, 3, 2, 16)
    phi = layer.query_map(z)
    torch.testing.assert_close(phi.sum(-1), torch.ones(2, 3, 2).double(), rtol=0, atol=1e-12)
    both = torch.cat([2 * z, -2 * z], dim=-1)
    torch.testing.assert_close(phi, both.softmax(-1), rtol=0, atol=1e-12)
    hints = layer.hints()
    assert not hints["query_map.bias"].decay and not hints["key_map.bias"].decay and len(hints) == 2


def test_the_maps_of_a_product_start_as_linear_maps_do() -> None:
    weight = make("feature_map=elementwise-product", dim=256).query_map.weight.detach()
    assert weight.shape == (16, 16, 32)
    assert weight.abs().max() <= 0.25 and abs(float(weight.square().mean()) - 0.25**2 / 3) < 1e-3


@pytest.mark.parametrize(
    ("options", "parameters", "state", "nominal"),
    [
        ("", 4 * 128**2, 8 * 16 * 17, 2048),
        ("feature_map=identity", 4 * 128**2 + 16, 2048, 2048),
        ("feature_map=elementwise-product", 4 * 128**2 + 16 + 4 * 8 * 256, 2048, 2048),
        ("feature_map=hedgehog", 4 * 128**2 + 2 * 8 * (256 + 16), 8 * 32 * 17, 8 * 32 * 16),
        ("conv=4", 4 * 128**2 + 4 * 384, 8 * 16 * 17, 2048),
        ("heads=4, key_dim=8, value_dim=24", 128 * (2 * 32 + 2 * 96), 4 * 8 * 25, 4 * 8 * 24),
    ],
)
def test_parameters_and_state_at_width_128(options: str, parameters: int, state: int, nominal: int) -> None:
    layer = make(options, dim=128)
    assert parameters_in(layer) == parameters
    assert layer.measure_state(40)["recurrent"] == state and layer.nominal_state(40) == nominal
    assert layer.measure_state(40)["conv"] == (3 * 384 if "conv" in options else 0)


@pytest.mark.parametrize("feature_map", MAPS)
def test_no_input_breaks_the_values_or_the_gradient(feature_map: str) -> None:
    layer = make(f"feature_map={feature_map}").float()
    for size in (0.0, 1e-6, 1e3):
        finite(layer, (size * noise(2, 40, DIM)).float())
