"""Gated DeltaProduct against its equations, step by step of a token; the contract tests cover the rest."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

import architectures

DIM = 32


def make(options: str = "", dim: int = DIM, seed: int = 0, name: str = "gated-delta-product") -> Any:
    model = architectures.build(f"1*{name}{options}", vocab_size=5, dim=dim, max_len=80, seed=seed)
    return model.layers()[0][1].double()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moved(layer: Any) -> Any:
    """Every parameter away from where it starts."""
    with torch.no_grad():
        for j, p in enumerate(layer.parameters()):
            p.add_(0.3 * noise(*p.shape, seed=j))
    return layer


def convolved(z: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return z
    taps = weight.shape[1]
    y = torch.zeros_like(z)
    for t in range(z.shape[1]):
        for back in range(min(taps, t + 1)):
            y[:, t] += weight[:, taps - 1 - back] * z[:, t - back]
    return y * torch.sigmoid(y)


def naive(layer: Any, x: Tensor) -> Tensor:
    """The layer from its parameters: for each token the decay, then n overwrites, then the reading."""
    heads, key, value, n = layer.heads, layer.key_dim, layer.value_dim, layer.config.substeps
    z = convolved(x @ layer.project.weight.T, layer.conv.weight)
    q, k, v = z.split([heads * key, n * heads * key, n * heads * value], dim=-1)
    q, k = q.reshape(*x.shape[:2], heads, key), k.reshape(*x.shape[:2], n, heads, key)
    q, k = (u / torch.sqrt((u * u).sum(-1, keepdim=True) + 1e-6) for u in (q, k))
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
        o = (s * q[:, t, ..., None]).sum(-2) / math.sqrt(key)
        o = o / torch.sqrt((o * o).mean(-1, keepdim=True) + 1e-6) * layer.norm
        rows.append((o.flatten(1) * gate[:, t] * torch.sigmoid(gate[:, t])) @ layer.out.weight.T)
    return torch.stack(rows, dim=1)


OPTIONS = [
    "",
    "[substeps=1, conv=0]",
    "[substeps=3, forget=false]",
    "[substeps=4, negative_eigenvalues=false, key_dim=8, value_dim=24, conv=2]",
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 37, 67])
def test_forward_is_the_recurrence(options: str, length: int) -> None:
    layer = moved(make(options))
    x = noise(2, length, DIM)
    expected = naive(layer, x).detach()
    scale = float(expected.abs().max())
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-10 * scale)
    low = layer.float()(x.float())
    torch.testing.assert_close(low.double(), expected, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_gradient_is_that_of_the_recurrence(options: str) -> None:
    layer = moved(make(options))
    x, weight, parameters = noise(2, 23, DIM), noise(2, 23, DIM, seed=5), list(layer.parameters())
    ours = torch.autograd.grad((layer(x) * weight).sum(), parameters)
    theirs = torch.autograd.grad((naive(layer, x) * weight).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9 * float(b.abs().max()))


@pytest.mark.parametrize("options", OPTIONS)
def test_steps_equal_forward_and_prefill_continues(options: str) -> None:
    layer = moved(make(options))
    x, state, rows = noise(2, 41, DIM), layer.init_state(2), []
    y, middle = layer.prefill(x[:, :17], state)
    for t in range(41):
        row, state = layer.step(x[:, t], state)
        rows.append(row)
    torch.testing.assert_close(torch.stack(rows, dim=1), layer(x), rtol=0, atol=1e-11)
    z, last = layer.prefill(x[:, 17:], middle)
    torch.testing.assert_close(torch.cat([y, z], dim=1), layer(x), rtol=0, atol=1e-11)
    for a, b in zip(last, state, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_one_step_a_token_is_a_gated_delta_net() -> None:
    base = moved(make("[negative_eigenvalues=true]", name="gated-delta-net"))
    layer = make("[substeps=1]")
    layer.load_state_dict(base.state_dict())
    x = noise(2, 37, DIM)
    torch.testing.assert_close(layer(x), base(x), rtol=0, atol=1e-12)


def test_two_reflections_make_a_rotation() -> None:
    # Writing nothing with strength 2 reflects; two reflections turn by twice the angle between the keys.
    layer = make("[heads=1, key_dim=2, value_dim=2, conv=0, forget=false]")
    s, (one, two) = torch.eye(2).double()[None, None], (torch.tensor([1.0, 0.0]), torch.tensor([0.8, 0.6]))
    k = torch.stack([one, two]).double()[None, None, :, None]  # (B, T, n, H, K)
    from architectures.families.matrix_memory import Tokens

    tokens = Tokens(q=k[:, :, 0], k=2 * k, v=torch.zeros_like(k), y=k)
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
    assert not any(n.startswith(("dt", "log_rate")) for n, _ in make("[forget=false]").named_parameters())


@pytest.mark.parametrize("n", [1, 2, 3])
def test_sizes_are_as_published(n: int) -> None:
    layer = make(f"[substeps={n}]", dim=128)
    sizes = layer.measure_state(40)
    assert (sizes["recurrent"], sizes["conv"]) == (2048, 3 * (128 + 2 * n * 128))
    assert n != 2 or sizes["total"] == 3968
    d, heads = 128, 8
    wide = (1 + 2 * n) * d
    assert sum(p.numel() for p in layer.parameters()) == (
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
    expected, x = naive(layer, x).detach(), x.float().requires_grad_()
    y = layer.float()(x)
    # With no strength at all nothing is written, and the norm divides rounding by its eps.
    if strength == 0:
        torch.testing.assert_close(y.double(), expected, rtol=0, atol=2e-4 * float(expected.abs().max()))
    gradients = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
    assert all(bool(torch.isfinite(z).all()) for z in (y, *gradients))


@pytest.mark.parametrize(
    ("options", "message"),
    [("substeps=0", "substeps=0 must be at least 1"), ("conv=-1", "at least 0"), ("heads=5", "choose heads")],
)
def test_what_cannot_be_built_is_refused(options: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(f"[{options}]")
