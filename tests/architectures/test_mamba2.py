"""Mamba-2 against its definition, token by token in float64; the contract tests cover the rest."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.functional.delta import delta_rule, delta_step
from architectures.functional.value_residual import FIRST, mix_key
from architectures.primitive import Context
from tests.architectures.helpers import (
    agree,
    close,
    convolved,
    finite,
    layer_of,
    noise,
    parameters_in,
    rms,
    silu,
    unroll,
)

DIM = 32
make = partial(layer_of, "mamba2")


def naive(layer: Any, u: Tensor) -> Tensor:
    """The layer in words of the paper: H systems of V channels, with a state V x N."""
    heads, width, n, inner = layer.heads, layer.value_dim, layer.key_dim, layer.inner
    z, x, b, c, dt = (u @ layer.project.weight.T).split([inner, inner, n, n, heads], dim=-1)
    xbc = torch.cat([x, b, c], dim=-1)
    state = torch.zeros(u.shape[0], heads, width, n, dtype=u.dtype)
    xbc, rows = convolved(xbc, layer.conv.weight, layer.conv.bias), []
    for t in range(u.shape[1]):
        x, b, c = xbc[:, t].split([inner, n, n], dim=-1)
        x = x.unflatten(-1, (heads, width))
        delta = torch.log1p(torch.exp(dt[:, t] + layer.dt_bias))
        a = torch.exp(-delta * layer.log_rate.exp())
        written = torch.einsum("bhp,bn->bhpn", delta[..., None] * x, b)
        state = a[..., None, None] * state + written
        y = torch.einsum("bhpn,bn->bhp", state, c) + layer.skip[:, None] * x
        y = rms(y.flatten(1) * silu(z[:, t])) * layer.norm.weight
        rows.append(y @ layer.out.weight.T)
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("options", ["", "conv=0", "d_state=5, head_dim=8", "expand=1, conv=2, head_dim=4"])
@pytest.mark.parametrize("length", [1, 5, 37, 67])
def test_forward_and_its_gradient_are_those_of_the_recurrence(options: str, length: int) -> None:
    agree(make(options, away=0.1), naive, noise(2, length, DIM))


@pytest.mark.parametrize("options", ["conv=0", "conv=1", "head_dim=8"])
def test_steps_equal_forward_with_other_options(options: str) -> None:
    layer = make(options, away=0.1)
    x = noise(2, 21, DIM)
    close(unroll(layer, x)[0], layer(x), 1e-12)


def test_one_head_of_keys_serves_all_heads_of_values() -> None:
    q, k, v = noise(2, 37, 1, 4), noise(2, 37, 1, 4, seed=2), noise(2, 37, 3, 5, seed=3)
    wide_q, wide_k = q.expand(2, 37, 3, 4), k.expand(2, 37, 3, 4)
    for log_a in (None, -noise(2, 37, 3, seed=4).square()):
        for a, b in zip(delta_rule(q, k, v, log_a), delta_rule(wide_q, wide_k, v, log_a), strict=True):
            close(a, b, 1e-12)
        state, now = noise(2, 3, 4, 5, seed=6), None if log_a is None else log_a[:, 0]
        pairs = zip(
            delta_step(q[:, 0], k[:, 0], v[:, 0], now, state),
            delta_step(wide_q[:, 0], wide_k[:, 0], v[:, 0], now, state),
            strict=True,
        )
        for a, b in pairs:
            close(a, b, 1e-12)


def test_gated_linear_attention_with_one_decay_a_head_is_the_core() -> None:
    layer = make(away=0.1)
    x = noise(2, 37, DIM)
    tokens, _ = layer.write(x, layer.init_state(2)[1:], None)
    o, s = layer.recur(layer.feed(tokens), layer.init_state(2)[0])
    delta = tokens.kept[0]
    shape = (2, 37, layer.heads, layer.key_dim)
    log_a = tokens.log_a[..., None].expand(shape).clamp(min=-5)
    k = (delta[..., None] * tokens.k).expand(shape)
    wide, other = delta_rule(tokens.q.expand(shape), k, tokens.v, log_a)
    assert tokens.log_a.min() > -5
    close(wide, o, 1e-11)
    close(other, s, 1e-11)


def test_the_start_is_that_of_the_public_code() -> None:
    layer = make("head_dim=1", dim=2048)
    rate, step = layer.log_rate.detach().exp(), torch.log1p(torch.exp(layer.dt_bias.detach()))
    assert rate.min() >= 1 - 1e-6 and rate.max() <= 16 + 1e-5 and abs(float(rate.mean()) - 8.5) < 0.3
    assert step.min() >= 1e-3 - 1e-6 and step.max() <= 0.1 + 1e-5
    assert abs(float(step.log().mean()) - 0.5 * float(torch.tensor([1e-3, 1e-1]).log().sum())) < 0.1
    assert bool((layer.skip == 1).all()) and bool((layer.norm.weight == 1).all())
    hints = layer.hints()
    assert all(not hints[n].decay for n in ("log_rate", "dt_bias", "skip", "conv.weight"))


@pytest.mark.parametrize("rate", [-30.0, 30.0])
@pytest.mark.parametrize("bias", [-50.0, 50.0])
def test_no_decay_breaks_the_values_or_the_gradient(rate: float, bias: float) -> None:
    layer = make().float()
    with torch.no_grad():
        layer.log_rate.fill_(rate)
        layer.dt_bias.fill_(bias)
    finite(layer, noise(2, 67, DIM).float())


def test_values_of_the_first_layer_are_mixed_in_before_the_step_and_the_skip() -> None:
    layer = make()
    layer.index = 1
    x, first = noise(1, 5, DIM), noise(1, 5, 1, 64, seed=3)
    seen: list[Tensor] = []
    layer.norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    ctx = Context(shared={mix_key(1): torch.tensor([0.0, 1.0]).double(), FIRST: first})
    layer(x, ctx)
    tokens, _ = layer.write(x, layer.init_state(1)[1:], None)
    tokens.v = first
    o, _ = layer.recur(layer.feed(tokens), layer.init_state(1)[0])
    y = (o + first).flatten(-2) * F.silu(tokens.kept[1])
    close(seen[0], y, 1e-12)


@pytest.mark.parametrize(
    ("dim", "heads"), [(16, 1), (32, 1), (48, 3), (80, 5), (96, 3), (128, 4), (144, 9), (256, 8)]
)
def test_heads_divide_any_width(dim: int, heads: int) -> None:
    layer = make(dim=dim)
    assert layer.heads == heads and layer.heads * layer.value_dim == 2 * dim


def test_parameters_and_state_at_width_128() -> None:
    layer, d, n, inner, heads = make(dim=128), 128, 64, 256, 4
    count = d * (2 * inner + 2 * n + heads) + 5 * (inner + 2 * n) + 3 * heads + inner + inner * d
    assert parameters_in(layer) == count
    sizes = layer.measure_state(40)
    assert sizes == {"recurrent": 16_384, "conv": 3 * 384, "growing": 0, "total": 17_536}
    assert make("conv=0, d_state=16", dim=128).measure_state(40)["total"] == 4096
