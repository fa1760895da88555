"""Momentum DeltaNet and its rule against their equations, token by token; the contract covers the rest."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

import architectures
from architectures import growth
from architectures.functional.delta import delta_rule
from architectures.functional.momentum import momentum_rule, weigh
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
    slopes,
    unit,
)

DIM = 32
make = partial(layer_of, "momentum-delta-net")
OPTIONS = ["", "conv=0", "key_dim=8, value_dim=24, conv=2"]


def rule(
    q: Tensor, k: Tensor, v: Tensor, y: Tensor, log_a: Tensor, log_m: Tensor, b: Tensor, state: Any = None
) -> tuple[Tensor, Tensor]:
    """The rule, one token at a time."""
    shape = (*q.shape[:1], *q.shape[2:], v.shape[-1])
    s, m = (q.new_zeros(shape), q.new_zeros(shape)) if state is None else state.chunk(2, dim=-2)
    rows = []
    for t in range(q.shape[1]):
        u = v[:, t] - (s * y[:, t, ..., None]).sum(-2)
        m = log_m[:, t].exp()[..., None, None] * m - k[:, t, ..., None] * u[..., None, :]
        s = log_a[:, t].exp()[..., None, None] * s - b[:, t, :, None, None] * m
        rows.append((s * q[:, t, ..., None]).sum(-2))
    return torch.stack(rows, dim=1), torch.cat([s, m], dim=-2)


def naive(layer: Any, x: Tensor) -> Tensor:
    """The layer from its parameters."""
    heads, key, value = layer.heads, layer.key_dim, layer.value_dim
    z = convolved(x @ layer.project.weight.T, layer.conv.weight)
    q, k, v = z.split([heads * key, heads * key, heads * value], dim=-1)
    q, k, v = (u.reshape(*x.shape[:2], heads, -1) for u in (q, k, v))
    q, k = unit(q - layer.correction.exp().reshape(heads, 1) * k) / key**0.5, unit(k)
    e = 1 + torch.tanh(x @ layer.pace.weight.T / x.shape[-1] ** 0.5)
    theta = torch.atan(e * layer.share.exp())
    a = torch.cos(theta) ** 2 * torch.exp(
        -layer.log_rate.exp() * softplus(x @ layer.dt.weight.T + layer.dt_bias)
    )
    b = torch.sin(theta) ** 2 * torch.sigmoid(x @ layer.strength.weight.T)
    log_m = -layer.momentum_rate.exp() * softplus(x @ layer.momentum.weight.T + layer.momentum_bias)
    o, _ = rule(q, e[..., None] * k, v, a[..., None] * k, a.log(), log_m.clamp(min=-2), b)
    o = (rms(o) * layer.norm).flatten(2) * torch.sigmoid(x @ layer.gate.weight.T)
    return o @ layer.out.weight.T


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 37, 67])
def test_forward_and_its_gradient_are_those_of_the_recurrence(options: str, length: int) -> None:
    slope = 1e-9 if length == 37 else None
    agree(make(options, away=0.3), naive, noise(2, length, DIM), slope=slope)


def tensors(length: int, *, key: int = 4, value: int = 5) -> dict[str, Any]:
    shape = (2, length, 3)
    k, gates = unit(noise(*shape, key, seed=2)), noise(*shape, 4, seed=4)
    log_a, log_m = -gates[..., 0].square(), -gates[..., 1].square().clamp(max=2)
    b, e = gates[..., 2].sigmoid(), 2 * gates[..., 3].sigmoid()
    q, v, y = noise(*shape, key), noise(*shape, value, seed=3), log_a.exp()[..., None] * k
    return {"q": q, "k": e[..., None] * k, "v": v, "y": y, "log_a": log_a, "log_m": log_m, "b": b}


@pytest.mark.parametrize("entering", [False, True])
@pytest.mark.parametrize("length, chunk", [(1, 16), (16, 16), (37, 16), (37, 32), (70, 5)])
def test_the_chunks_are_the_rule(length: int, chunk: int, entering: bool) -> None:
    values = tensors(length)
    state = noise(2, 3, 8, 5, seed=7) if entering else None
    leaves = [z.requires_grad_() for z in values.values()]
    pairs = momentum_rule(**values, state=state, chunk=chunk), rule(**values, state=state)
    for a, b in zip(*pairs, strict=True):
        close(a, b, 1e-10)
    for a, b in zip(*(slopes(o, leaves) for o, _ in pairs), strict=True):
        close(a, b, 1e-8)


def test_without_momentum_it_is_a_gated_delta_rule() -> None:
    values = tensors(37) | {"log_m": torch.full((2, 37, 3), -float("inf")).double()}
    k = values["b"][..., None] * values["k"]
    o, last = momentum_rule(**values)
    expected, s = delta_rule(values["q"], k, values["v"], values["log_a"], y=values["y"])
    close(o, expected, 1e-11)
    close(last[..., :4, :], s, 1e-11)


@pytest.mark.parametrize("log_a", [0.0, -1e-4, -20.0, -1000.0, -float("inf")])
@pytest.mark.parametrize("log_m", [0.0, -2.0, -1000.0])
def test_decays_at_their_bounds(log_a: float, log_m: float) -> None:
    values = tensors(70) | {"log_m": torch.full((2, 70, 3), log_m).double()}
    some = noise(2, 70, 3, seed=11) > 0.5
    values["log_a"] = torch.where(some, log_a, values["log_a"])
    values["y"] = values["log_a"].exp()[..., None] * unit(values["k"])
    values["b"] = 0.1 * values["b"]
    low = {n: z.float().requires_grad_() for n, z in values.items()}
    o, last = momentum_rule(**low)
    for a, b in zip((o, last), rule(**values), strict=True):
        close(a.detach(), b, 1e-4)
    assert all(bool(torch.isfinite(g).all()) for g in slopes(o.double(), list(low.values())))


def test_the_weights_are_the_sums_over_the_tokens_between() -> None:
    log_a, log_m, b = (-noise(5, 1, seed=i).abs() for i in range(3))
    w = weigh(log_a, log_m, -b)
    for i in range(5):
        for j in range(5):
            terms = [
                (-b[s] * (log_m[j + 1 : s + 1].sum() + log_a[s + 1 : i + 1].sum()).exp()).item()
                for s in range(j, i + 1)
            ]
            assert w.pairs[i, j].item() == pytest.approx(sum(terms), abs=1e-14)


def test_a_state_continues() -> None:
    layer, x = make(away=0.3), noise(2, 80, DIM)
    y, state = in_pieces(layer, x, 7, 8, 29)
    whole, last = layer.prefill(x, layer.init_state(2))
    for a, b in zip((y, *state), (whole, *last), strict=True):
        close(a, b, 1e-11)
    assert torch.isfinite(finite(layer.float(), 100 * x.float())).all()


def test_sizes_and_the_start_are_as_published() -> None:
    layer, d, heads = make(dim=128), 128, 8
    sizes = layer.measure_state(40)
    assert (sizes["recurrent"], sizes["conv"]) == (2 * 2048, 1152)
    assert parameters_in(layer) == 5 * d * d + 4 * heads * d + 4 * 3 * d + 6 * heads + 16
    wide = make(dim=2048)
    for name, most in (("log_rate", 16), ("momentum_rate", 16), ("share", 4), ("correction", 1)):
        start = getattr(wide, name).detach().exp()
        assert 0 < start.min() < most / 10 and 0.9 * most < start.max() <= most
    assert torch.equal(wide.dt_bias, wide.momentum_bias)
    assert set(layer.undecayed) < set(layer.hints())


def test_it_says_that_it_cannot_be_wider() -> None:
    """The pace is divided by the root of the width."""
    model = architectures.build("momentum-delta-net", vocab_size=5, dim=32, max_len=8, seed=0)
    with pytest.raises(ValueError, match="has no rule for momentum-delta-net"):
        growth.widen_hidden(model, to=64)
