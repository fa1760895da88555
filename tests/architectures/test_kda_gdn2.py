"""KDA and GDN-2 against their equations, token by token; the contract tests cover the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from architectures.functional.delta import delta_rule
from tests.architectures.helpers import (
    agree,
    close,
    convolved,
    finite,
    layer_of,
    noise,
    parameters_in,
    rms,
    unit,
    unroll,
)

NAMES = ["kda", "gdn2"]
DIM = 32


def naive(layer: Any, x: Tensor) -> Tensor:
    """The layer from its parameters, with the transition of a token written out as a matrix."""
    heads, key, value, config = layer.heads, layer.key_dim, layer.value_dim, layer.config
    z = convolved(x @ layer.project.weight.T, layer.conv.weight)
    q, k, v = z.split([heads * key, heads * key, heads * value], dim=-1)
    q, k = (unit(u.reshape(*x.shape[:2], heads, key)) for u in (q, k))
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
        o = rms((s * q[:, t, ..., None]).sum(-2) / key**0.5) * layer.norm
        rows.append((o.flatten(1) * g[:, t]) @ layer.out.weight.T)
    return torch.stack(rows, dim=1)


OPTIONS = ["", "gate=bounded, conv=0", "negative_eigenvalues=true, key_dim=8, value_dim=24, conv=2"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 23, 37, 67])
def test_forward_and_its_gradient_are_those_of_the_recurrence(name: str, options: str, length: int) -> None:
    slope = 1e-9 if length == 23 else None
    agree(layer_of(name, options, away=0.3), naive, noise(2, length, DIM), slope=slope)


@pytest.mark.parametrize("name", NAMES)
def test_the_gates_start_as_in_the_recipe(name: str) -> None:
    layer = layer_of(name, dim=2048)
    rate, step = layer.log_rate.detach().exp(), softplus(layer.dt_bias.detach())
    assert layer.log_rate.shape == (128,) and rate.min() >= 1 and rate.max() <= 16 and rate.std() > 2
    assert layer.dt_bias.shape == (2048,) and step.min() >= 1e-3 - 1e-9 and step.max() <= 0.1 + 1e-9
    # Log-uniform: the median is the geometric mean of the ends.
    assert 0.006 < step.median() < 0.016
    bounded = layer_of(name, "gate=bounded", dim=512)
    assert not bounded.log_rate.any()
    assert bool((layer.norm == 1).all())


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_as_published(name: str) -> None:
    layer = layer_of(name, dim=128)
    sizes = layer.measure_state(40)
    assert (sizes["recurrent"], sizes["conv"], sizes["total"]) == (2048, 1152, 3200)
    d, heads, width = 128, 8, 16
    shared = 4 * d * d + 4 * 3 * d + 2 * (d * width + width * d) + d + d + heads + width
    own = heads * d if name == "kda" else 2 * d * d
    assert parameters_in(layer) == shared + own
    hints = layer.hints()
    assert {n for n, h in hints.items() if not h.decay} == {"log_rate", "dt_bias", "conv.weight"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gate", ["softplus", "bounded"])
@pytest.mark.parametrize("bias, rate", [(-80.0, 0.0), (80.0, 0.0), (3.0, 20.0), (0.0, -20.0), (-30.0, 20.0)])
def test_no_decay_breaks_values_or_gradients(name: str, gate: str, bias: float, rate: float) -> None:
    layer = layer_of(name, f"gate={gate}")
    with torch.no_grad():
        layer.dt_bias.fill_(bias)
        layer.log_rate.fill_(rate)
    x = noise(2, 70, DIM)
    assert -5 <= layer.log_decay(x).min() and layer.log_decay(x).max() <= 0
    expected, y = naive(layer, x).detach(), finite(layer.float(), x.float())
    close(y, expected, 1e-4)


def test_gdn2_with_equal_gates_is_kda() -> None:
    kda, gdn2 = layer_of("kda", away=0.3), layer_of("gdn2")
    gdn2.load_state_dict(kda.state_dict(), strict=False)
    with torch.no_grad():
        wide = kda.strength.weight.repeat_interleave(16, dim=0)
        gdn2.erase.weight.copy_(wide)
        gdn2.admit.weight.copy_(wide)
    x = noise(2, 37, DIM)
    torch.testing.assert_close(gdn2(x), kda(x), rtol=0, atol=1e-12)


def test_kda_with_one_decay_a_head_is_the_core_of_gated_deltanet() -> None:
    layer = layer_of("kda", away=0.3)
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
    once, twice = layer_of(name), layer_of(name, "negative_eigenvalues=true")
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
    layer, x = layer_of(name, options, away=0.3), noise(2, 21, DIM)
    torch.testing.assert_close(unroll(layer, x)[0], layer(x), rtol=0, atol=1e-11)
