"""KDA and GDN-2 against their equations, token by token; the contract tests cover the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

import architectures
from architectures.functional.delta import delta_rule

NAMES = ["kda", "gdn2"]
DIM = 32


def make(name: str, options: str = "", dim: int = DIM, seed: int = 0) -> Any:
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
    """The layer from its parameters, with the transition of a token written out as a matrix."""
    heads, key, value, config = layer.heads, layer.key_dim, layer.value_dim, layer.config
    z = convolved(x @ layer.project.weight.T, layer.conv.weight)
    q, k, v = z.split([heads * key, heads * key, heads * value], dim=-1)
    q, k = (u.reshape(*x.shape[:2], heads, key) for u in (q, k))
    q, k = (u / torch.sqrt((u * u).sum(-1, keepdim=True) + 1e-6) for u in (q, k))
    v = v.reshape(*x.shape[:2], heads, value)
    f = x @ layer.decay_in.weight.T @ layer.decay_out.weight.T + layer.dt_bias
    f, rate = f.reshape(*x.shape[:2], heads, key), layer.log_rate.exp().reshape(heads, 1)
    if config.gate == "bounded":
        log_a = -5 * torch.sigmoid(rate * f)
    else:
        log_a = torch.maximum(-rate * softplus(f), torch.tensor(-5.0).double())
    double = 2 if config.negative_eigenvalues else 1
    if layer.name == "kda":
        erase = double * torch.sigmoid(x @ layer.strength.weight.T)[..., None].expand_as(k)
        admit = erase[..., :1].expand_as(v)
    else:
        erase = double * torch.sigmoid(x @ layer.erase.weight.T).reshape(k.shape)
        admit = torch.sigmoid(x @ layer.admit.weight.T).reshape(v.shape)
    g = torch.sigmoid(x @ layer.gate_in.weight.T @ layer.gate_out.weight.T + layer.gate_out.bias)
    s = x.new_zeros(x.shape[0], heads, key, value)
    rows = []
    for t in range(x.shape[1]):
        k_t = k[:, t]
        transition = torch.eye(key).double() - k_t[..., :, None] * (erase[:, t] * k_t)[..., None, :]
        s = transition @ (log_a[:, t].exp()[..., None] * s) + k_t[..., None] * (admit * v)[:, t, :, None]
        o = (s * q[:, t, ..., None]).sum(-2) / key**0.5
        o = o / torch.sqrt((o * o).mean(-1, keepdim=True) + 1e-6) * layer.norm
        rows.append((o.flatten(1) * g[:, t]) @ layer.out.weight.T)
    return torch.stack(rows, dim=1)


OPTIONS = ["", "[gate=bounded, conv=0]", "[negative_eigenvalues=true, key_dim=8, value_dim=24, conv=2]"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 37, 67])
def test_forward_is_the_recurrence(name: str, options: str, length: int) -> None:
    layer = moved(make(name, options))
    x = noise(2, length, DIM)
    expected = naive(layer, x)
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-10 * scale)
    low = layer.float()(x.float())
    torch.testing.assert_close(low.double(), expected, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", OPTIONS)
def test_the_gradient_is_that_of_the_recurrence(name: str, options: str) -> None:
    layer = moved(make(name, options))
    x, weight, parameters = noise(2, 23, DIM), noise(2, 23, DIM, seed=5), list(layer.parameters())
    ours = torch.autograd.grad((layer(x) * weight).sum(), parameters)
    theirs = torch.autograd.grad((naive(layer, x) * weight).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9 * float(b.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_the_gates_start_as_in_the_recipe(name: str) -> None:
    layer = make(name, dim=2048)
    rate, step = layer.log_rate.detach().exp(), softplus(layer.dt_bias.detach())
    assert layer.log_rate.shape == (128,) and rate.min() >= 1 and rate.max() <= 16 and rate.std() > 2
    assert layer.dt_bias.shape == (2048,) and step.min() >= 1e-3 - 1e-9 and step.max() <= 0.1 + 1e-9
    # Log-uniform: the median is the geometric mean of the ends.
    assert 0.006 < step.median() < 0.016
    bounded = make(name, "[gate=bounded]", dim=512)
    assert not bounded.log_rate.any()
    assert bool((layer.norm == 1).all())


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_as_published(name: str) -> None:
    layer = make(name, dim=128)
    sizes = layer.measure_state(40)
    assert (sizes["recurrent"], sizes["conv"], sizes["total"]) == (2048, 1152, 3200)
    d, heads, width = 128, 8, 16
    shared = 4 * d * d + 4 * 3 * d + 2 * (d * width + width * d) + d + d + heads + width
    own = heads * d if name == "kda" else 2 * d * d
    assert sum(p.numel() for p in layer.parameters()) == shared + own
    hints = layer.hints()
    assert {n for n, h in hints.items() if not h.decay} == {"log_rate", "dt_bias", "conv.weight"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gate", ["softplus", "bounded"])
@pytest.mark.parametrize("bias, rate", [(-80.0, 0.0), (80.0, 0.0), (3.0, 20.0), (0.0, -20.0), (-30.0, 20.0)])
def test_no_decay_breaks_values_or_gradients(name: str, gate: str, bias: float, rate: float) -> None:
    layer = make(name, f"[gate={gate}]")
    with torch.no_grad():
        layer.dt_bias.fill_(bias)
        layer.log_rate.fill_(rate)
    x = noise(2, 70, DIM)
    assert -5 <= layer.log_decay(x).min() and layer.log_decay(x).max() <= 0
    expected, x = naive(layer, x).detach(), x.float().requires_grad_()
    y = layer.float()(x)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    gradients = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
    assert all(bool(torch.isfinite(z).all()) for z in (y, *gradients))


def test_gdn2_with_equal_gates_is_kda() -> None:
    kda, gdn2 = moved(make("kda")), make("gdn2")
    gdn2.load_state_dict(kda.state_dict(), strict=False)
    with torch.no_grad():
        wide = kda.strength.weight.repeat_interleave(16, dim=0)
        gdn2.erase.weight.copy_(wide)
        gdn2.admit.weight.copy_(wide)
    x = noise(2, 37, DIM)
    torch.testing.assert_close(gdn2(x), kda(x), rtol=0, atol=1e-12)


def test_kda_with_one_decay_a_head_is_the_core_of_gated_deltanet() -> None:
    layer = moved(make("kda"))
    with torch.no_grad():
        layer.decay_out.weight.zero_()
        layer.dt_bias.copy_(noise(2, 1).expand(2, 16).flatten())
    x = noise(2, 37, DIM)
    tokens, _ = layer.write(x, layer.init_carry(x, 2), None)
    assert tokens.log_a.min() < -0.1
    tied = delta_rule(tokens.q, tokens.k, tokens.v, tokens.log_a[..., 0], y=tokens.y)
    for a, b in zip(layer.recur(tokens, layer.init_state(2)[0]), tied, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_negative_eigenvalues_double_what_is_erased(name: str) -> None:
    once, twice = make(name), make(name, "[negative_eigenvalues=true]")
    x = noise(1, 5, DIM)
    a, b = (m.write(x, m.init_carry(x, 1), None)[0] for m in (once, twice))
    if name == "kda":
        torch.testing.assert_close(b.k, 2 * a.k)
    else:
        torch.testing.assert_close(b.y, 2 * a.y)
        torch.testing.assert_close(b.v, a.v)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", OPTIONS)
def test_steps_equal_forward(name: str, options: str) -> None:
    layer = moved(make(name, options))
    x, state, rows = noise(2, 21, DIM), layer.init_state(2), []
    for t in range(21):
        row, state = layer.step(x[:, t], state)
        rows.append(row)
    torch.testing.assert_close(torch.stack(rows, dim=1), layer(x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("gate=relu", "softplus, bounded"),
        ("conv=-1", "at least 0"),
        ("heads=0", "at least 1"),
        ("heads=5", "choose heads"),
    ],
)
def test_what_cannot_be_built_is_refused(name: str, options: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(name, f"[{options}]")
