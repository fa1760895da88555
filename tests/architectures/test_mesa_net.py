"""MesaNet against its equations, with a dense inverse for every token; the contract tests cover the rest."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

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
    unit,
    unroll,
)

DIM = 32
make = partial(layer_of, "mesa-net")


def naive(layer: Any, x: Tensor) -> Tensor:
    """The layer from its parameters: two moments, and an inverse for each token."""
    heads, key, value = layer.heads, layer.key_dim, layer.value_dim
    z = convolved(x @ layer.project.weight.T, layer.conv.weight)
    q, k = (unit(u.reshape(*x.shape[:2], heads, key)) for u in z.split(heads * key, dim=-1))
    v = (x @ layer.value.weight.T).reshape(*x.shape[:2], heads, value)
    a = torch.sigmoid(x @ layer.forget.weight.T + layer.forget.bias)[..., None, None]
    b = torch.sigmoid(x @ layer.strength.weight.T + layer.strength.bias)[..., None, None]
    ridge = torch.diag_embed(softplus(layer.ridge) + 0.25)
    h, g = x.new_zeros(x.shape[0], heads, key, key), x.new_zeros(x.shape[0], heads, key, value)
    rows = []
    for t in range(x.shape[1]):
        k_t = k[:, t, ..., None]
        h = a[:, t] * h + b[:, t] * k_t @ k_t.mT
        g = a[:, t] * g + b[:, t] * k_t @ v[:, t, :, None]
        o = rms((torch.linalg.inv(h + ridge) @ q[:, t, ..., None] * g).sum(-2)) * layer.norm
        rows.append(o.flatten(1) @ layer.out.weight.T)
    return torch.stack(rows, dim=1)


OPTIONS = ["", "conv=0, heads=1", "key_dim=8, value_dim=24, conv=2"]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 37, 67])
def test_forward_is_the_recurrence(options: str, length: int) -> None:
    agree(make(options, away=0.3), naive, noise(2, length, DIM), slope=None)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_gradient_is_that_of_the_recurrence(options: str) -> None:
    layer = make(options, away=0.3)
    x, weight = noise(2, 37, DIM), noise(2, 37, DIM, seed=5)
    leaves = [x.requires_grad_(), *layer.parameters()]
    ours = torch.autograd.grad((layer(x) * weight).sum(), leaves)
    theirs = torch.autograd.grad((naive(layer, x) * weight).sum(), leaves)
    for a, b in zip(ours, theirs, strict=True):
        close(a, b, 1e-9)
    low, x = layer.float(), x.detach().float()
    single = torch.autograd.grad((low(x) * weight.float()).sum(), list(low.parameters()))
    for a, b in zip(single, theirs[1:], strict=True):
        close(a, b, 1e-4)


def test_the_gradient_reaches_the_state() -> None:
    layer = make(away=0.3)
    x = noise(1, 12, DIM)
    _, state = layer.prefill(x[:, :5], layer.init_state(1))
    s, tail = (z.detach() for z in state)

    def loss(s: Tensor) -> Tensor:
        # H is symmetric, and only what is so is differentiated.
        key = layer.key_dim
        s = torch.cat([(s[..., :key] + s[..., :key].mT) / 2, s[..., key:]], dim=-1)
        y, (last, _) = layer.prefill(x[:, 5:], (s, tail))
        return y.square().sum() + last.square().sum()

    assert torch.autograd.gradcheck(loss, (s.clone().requires_grad_(),), fast_mode=True)


def test_it_solves_the_regression() -> None:
    # Without decay o_t is the prediction for q_t of the ridge regression on all pairs so far.
    layer = make("heads=1, key_dim=4, value_dim=4, conv=0")
    with torch.no_grad():
        layer.forget.weight.zero_()
        layer.forget.bias.fill_(1e4)
        layer.strength.weight.zero_()
        layer.strength.bias.fill_(1e4)
    x = noise(1, 20, DIM)
    tokens, _ = layer.write(x, layer.init_carry(x, 1), None)
    o, _ = layer.recur(tokens, layer.init_state(1)[0])
    k, v, q = tokens.kept[0, :, 0], tokens.v[0, :, 0], tokens.q[0, -1, 0]
    padded = torch.cat([k, torch.eye(4).double()]), torch.cat([v, torch.zeros(4, 4).double()])
    weights = torch.linalg.lstsq(*padded).solution
    torch.testing.assert_close(o[0, -1, 0], q @ weights, rtol=0, atol=1e-8)


def test_the_regulariser_starts_at_one_and_is_not_decayed() -> None:
    layer = make()
    assert layer.ridge.shape == (2, 16) and layer.forget.bias is not None and layer.strength.bias is not None
    torch.testing.assert_close(softplus(layer.ridge) + 0.25, torch.ones(2, 16).double(), rtol=0, atol=1e-6)
    assert {n for n, h in layer.hints().items() if not h.decay} == {"ridge", "conv.weight"}


def test_sizes_are_as_published() -> None:
    layer = make(dim=128)
    sizes = layer.measure_state(40)
    assert (sizes["recurrent"], sizes["conv"], sizes["total"]) == (4096, 768, 4864)
    d, heads = 128, 8
    expected = 4 * d * d + 4 * 2 * d + 2 * (d * heads + heads) + d + 16
    assert parameters_in(layer) == expected


@pytest.mark.parametrize("forget", [-1e3, -30.0, 1e3])
@pytest.mark.parametrize("strength", [-1e3, 1e3])
@pytest.mark.parametrize("ridge", [-100.0, 100.0])
def test_no_gate_breaks_values_or_gradients(forget: float, strength: float, ridge: float) -> None:
    layer = make()
    with torch.no_grad():
        layer.forget.bias.fill_(forget)
        layer.strength.bias.fill_(strength)
        layer.ridge.fill_(ridge)
    x = noise(2, 70, DIM)
    expected, y = naive(layer, x).detach(), finite(layer.float(), x.float())
    close(y, expected, 2e-4)


def test_the_same_key_for_ever_stays_solvable() -> None:
    # Nothing is forgotten and one direction is written 2,000 times: the condition is 8,000.
    layer = make("heads=1, key_dim=4, value_dim=4, conv=0")
    with torch.no_grad():
        layer.forget.bias.fill_(1e4)
        layer.strength.bias.fill_(1e4)
        layer.ridge.fill_(-100)
    x, outputs = noise(1, 1, DIM).expand(1, 2000, DIM), []
    for dtype in (torch.float32, torch.float64):
        layer = layer.to(dtype)
        tokens, _ = layer.write(x.to(dtype), layer.init_carry(x.to(dtype), 1), None)
        outputs.append(layer.recur(tokens, layer.init_state(1)[0])[0].double())
    torch.testing.assert_close(*outputs, rtol=0, atol=2e-3 * float(tokens.v.detach().norm(dim=-1).max()))


@pytest.mark.parametrize("options", OPTIONS)
def test_steps_equal_forward_and_prefill_continues(options: str) -> None:
    layer = make(options, away=0.3)
    x = noise(2, 41, DIM)
    (y, state), (z, last) = unroll(layer, x), in_pieces(layer, x, 17)
    torch.testing.assert_close(y, layer(x), rtol=0, atol=1e-11)
    torch.testing.assert_close(z, layer(x), rtol=0, atol=1e-11)
    for a, b in zip(last, state, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
