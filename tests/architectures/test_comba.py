"""Comba against its equations, token by token; the contract tests cover the rest."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from architectures.functional.delta import delta_rule
from architectures.registry import get
from tests.architectures.helpers import agree, close, convolved, layer_of, noise, parameters_in, rms, unit

DIM = 32
make = partial(layer_of, "comba")
OPTIONS = ["", "conv=0, correction=0.02", "key_dim=8, value_dim=24, conv=2"]


def naive(layer: Any, x: Tensor) -> Tensor:
    """The layer from its parameters; the state is asked before it decays."""
    heads, key, value = layer.heads, layer.key_dim, layer.value_dim
    z = convolved(x @ layer.project.weight.T, layer.conv.weight)
    q, k, v = z.split([heads * key, heads * key, heads * value], dim=-1)
    q, k = (unit(u.reshape(*x.shape[:2], heads, key)) for u in (q, k))
    v = v.reshape(*x.shape[:2], heads, value)
    p = k / (1 + torch.exp(-layer.feedback.reshape(heads, 1)))
    q = (q - layer.correction.reshape(heads, 1) * p) / key**0.5
    a = torch.exp(-layer.log_rate.exp() * softplus(x @ layer.dt.weight.T + layer.dt_bias))[..., None, None]
    b = torch.sigmoid(x @ layer.strength.weight.T)[..., None]
    g = torch.sigmoid(x @ layer.gate.weight.T)
    s = x.new_zeros(x.shape[0], heads, key, value)
    rows = []
    for t in range(x.shape[1]):
        error = v[:, t] - (s * p[:, t, ..., None]).sum(-2)
        s = a[:, t] * s + k[:, t, ..., None] * (b[:, t] * error)[..., None, :]
        o = rms((s * q[:, t, ..., None]).sum(-2)) * layer.norm
        rows.append((o.flatten(1) * g[:, t]) @ layer.out.weight.T)
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 37, 67])
def test_forward_and_its_gradient_are_those_of_the_recurrence(options: str, length: int) -> None:
    slope = 1e-9 if length == 37 else None
    agree(make(options, away=0.3), naive, noise(2, length, DIM), slope=slope)


def written(layer: Any, x: Tensor) -> Any:
    return layer.write(x, layer.init_carry(x, x.shape[0]), None)[0]


def test_without_decay_and_corrections_it_is_deltanet() -> None:
    layer, plain, x = make(away=0.3), layer_of("delta-net"), noise(2, 37, DIM)
    plain.load_state_dict(layer.state_dict(), strict=False)
    with torch.no_grad():
        layer.log_rate.fill_(-float("inf"))
        layer.feedback.fill_(float("inf"))
        layer.correction.zero_()
    ours, theirs = written(layer, x), written(plain, x)
    for a, b in zip(layer.recur(ours, None), plain.recur(theirs, None), strict=True):
        close(a, b, 1e-12)


def test_it_is_gated_deltanet_only_where_the_decayed_state_is_asked() -> None:
    layer, gated, x = make(away=0.3), layer_of("gated-delta-net"), noise(2, 37, DIM)
    gated.load_state_dict(layer.state_dict(), strict=False)
    with torch.no_grad():
        layer.feedback.fill_(float("inf"))
        layer.correction.zero_()
    z, expected = written(layer, x), gated.recur(written(gated, x), None)[0]
    assert not torch.allclose(layer.recur(z, None)[0], expected, rtol=1e-2)
    close(delta_rule(z.q, z.k, z.v, z.log_a, y=z.log_a.exp()[..., None] * z.y)[0], expected, 1e-12)


def test_the_corrections_start_as_published() -> None:
    layer = make()
    assert bool((layer.feedback == 1).all()) and bool((layer.correction == 1).all())
    close(make("correction=0.02").correction.detach(), torch.full((2,), 0.02).double(), 1e-7)
    with pytest.raises(ValueError, match="correction=-1.0 must be at least 0"):
        get("comba").config({"correction": -1.0})


def test_sizes_at_width_128() -> None:
    layer, d, heads = make(dim=128), 128, 8
    sizes = layer.measure_state(40)
    assert (sizes["recurrent"], sizes["conv"]) == (2048, 1152)
    assert parameters_in(layer) == 5 * d * d + 2 * heads * d + 4 * 3 * d + 4 * heads + 16
    assert set(layer.undecayed) < set(layer.hints())
