"""Linear attention against its sum over earlier tokens, in float64; the contract tests cover the rest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import architectures
from architectures.primitive import Primitive

DIM = 32
MAPS = ["elu", "relu", "hedgehog", "elementwise-product", "identity"]
SHAPES = ["heads=none", "heads=1", "heads=3, key_dim=6, value_dim=10, conv=3"]


def make(options: str = "", dim: int = DIM, seed: int = 0) -> Primitive:
    spec = f"1*mh-linear-attention[{options}]" if options else "1*mh-linear-attention"
    return architectures.build(spec, vocab_size=5, dim=dim, max_len=80, seed=seed).layers()[0][1].double()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perturbed(layer: Primitive) -> Primitive:
    with torch.no_grad():
        for j, p in enumerate(layer.parameters()):
            p.add_(0.1 * noise(*p.shape, seed=j))
    return layer


def convolved(z: Tensor, weight: Tensor | None) -> Tensor:
    """The short convolution and silu, where there are taps."""
    if weight is None:
        return z
    taps = weight.shape[1]
    rows = []
    for t in range(z.shape[1]):
        y = sum(weight[:, taps - 1 - back] * z[:, t - back] for back in range(min(taps, t + 1)))
        rows.append(y * torch.sigmoid(y))
    return torch.stack(rows, dim=1)


def feature(layer: Primitive, z: Tensor, side: str, head: int) -> Tensor:
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


def naive(layer: Primitive, x: Tensor) -> Tensor:
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
                o = o * torch.rsqrt(o.square().mean(-1, keepdim=True) + 1e-6) * layer.norm
            else:
                o = o / ((fq[:, t] * z).sum(-1, keepdim=True) + 1e-6)
            rows.append(o)
        heads.append(torch.stack(rows, dim=1))
    return torch.cat(heads, dim=-1) @ layer.out.weight.T


def error(y: Tensor, expected: Tensor) -> float:
    return float(((y - expected).abs().max() / expected.abs().max()).detach())


@pytest.mark.parametrize("feature_map", MAPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_is_the_recurrence(feature_map: str, shape: str) -> None:
    layer = perturbed(make(f"{shape}, feature_map={feature_map}"))
    x = noise(2, 67, DIM)
    expected = naive(layer, x)
    for length in (1, 5, 37, 67):
        assert error(layer(x[:, :length]), expected[:, :length]) < 1e-9
    assert error(layer.float()(x.float()).double(), expected) < 1e-4


@pytest.mark.parametrize("feature_map", MAPS)
def test_the_gradient_is_that_of_the_recurrence(feature_map: str) -> None:
    layer = perturbed(make(f"feature_map={feature_map}, conv=2"))
    x, weight = noise(1, 35, DIM), noise(1, 35, DIM, seed=3)
    parameters = list(layer.parameters())
    ours = torch.autograd.grad((layer(x) * weight).sum(), parameters)
    for a, b in zip(ours, torch.autograd.grad((naive(layer, x) * weight).sum(), parameters), strict=True):
        assert error(a, b) < 1e-8


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
    assert sum(p.numel() for p in layer.parameters()) == parameters
    assert layer.measure_state(40)["recurrent"] == state and layer.nominal_state(40) == nominal
    assert layer.measure_state(40)["conv"] == (3 * 384 if "conv" in options else 0)


@pytest.mark.parametrize("feature_map", MAPS)
def test_no_input_breaks_the_values_or_the_gradient(feature_map: str) -> None:
    layer = make(f"feature_map={feature_map}").float()
    for size in (0.0, 1e-6, 1e3):
        x = (size * noise(2, 40, DIM)).float().requires_grad_()
        y = layer(x)
        gradients = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
        assert all(bool(torch.isfinite(z).all()) for z in (y, *gradients))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("heads=5", "not divisible by heads 5"),
        ("heads=0", "heads=0 must be at least 1"),
        ("key_dim=0", "key_dim=0 must be at least 1"),
        ("conv=-1", "conv=-1 must be at least 0"),
        ("feature_map=gelu", "expected elu or relu or hedgehog or elementwise-product or identity"),
    ],
)
def test_what_cannot_be_built_is_refused(options: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(options)
