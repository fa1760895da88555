"""Titans with a linear memory against its equations, token by token; the contract tests cover the rest."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from architectures.functional.inner_batches import descend_with_momentum
from architectures.functional.momentum import momentum_rule
from tests.architectures.helpers import (
    agree,
    close,
    convolved,
    finite,
    in_pieces,
    layer_of,
    noise,
    parameters_in,
    rms,
    silu,
    unit,
)

DIM = 32
make = partial(layer_of, "titans-linear")
OPTIONS = ["", "conv=0, batch=5", "key_dim=8, value_dim=24, conv=2, batch=1", "batch=64"]


def naive(layer: Any, x: Tensor) -> Tensor:
    """The layer from its parameters, with the gradient of the loss of each token written out."""
    heads, key, value, size = layer.heads, layer.key_dim, layer.value_dim, layer.config.batch
    z = convolved(x @ layer.project.weight.T, layer.conv.weight)
    q, k, v = z.split([heads * key, heads * key, heads * value], dim=-1)
    q, k = (unit(u.reshape(*x.shape[:2], heads, key)) for u in (q, k))
    v = v.reshape(*x.shape[:2], heads, value)
    a = torch.exp(-layer.log_rate.exp() * softplus(x @ layer.dt.weight.T + layer.dt_bias))[..., None, None]
    m = torch.sigmoid(x @ layer.momentum.weight.T + layer.momentum.bias)[..., None, None]
    r = (1 - m) / size * torch.sigmoid(x @ layer.strength.weight.T)[..., None, None]
    s = u = x.new_zeros(x.shape[0], heads, key, value)
    rows: list[Tensor] = []
    for t in range(x.shape[1]):
        if t % size == 0:
            start = s
        k_t = k[:, t, ..., None]
        u = m[:, t] * u + r[:, t] * k_t * ((start * k_t).sum(-2) - v[:, t])[..., None, :]
        s = a[:, t] * s - u
        o = rms((s * q[:, t, ..., None]).sum(-2)) * layer.norm
        rows.append((o.flatten(1) * silu(x[:, t] @ layer.gate.weight.T)) @ layer.out.weight.T)
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 37])
def test_forward_and_its_gradient_are_those_of_the_recurrence(options: str, length: int) -> None:
    slope = 1e-8 if length == 37 else None
    agree(make(options, away=0.3), naive, noise(2, length, DIM), slope=slope)


def test_in_batches_of_one_it_is_the_momentum_delta_rule_that_asks_with_the_key() -> None:
    shape = (2, 37, 3)
    q, k, v = noise(*shape, 4), unit(noise(*shape, 4, seed=2)), noise(*shape, 5, seed=3)
    log_a, log_m = -noise(*shape, seed=4).abs(), -noise(*shape, seed=5).abs()
    rate, zeros = noise(*shape, seed=6).sigmoid(), torch.zeros(2, 3, 12, 5).double()
    o, last = descend_with_momentum(q, k, v, rate, log_a, log_m, zeros, 0, 1)
    one = torch.ones_like(rate)
    expected, state = momentum_rule(q, rate[..., None] * k, v, k, log_a, log_m, one)
    close(o, expected, 1e-11)
    close(last[:, :, :8], state, 1e-11)


@pytest.mark.parametrize("cuts", [(7, 8, 29), (16, 32), (1, 17, 18)])
def test_a_state_continues_inside_and_at_the_ends_of_batches(cuts: tuple[int, ...]) -> None:
    layer, x = make(away=0.3), noise(2, 40, DIM)
    y, state = in_pieces(layer, x, *cuts)
    whole, last = layer.prefill(x, layer.init_state(2))
    for a, b in zip((y, *state[:2]), (whole, *last[:2]), strict=True):
        close(a, b, 1e-11)
    assert state[2].shape == last[2].shape == (2, 40 % 16, 0)


def test_a_token_that_comes_again_and_again_is_learned_and_overshoots_nowhere() -> None:
    layer = make("conv=0")
    with torch.no_grad():
        layer.log_rate.fill_(-30)  # no decay
        layer.strength.weight.zero_()
        layer.momentum.weight.zero_()
    x = noise(1, 1, DIM).expand(1, 160, DIM)
    z, _ = layer.write(x, layer.init_carry(x, 1), None)
    z.q = z.k
    error = (layer.recur(z, layer.init_state(1)[0])[0] - z.v).norm(dim=-1)
    assert bool((error[:, 1:] <= error[:, :-1] + 1e-12).all())
    assert error[:, -1].max() < 0.02 * error[:, 0].max()


def test_loud_inputs_are_survived() -> None:
    finite(make().float(), 100 * noise(2, 70, DIM).float())


def test_sizes_at_width_128() -> None:
    layer, d, heads = make(dim=128), 128, 8
    sizes = layer.measure_state(40)
    assert (sizes["recurrent"], sizes["conv"]) == (3 * 2048, 1152)
    assert parameters_in(layer) == 5 * d * d + 4 * 3 * d + 3 * heads * d + 3 * heads + 16
    assert not layer.momentum.bias.any()
    assert set(layer.undecayed) < set(layer.hints())
