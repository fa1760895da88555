"""Preconditioned delta rules against their equations, token by token; the contract tests cover the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from architectures.registry import get
from tests.architectures.helpers import (
    agree,
    close,
    convolved,
    in_pieces,
    layer_of,
    noise,
    parameters_in,
    rms,
    silu,
    unit,
)

DIM = 32
BASES = {"precond-gdn": "gated-delta-net", "precond-kda": "kda"}
OPTIONS = ["", "squash=2, conv=0", "key_dim=8, value_dim=24, conv=2"]
CASES = [(name, options) for name in BASES for options in OPTIONS] + [("precond-kda", "gate=bounded")]


def naive(layer: Any, x: Tensor) -> Tensor:
    """The layer from its parameters, with one vector a head of what its keys have been."""
    heads, key, value = layer.heads, layer.key_dim, layer.value_dim
    z = convolved(x @ layer.project.weight.T, layer.conv.weight)
    q, k, v = z.split([heads * key, heads * key, heads * value], dim=-1)
    q, k = (unit(u.reshape(*x.shape[:2], heads, key)) for u in (q, k))
    v = v.reshape(*x.shape[:2], heads, value)
    b = torch.sigmoid(x @ layer.strength.weight.T)[..., None]
    if layer.name == "precond-gdn":
        log_a = -layer.log_rate.exp() * softplus(x @ layer.dt.weight.T + layer.dt_bias)
        a = log_a.exp()[..., None].expand_as(k)
        g = silu(x @ layer.gate.weight.T)
    else:
        f = x @ layer.decay_in.weight.T @ layer.decay_out.weight.T + layer.dt_bias
        f, rate = f.reshape(k.shape), layer.log_rate.exp().reshape(heads, 1)
        bounded = layer.config.gate == "bounded"
        a = (-5 * torch.sigmoid(rate * f) if bounded else (-rate * softplus(f)).clamp(min=-5)).exp()
        g = torch.sigmoid(x @ layer.gate_in.weight.T @ layer.gate_out.weight.T + layer.gate_out.bias)
    curvature = softplus(x @ layer.curvature_dt.weight.T + layer.curvature_bias)
    e = torch.exp(-layer.curvature_rate.exp() * curvature)[..., None]
    added = torch.sigmoid(x @ layer.curvature_strength.weight.T)[..., None] * k**2
    c, s = x.new_zeros(x.shape[0], heads, key), x.new_zeros(x.shape[0], heads, key, value)
    rows = []
    for t in range(x.shape[1]):
        c = e[:, t] * c + added[:, t]
        r = torch.log(c + 1e-6) - layer.centre.reshape(heads, 1)
        u = k[:, t] * layer.config.squash ** (-r / (1 + r.abs()))
        s = a[:, t, ..., None] * s
        error = b[:, t] * (v[:, t] - (s * k[:, t, ..., None]).sum(-2))
        s = s + u[..., None] * error[..., None, :]
        o = rms((s * q[:, t, ..., None]).sum(-2) / key**0.5) * layer.norm
        rows.append((o.flatten(1) * g[:, t]) @ layer.out.weight.T)
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("name, options", CASES)
@pytest.mark.parametrize("length", [1, 5, 37, 67])
def test_forward_and_its_gradient_are_those_of_the_recurrence(name: str, options: str, length: int) -> None:
    slope = 1e-9 if length == 37 else None
    agree(layer_of(name, options, away=0.3), naive, noise(2, length, DIM), slope=slope)


@pytest.mark.parametrize("name, base", BASES.items())
def test_without_a_squash_it_is_its_base_exactly(name: str, base: str) -> None:
    layer, plain, x = layer_of(name, "squash=1", away=0.3), layer_of(base), noise(2, 37, DIM)
    plain.load_state_dict(layer.state_dict(), strict=False)
    assert torch.equal(layer(x), plain(x))


@pytest.mark.parametrize("name", BASES)
def test_the_written_key_stays_within_the_squash(name: str) -> None:
    layer, x = layer_of(name, "squash=2", away=0.3), 3 * noise(2, 67, DIM)
    z, _ = layer.write(x, layer.init_carry(x, 2), None)
    b = torch.sigmoid(layer.strength(x))[..., None]
    k = z.y / z.log_a.exp().reshape(*z.log_a.shape[:3], -1)
    scale = (z.k / (b * k))[k.abs() > 1e-6]
    scale = scale.detach()
    assert scale.min() >= 0.5 and scale.max() <= 2 and scale.max() / scale.min() > 1.5
    # Channels that the keys have used are written less.
    late = (z.k / (b * k))[:, -1].detach()
    used = k.square().sum(1).detach()
    assert float(torch.corrcoef(torch.stack([late.flatten(), used.flatten()]))[0, 1]) < 0


@pytest.mark.parametrize("name", BASES)
def test_a_state_continues(name: str) -> None:
    layer, x = layer_of(name, away=0.3), noise(2, 40, DIM)
    y, state = in_pieces(layer, x, 7, 8, 29)
    whole, last = layer.prefill(x, layer.init_state(2))
    for a, b in zip((y, *state), (whole, *last), strict=True):
        close(a, b, 1e-11)


@pytest.mark.parametrize("name", BASES)
def test_a_squash_beyond_the_stable_range_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="squash=2.5 lets the state grow; choose at most 2"):
        get(name).config({"squash": 2.5})
    with pytest.raises(ValueError, match="squash=0.5 must be at least 1"):
        get(name).config({"squash": 0.5})


@pytest.mark.parametrize("name, base", BASES.items())
def test_sizes_and_the_start_are_as_published(name: str, base: str) -> None:
    layer, d, heads = layer_of(name, dim=128), 128, 8
    sizes = layer.measure_state(40)
    assert (sizes["recurrent"], sizes["conv"]) == (2048 + 128, 1152)
    assert parameters_in(layer) == parameters_in(layer_of(base, dim=128)) + 2 * heads * d + 3 * heads
    close(layer.centre.detach(), torch.full((heads,), -0.2).double(), 1e-7)
    wide = layer_of(name, dim=2048)
    rate, least = wide.curvature_rate.detach().exp(), 1 if name == "precond-kda" else 0
    assert least <= rate.min() < least + 1 and 14 < rate.max() <= 16
    assert set(layer.undecayed) < set(layer.hints())
