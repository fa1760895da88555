"""The gated Oja rule against its equation, token by token; the contract tests cover the rest."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

import architectures
from architectures.functional.delta import delta_rule
from architectures.primitive import Context
from tests.architectures.helpers import (
    agree,
    close,
    convolved,
    finite,
    in_pieces,
    layer_of,
    noise,
    parameters_in,
    random_tokens,
    rms,
    unit,
)

DIM = 32
make = partial(layer_of, "gated-oja")
OPTIONS = ["", "gate=bounded, conv=0", "negative_eigenvalues=true, key_dim=8, value_dim=24, conv=2"]


def naive(layer: Any, x: Tensor) -> Tensor:
    """The layer from its parameters, with the transition written out as a matrix on the right."""
    heads, key, value = layer.heads, layer.key_dim, layer.value_dim
    z = convolved(x @ layer.project.weight.T, layer.conv.weight)
    q, k, v = z.split([heads * key, heads * key, heads * value], dim=-1)
    q, k, v = (unit(u.reshape(*x.shape[:2], heads, -1)) for u in (q, k, v))
    f = x @ layer.decay_in.weight.T @ layer.decay_out.weight.T + layer.dt_bias
    f, rate = f.reshape(v.shape), layer.log_rate.exp().reshape(heads, 1)
    bounded = layer.config.gate == "bounded"
    a = (-5 * torch.sigmoid(rate * f) if bounded else (-rate * softplus(f)).clamp(min=-5)).exp()
    double = 2 if layer.config.negative_eigenvalues else 1
    b = double * torch.sigmoid(x @ layer.strength.weight.T)[..., None, None]
    g = torch.sigmoid(x @ layer.gate_in.weight.T @ layer.gate_out.weight.T + layer.gate_out.bias)
    s = x.new_zeros(x.shape[0], heads, key, value)
    rows = []
    for t in range(x.shape[1]):
        v_t = v[:, t, ..., None, :]
        erased = torch.eye(value).double() - b[:, t] * v_t.mT @ v_t
        s = (s * a[:, t, ..., None, :]) @ erased + b[:, t] * k[:, t, ..., None] @ v_t
        o = rms((s * q[:, t, ..., None]).sum(-2) / key**0.5) * layer.norm
        rows.append((o.flatten(1) * g[:, t]) @ layer.out.weight.T)
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 37, 67])
def test_forward_and_its_gradient_are_those_of_the_rule(options: str, length: int) -> None:
    slope = 1e-9 if length == 37 else None
    agree(make(options, away=0.3), naive, noise(2, length, DIM), slope=slope)


@pytest.mark.parametrize("options", OPTIONS)
def test_its_state_is_that_of_kda_with_keys_and_values_exchanged(options: str) -> None:
    layer, x = make(options, away=0.3), noise(2, 37, DIM)
    before, tail = layer.init_state(2)
    z = layer.feed(layer.write(x, (tail,), None)[0])
    _, last = layer.recur(z, before)
    close(last, delta_rule(z.v, z.kept * z.v, z.k, z.log_a, y=z.log_a.exp() * z.v)[1], 1e-12)


def test_a_state_continues() -> None:
    layer, x = make(away=0.3), noise(2, 40, DIM)
    y, state = in_pieces(layer, x, 7, 8, 29)
    whole, last = layer.prefill(x, layer.init_state(2))
    for a, b in zip((y, *state), (whole, *last), strict=True):
        close(a, b, 1e-11)


@pytest.mark.parametrize("bias, rate", [(80.0, 0.0), (3.0, 20.0), (0.0, -20.0), (-30.0, 20.0)])
def test_no_decay_breaks_values_or_gradients(bias: float, rate: float) -> None:
    layer = make("negative_eigenvalues=true")
    with torch.no_grad():
        layer.dt_bias.fill_(bias)
        layer.log_rate.fill_(rate)
    x = noise(2, 70, DIM)
    expected, y = naive(layer, x).detach(), finite(layer.float(), x.float())
    close(y, expected, 1e-4)


def test_values_of_another_layer_get_their_length_too() -> None:
    spec = "value-residual{gated-oja gated-oja}"
    model = architectures.build(spec, vocab_size=5, dim=DIM, max_len=32, seed=0).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    assert bool(torch.isfinite(model(random_tokens(2, 32))).all())
    layer = make()
    x = noise(1, 3, DIM)
    z, _ = layer.write(x, layer.init_carry(x, 1), Context())
    z.v = 100 * z.v
    assert layer.feed(z).v.square().sum(-1).max() <= 1


def test_sizes_at_width_128() -> None:
    layer = make(dim=128)
    sizes = layer.measure_state(40)
    assert (sizes["recurrent"], sizes["conv"]) == (2048, 1152)
    assert parameters_in(layer) == parameters_in(layer_of("kda", dim=128))
    assert make("key_dim=8, value_dim=24").init_state(3)[0].shape == (3, 2, 24, 8)
