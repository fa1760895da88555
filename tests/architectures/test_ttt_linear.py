"""TTT-Linear against its definition, with a gradient by autograd; the contract tests cover the rest."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.functional.delta import delta_rule
from architectures.functional.inner_batches import Grid, descend, norm_error
from architectures.registry import get
from tests.architectures.helpers import (
    agree,
    close,
    finite,
    in_pieces,
    layer_of,
    noise,
    parameters_in,
    short_conv,
    unit,
)

DIM = 32
make = partial(layer_of, "ttt-linear")
OPTIONS = ["", "conv=0, batch=5", "heads=1, key_dim=6, batch=1, conv=2", "batch=64"]


def turned(z: Tensor, position: int) -> Tensor:
    """RoPE at one position, on z (..., K)."""
    half = z.shape[-1] // 2
    angle = position * 10_000.0 ** (-torch.arange(half).double() / half)
    a, b = z[..., :half], z[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)


def layer_norm(z: Tensor, layer: Any) -> Tensor:
    centred = z - z.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-6)
    return layer.inner_weight * scaled + layer.inner_bias


def naive(layer: Any, x: Tensor) -> Tensor:
    """The layer from its parameters: every gradient by autograd, every W written out."""
    heads, key, size = layer.heads, layer.key_dim, layer.config.batch
    z = short_conv(x @ layer.project.weight.T, layer.conv.weight)
    q, k, v = (u.reshape(*x.shape[:2], heads, key) for u in z.chunk(3, dim=-1))
    s = torch.sigmoid(x @ layer.rate.weight.T + layer.rate.bias) / key
    w, b = (p.expand(x.shape[0], *p.shape) for p in (layer.memory, layer.bias))
    rows: list[Tensor] = []
    for t in range(x.shape[1]):
        i = t % size
        if i == 0:
            w_sum, b_sum = torch.zeros_like(w), torch.zeros_like(b)
        q_t, k_t = turned(q[:, t], i), turned(k[:, t], i)
        with torch.enable_grad():
            given = ((k_t[..., None] * w).sum(-2) + b).requires_grad_()
            loss = (layer_norm(given, layer) - (v[:, t] - k_t)).square().sum() / 2
            (g,) = torch.autograd.grad(loss, given, create_graph=True)
        g = s[:, t, :, None] * g
        w_sum, b_sum = w_sum + k_t[..., None] * g[..., None, :], b_sum + g
        pace = torch.relu(1 / (i + 1) + layer.tau[i])
        w_i, b_i = w - pace * w_sum, b - pace * b_sum
        o = (q_t + layer_norm((q_t[..., None] * w_i).sum(-2) + b_i, layer)).flatten(1)
        o = F.layer_norm(o, o.shape[-1:], layer.norm.weight, layer.norm.bias, eps=1e-6)
        rows.append((o * F.gelu(x[:, t] @ layer.gate.weight.T, approximate="tanh")) @ layer.out.weight.T)
        if i + 1 == size:
            w, b = w_i, b_i
    return torch.stack(rows, dim=1)


def off_the_start(options: str = "") -> Any:
    """Parameters moved, but for tau, which the last tokens of a batch have near its bound."""
    layer = make(options, away=0.3)
    with torch.no_grad():
        layer.tau.mul_(0.1).clamp_(min=-0.01)
    return layer


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 37])
def test_forward_and_its_gradient_are_those_of_the_definition(options: str, length: int) -> None:
    slope = 1e-8 if length == 37 else None
    agree(off_the_start(options), naive, noise(2, length, DIM), slope=slope, low=1e-3)


def test_the_error_is_the_gradient_of_the_loss() -> None:
    z, target = noise(2, 3, 7, 8).requires_grad_(), noise(2, 3, 7, 8, seed=2)
    weight, bias = noise(3, 8, seed=3), noise(3, 8, seed=4)
    y = F.layer_norm(z, (8,), eps=1e-6) * weight[:, None] + bias[:, None]
    (expected,) = torch.autograd.grad((y - target).square().sum() / 2, z)
    found = norm_error(weight, bias, 2)(z.flatten(0, 1), target.flatten(0, 1))
    close(found.view_as(z), expected, 1e-12)


def test_without_norm_and_batches_it_is_a_delta_rule() -> None:
    q, k, v = noise(2, 37, 3, 4), unit(noise(2, 37, 3, 4, seed=2)), noise(2, 37, 3, 5, seed=3)
    b, zeros = noise(2, 37, 3, seed=4).sigmoid(), torch.zeros(2, 3, 8, 5).double()
    o, last = descend(q, k, v, b, torch.ones(1).double(), zeros, 0, torch.sub)
    expected, s = delta_rule(q, b[..., None] * k, v, y=k)
    close(o, expected, 1e-12)
    close(last[:, :, :4], s, 1e-12)


@pytest.mark.parametrize("cuts", [(7, 8, 29), (16, 32), (1, 17, 18)])
def test_a_state_continues_inside_and_at_the_ends_of_batches(cuts: tuple[int, ...]) -> None:
    layer, x = off_the_start(), noise(2, 40, DIM)
    y, state = in_pieces(layer, x, *cuts)
    whole, last = layer.prefill(x, layer.init_state(2))
    for a, b in zip((y, *state[:2]), (whole, *last[:2]), strict=True):
        close(a, b, 1e-11)
    assert state[2].shape == last[2].shape == (2, 40 % 16, 0)


@pytest.mark.parametrize(
    "length, since, shape", [(10, 3, (4, 4)), (1, 3, (1, 1)), (8, 0, (2, 4)), (2, 1, (1, 2))]
)
def test_tokens_lie_in_their_batches(length: int, since: int, shape: tuple[int, int]) -> None:
    grid, z = Grid(length, since, 4), noise(2, length, 3, 5)
    cut = grid.cut(z)
    assert cut.shape == (6, *shape, 5) and torch.equal(grid.join(cut, 3), z)
    assert grid.ends == ((length + since) % 4 == 0)


def test_below_its_bound_the_pace_is_zero_and_nothing_is_learned() -> None:
    layer, x = make(), noise(2, 40, DIM)
    with torch.no_grad():
        layer.tau.fill_(-2)
    before = layer.init_state(2)
    _, (after, *_) = layer.prefill(x, before)
    assert torch.equal(after[:, :, :17], before[0][:, :, :17])


def test_loud_inputs_are_survived() -> None:
    assert finite(make().float(), 100 * noise(2, 70, DIM).float()).abs().max() < 1e3


def test_the_state_of_long_rows_is_measured_on_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make()
    prefill, sizes = layer.prefill, layer.measure_state(40)

    def short(x: Tensor, *rest: Any) -> Any:
        assert x.shape[1] == 1
        return prefill(x, *rest)

    monkeypatch.setattr(layer, "prefill", short)
    assert layer.measure_state(10**6) == sizes


def test_it_starts_as_published() -> None:
    layer, d, heads = make(dim=128), 128, 8
    sizes = layer.measure_state(40)
    assert (sizes["recurrent"], sizes["conv"]) == (2 * 8 * 17 * 16, 1152)
    inner = heads * 16 * (16 + 1 + 2) + 16
    assert parameters_in(layer) == 5 * d * d + 4 * 3 * d + inner + heads * (d + 1) + 2 * d
    assert layer.memory.std().item() == pytest.approx(0.02, rel=0.1)
    assert layer.rate.weight.std().item() == pytest.approx(0.02, rel=0.1)
    for zeros in (layer.bias, layer.tau, layer.inner_bias, layer.rate.bias):
        assert not zeros.any()
    assert bool((layer.inner_weight == 1).all())
    with pytest.raises(ValueError, match="key width 3 a head is odd.*choose an even key_dim"):
        get("ttt-linear").cls(get("ttt-linear").config({"key_dim": 3}), dim=32, max_len=8)
