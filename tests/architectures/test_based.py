"""Based and ReBased against the sum over earlier tokens and against their features, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import architectures
from architectures.primitive import Primitive

DIM = 32
NAMES = ["based", "rebased"]


def make(name: str, options: str = "", dim: int = DIM) -> Primitive:
    spec = f"1*{name}[{options}]" if options else f"1*{name}"
    return architectures.build(spec, vocab_size=5, dim=dim, max_len=160, seed=0).layers()[0][1].double()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perturbed(layer: Primitive) -> Primitive:
    with torch.no_grad():
        for j, p in enumerate(layer.parameters()):
            p.add_(0.1 * noise(*p.shape, seed=j))
    return layer


def vectors(layer: Primitive, x: Tensor) -> list[Tensor]:
    """q, k, v (B, T, H, .) before the kernel."""
    found = []
    for name in ("query", "key", "value"):
        z = x @ getattr(layer, name).weight.T
        weight = getattr(layer, f"{name}_conv").weight
        if weight is not None:
            taps = weight.shape[1]
            padded = torch.cat([torch.zeros(z.shape[0], taps - 1, z.shape[2], dtype=z.dtype), z], dim=1)
            z = sum(weight[:, i] * padded[:, i : i + x.shape[1]] for i in range(taps))
            z = z * torch.sigmoid(z)
        z = z.unflatten(-1, (layer.heads, -1))
        if name != "value" and layer.config.kernel == "square":
            mean, variance = z.mean(-1, keepdim=True), z.var(-1, correction=0, keepdim=True)
            z = (z - mean) / torch.sqrt(variance + 1e-5) * layer.norm_weight + layer.norm_bias
        found.append(z)
    return found


def naive(layer: Primitive, x: Tensor) -> Tensor:
    """Each token's weights over the earlier ones, in pairs."""
    q, k, v = vectors(layer, x)
    rows = []
    for t in range(x.shape[1]):
        z = torch.einsum("bhk,bshk->bsh", q[:, t], k[:, : t + 1]) / math.sqrt(layer.key_dim)
        p = 1 + z + z**2 / 2 if layer.config.kernel == "taylor" else z**2
        eps = 1e-12 if layer.config.kernel == "taylor" else 1e-6
        rows.append((p[..., None] * v[:, : t + 1]).sum(1) / (p.sum(1)[..., None] + eps))
    return torch.stack(rows, dim=1).flatten(-2) @ layer.out.weight.T


def features(layer: Primitive, z: Tensor) -> Tensor:
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


def error(y: Tensor, expected: Tensor) -> float:
    return float(((y - expected).abs().max() / expected.abs().max()).detach())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", ["", "heads=1, key_dim=3, conv=3", "heads=4, key_dim=1, value_dim=5"])
def test_forward_is_the_sum_over_earlier_tokens(name: str, options: str) -> None:
    layer = perturbed(make(name, options))
    x = noise(2, 131, DIM)
    expected = naive(layer, x)
    for length in (1, 5, 64, 67, 131):
        assert error(layer(x[:, :length]), expected[:, :length]) < 1e-9
    assert error(layer.float()(x.float()).double(), expected) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_the_sum(name: str) -> None:
    layer = perturbed(make(name, "key_dim=5, conv=2"))
    x, weight = noise(1, 70, DIM), noise(1, 70, DIM, seed=3)
    parameters = list(layer.parameters())
    ours = torch.autograd.grad((layer(x) * weight).sum(), parameters)
    for a, b in zip(ours, torch.autograd.grad((naive(layer, x) * weight).sum(), parameters), strict=True):
        assert error(a, b) < 1e-8


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cut", [1, 70])
def test_the_state_is_the_sum_of_features_and_values(name: str, cut: int) -> None:
    layer = perturbed(make(name, "key_dim=5"))
    x = noise(2, 71, DIM)
    q, k, v = vectors(layer, x)
    fq, fk, one = features(layer, q), features(layer, k), torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
    expected = torch.einsum("bthf,bthv->bhfv", fk, one)
    _, state = layer.prefill(x[:, :cut], layer.init_state(2))
    _, state = layer.prefill(x[:, cut:-1], state) if cut < 70 else (None, state)
    y, state = layer.step(x[:, -1], state)
    torch.testing.assert_close(state[0], expected, rtol=0, atol=1e-11)
    o = torch.einsum("bhf,bhfv->bhv", fq[:, -1], expected)
    assert error(y, (o[..., :-1] / (o[..., -1:] + layer.eps)).flatten(-2) @ layer.out.weight.T) < 1e-9


def test_state_and_parameters_at_width_128() -> None:
    based, rebased = make("based", dim=128), make("rebased", dim=128)
    assert based.features == 153 and rebased.features == 136
    assert based.measure_state(40)["total"] == based.nominal_state(40) == 20_808 == 8 * 153 * 17
    assert rebased.measure_state(40)["total"] == 8 * 136 * 17
    assert sum(p.numel() for p in based.parameters()) == 4 * 128**2
    assert sum(p.numel() for p in rebased.parameters()) == 4 * 128**2 + 32
    assert make("based", "heads=4, key_dim=8", dim=128).measure_state(9)["total"] == 4 * 45 * 33


def test_the_norm_starts_as_one_that_changes_nothing_more() -> None:
    layer = make("rebased")
    assert torch.equal(layer.norm_weight, torch.ones(16).double()) and not layer.norm_bias.any()


@pytest.mark.parametrize("name", NAMES)
def test_no_input_breaks_the_values_or_the_gradient(name: str) -> None:
    layer = make(name).float()
    for size in (0.0, 1e-6, 1e3):
        x = (size * noise(2, 70, DIM)).float().requires_grad_()
        y = layer(x)
        gradients = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
        assert all(bool(torch.isfinite(z).all()) for z in (y, *gradients))


def test_autocast_rounds_nothing_of_the_sums() -> None:
    layer = make("based").float()
    tokens, _ = layer.write(noise(1, 70, DIM).float(), layer.init_state(1)[1:], None)
    s = layer.init_state(1)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer.recur(tokens, s)
    assert all(torch.equal(a, b) for a, b in zip(low, layer.recur(tokens, s), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("key_dim=0", "key_dim=0 must be at least 1"),
        ("heads=5", "not divisible by heads 5"),
        ("conv=-1", "conv=-1 must be at least 0"),
        ("kernel=cube", "expected taylor or square"),
    ],
)
def test_what_cannot_be_built_is_refused(options: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make("based", options)
