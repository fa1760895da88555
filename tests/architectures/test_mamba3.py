"""Mamba-3 against its definition, token by token in float64; the contract tests cover the rest."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.functional.delta import delta_rule
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
)

DIM = 32
make = partial(layer_of, "mamba3", max_len=4096)


def turning(options: str = "") -> Any:
    """Away from the start; larger steps, so that the angles turn visibly."""
    layer = make(options, away=0.1)
    with torch.no_grad():
        layer.dt_bias.add_(3)
    return layer


def turned(z: Tensor, phase: Tensor) -> Tensor:
    """z (B, H, N) with its first pairs turned by phase (B, H, A), as complex numbers."""
    count = phase.shape[-1]
    w = torch.complex(z[..., 0 : 2 * count : 2], z[..., 1 : 2 * count : 2])
    w = w * torch.polar(torch.ones_like(phase), phase)
    pairs = torch.stack([w.real, w.imag], dim=-1).flatten(-2)
    return torch.cat([pairs, z[..., 2 * count :]], dim=-1)


def naive(layer: Any, u: Tensor, values: Tensor | None = None) -> Tensor:
    """The trapezoidal recurrence, with the token before kept beside the state; `values` replace x."""
    heads, n, inner = layer.heads, layer.key_dim, layer.inner
    widths = [inner, inner + 2 * n, heads, heads, heads, layer.angles]
    z, xbc, dt, rate, trap, angle = (u @ layer.project.weight.T).split(widths, dim=-1)
    state = torch.zeros(u.shape[0], heads, n, layer.value_dim, dtype=u.dtype)
    last, phase, rows = torch.zeros_like(state), torch.zeros(u.shape[0], heads, layer.angles).double(), []
    xbc = convolved(xbc, layer.conv.weight, layer.conv.bias)
    for t in range(u.shape[1]):
        x, b, c = xbc[:, t].split([inner, n, n], dim=-1)
        x = x.unflatten(-1, (heads, -1)) if values is None else values[:, t]
        delta = torch.log1p(torch.exp(dt[:, t] + layer.dt_bias))
        w = rate[:, t]
        speed = torch.where(w >= 0, 1 + w, 1 / (1 - torch.where(w >= 0, 0.0, w))).clamp(min=1e-4)
        a, mix = torch.exp(-delta * speed)[..., None, None], torch.sigmoid(trap[:, t])
        phase = phase + delta[..., None] * (math.pi * torch.tanh(angle[:, t]))[:, None]
        b = turned((rms(b) * layer.key_norm.weight)[:, None] + layer.key_bias, phase)
        c = turned((rms(c) * layer.query_norm.weight)[:, None] + layer.query_bias, phase)
        write = b[..., None] * x[..., None, :]
        early, late = (mix * delta)[..., None, None], ((1 - mix) * delta)[..., None, None]
        state, last = a * state + late * a * last + early * write, write
        y = (state * c[..., None]).sum(-2) + layer.skip[:, None] * x
        rows.append((y.flatten(1) * silu(z[:, t])) @ layer.out.weight.T)
    return torch.stack(rows, dim=1)


OPTIONS = [
    "",
    "conv=4",
    "d_state=6, angles=3, head_dim=8",
    "d_state=5, angles=0, expand=1, head_dim=4, conv=2",
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 37, 67])
def test_forward_and_its_gradient_are_those_of_the_recurrence(options: str, length: int) -> None:
    agree(turning(options), naive, noise(2, length, DIM))


@pytest.mark.parametrize("options", OPTIONS)
def test_steps_and_pieces_equal_forward_with_other_options(options: str) -> None:
    layer = turning(options)
    x, state = noise(2, 45, DIM), layer.init_state(2)
    rows = []
    for t in range(9):
        row, state = layer.step(x[:, t], state)
        rows.append(row[:, None])
    for cut in (slice(9, 10), slice(10, 43), slice(43, 45)):
        row, state = layer.prefill(x[:, cut], state)
        rows.append(row)
    close(torch.cat(rows, dim=1), layer(x), 1e-11)


def test_a_lambda_of_one_without_angles_is_mamba_2_s_recurrence() -> None:
    layer = turning()
    inner, n, heads = layer.inner, layer.key_dim, layer.heads
    x = torch.cat([torch.ones(2, 67, 1).double(), noise(2, 67, DIM - 1)], dim=-1)
    with torch.no_grad():
        layer.project.weight[-layer.angles :] = 0
        layer.project.weight[-layer.angles - heads : -layer.angles] = torch.eye(DIM)[0] * 1e3
    _, u, dt, rate, _, _ = (x @ layer.project.weight.T).split(layer.widths, dim=-1)
    v, k, q = u.split([inner, n, n], dim=-1)
    v = v.unflatten(-1, (heads, -1))
    delta = torch.log1p(torch.exp(dt + layer.dt_bias))
    k = (rms(k) * layer.key_norm.weight)[:, :, None] + layer.key_bias
    q = (rms(q) * layer.query_norm.weight)[:, :, None] + layer.query_bias
    log_a = -delta * torch.where(rate >= 0, 1 + rate, 1 / (1 - rate))
    o, s = delta_rule(q, delta[..., None] * k, v, log_a)
    z = (x @ layer.project.weight.T)[..., :inner]
    y = ((o + layer.skip[:, None] * v).flatten(-2) * silu(z)) @ layer.out.weight.T
    out, state = layer.prefill(x, layer.init_state(2))
    close(out, y, 1e-11)
    close(state[0], s, 1e-11)


def test_the_angle_is_kept_within_one_turn_and_turns_on() -> None:
    layer = turning()
    with torch.no_grad():
        layer.project.weight[-layer.angles :].mul_(20)
        layer.dt_bias.add_(3)
    x, state = noise(1, 40, DIM), layer.init_state(1)
    x[..., 0] = x[..., 0].abs()
    for t in range(40):
        _, state = layer.step(x[:, t], state)
        assert 0 <= state[4].min() and state[4].max() <= 2 * math.pi
    whole = layer.prefill(x, layer.init_state(1))[1][4]
    close(torch.polar(torch.ones_like(whole), whole).real, torch.cos(state[4]), 1e-10)
    assert whole.std() > 0.1


def test_the_future_is_exactly_unseen_in_float32_although_a_token_is_written_by_the_next() -> None:
    layer = turning("conv=2").float()
    x = noise(2, 70, DIM).float().requires_grad_()
    y = layer(x)
    for cut in (1, 31, 32, 33, 63, 69):
        (gradient,) = torch.autograd.grad(y[:, :cut].square().sum(), x, retain_graph=True)
        assert not gradient[:, cut:].any() and gradient[:, cut - 1].any()


def test_the_start_is_that_of_the_public_code() -> None:
    layer = make("head_dim=1, d_state=4", dim=2048)
    step = torch.log1p(torch.exp(layer.dt_bias.detach()))
    assert step.min() >= 1e-3 - 1e-6 and step.max() <= 0.1 + 1e-5
    assert abs(float(step.log().mean()) - 0.5 * math.log(1e-4)) < 0.1
    for name in ("skip", "key_bias", "query_bias", "key_norm.weight", "query_norm.weight"):
        assert bool((layer.get_parameter(name) == 1).all()), name
    hints = make("conv=2").hints()
    assert all(not hints[n].decay for n in ("dt_bias", "skip", "key_bias", "query_bias", "conv.weight"))


@pytest.mark.parametrize("rate", [-1e6, 0.0, 1e6])
@pytest.mark.parametrize("bias", [-50.0, 50.0])
@pytest.mark.parametrize("trap", [-1e3, 0.0, 1e3])
def test_no_decay_breaks_the_values_or_the_gradient(rate: float, bias: float, trap: float) -> None:
    layer = make().float()
    x = noise(2, 67, DIM).float()
    x[..., 0] = 1
    x[:, ::3, 0] = 0
    with torch.no_grad():
        layer.dt_bias.fill_(bias)
        weight, heads = layer.project.weight, layer.heads
        rows = weight[-layer.angles - 3 * heads : -layer.angles].unflatten(0, (3, heads))
        rows[1, :, 0], rows[2, :, 0] = rate, trap
    y = finite(layer, x)
    close(y, naive(layer.double(), x.double()), 1e-3)


def test_values_of_the_first_layer_are_mixed_in_and_remembered() -> None:
    layer = turning()
    layer.index = 1
    x, first = noise(1, 40, DIM), noise(1, 40, 1, 64, seed=3)
    weights = torch.tensor([0.0, 1.0]).double()

    def ctx(cut: slice) -> Context:
        return Context(shared={mix_key(1): weights, FIRST: first[:, cut]})

    expected = naive(layer, x, first)
    close(layer(x, ctx(slice(None))), expected, 1e-10)
    head, state = layer.prefill(x[:, :7], layer.init_state(1), ctx(slice(7)))
    tail, _ = layer.prefill(x[:, 7:], state, ctx(slice(7, 40)))
    close(torch.cat([head, tail], dim=1), expected, 1e-10)


def test_parameters_and_state_at_width_128() -> None:
    layer, d, n, inner, heads = make(dim=128), 128, 64, 256, 4
    count = d * (2 * inner + 2 * n + 3 * heads + 16) + 2 * heads + 2 * n + 2 * heads * n + inner * d
    assert parameters_in(layer) == count
    sizes = layer.measure_state(40)
    assert sizes == {"recurrent": 4 * (4096 + 64 + 64 + 16), "conv": 0, "growing": 0, "total": 16_960}
    assert make("conv=4", dim=128).measure_state(40)["conv"] == 3 * (inner + 2 * n)
