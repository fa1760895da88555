"""Hyena experts against their double sum in float64; the contract tests cover the rest."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.primitive import Context
from tests.architectures.helpers import agree, layer_of, noise, parameters_in, short_conv

DIM = 16
make = partial(layer_of, "hyena-experts", dim=DIM, max_len=80)


def chosen_weights(layer: Any, x: Tensor) -> Tensor:
    """The weights (E,) of one token's experts."""
    logits = layer.router.weight @ x
    scores = torch.sigmoid(logits) if layer.config.gating == "sigmoid" else logits.exp()
    if layer.config.gating == "softmax":
        scores = scores / scores.sum()
    ranked = scores.tolist()
    best = sorted(range(len(ranked)), key=lambda e: -ranked[e])[: layer.config.top_k]
    kept = torch.stack([scores[e] if e in best else 0 * scores[e] for e in range(len(ranked))])
    return kept if layer.config.top_k == 1 else kept / kept.sum()


def naive(layer: Any, x: Tensor) -> Tensor:
    width, experts = layer.config.expert_dim, layer.config.experts
    z = x @ layer.project.weight.T + layer.project.bias
    q, k, v = short_conv(z, layer.conv.weight, layer.conv.bias).split(width * experts, dim=-1)
    h = layer.filter(x.shape[1])
    u = k * v
    rows = []
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            heard = layer.skip * u[b, t]
            for s in range(t + 1):
                heard = heard + h[t - s] * u[b, s]
            o = q[b, t] * heard
            g = chosen_weights(layer, x[b, t])
            read = sum(g[e] * o[e * width : (e + 1) * width] for e in range(experts))
            rows.append(layer.out.weight @ read + layer.out.bias)
    return torch.stack(rows).view_as(x)


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ("", 1),
        ("", 5),
        ("", 37),
        ("experts=3, expert_dim=5, top_k=1, order=4, balance=none", 5),
        ("top_k=1, gating=sigmoid", 5),
        ("gating=sigmoid, top_k=3, conv=0", 37),
        ("experts=4, top_k=4, conv=5", 67),
    ],
)
def test_forward_and_its_gradient_are_those_of_the_double_sum(options: str, length: int) -> None:
    agree(make(options, away=0.1), naive, noise(2, length, DIM), atol=1e-11)


def test_one_expert_of_the_models_width_is_hyena_without_expansion() -> None:
    ours = make(f"experts=1, top_k=1, expert_dim={DIM}, order=4")
    theirs = layer_of("hyena", "expand=1", dim=DIM, max_len=80)
    theirs.load_state_dict(ours.state_dict())
    x = noise(2, 19, DIM)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)


def test_an_expert_that_is_not_chosen_hears_what_the_next_token_may_read() -> None:
    layer = make("experts=2, top_k=1", away=0.1)
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[0, 0], layer.router.weight[1, 0] = 50.0, -50.0
    x = noise(1, 6, DIM)
    x[0, :, 0] = torch.tensor([1.0, 1, 1, 1, 1, -1])  # only the last token reads the second expert
    y = layer(x)
    (slope,) = torch.autograd.grad(y[0, -1].sum(), layer.conv.bias)
    assert slope.view(3, 2, 16)[:, 0].eq(0).all() and slope.view(3, 2, 16)[:, 1].ne(0).all()
    changed = x.clone()
    changed[0, 1, 1:] += 1
    assert (layer(changed)[0, -1] - y[0, -1]).abs().max() > 1e-6


def test_losses_and_updates_are_keyed_by_the_path() -> None:
    ctx, layer = Context(seed=0), make("z_loss=0.1")
    layer(noise(2, 9, DIM), ctx)
    assert set(ctx.losses) == {f"{layer.path}/balance", f"{layer.path}/z"} and not ctx.updates
    ctx, layer = Context(seed=0), make("balance=bias")
    layer(noise(2, 9, DIM), ctx)
    assert not ctx.losses and list(ctx.updates) == [f"{layer.path}.router.bias"]


def test_the_start_the_sizes_and_the_counts() -> None:
    layer = make(dim=128)
    inner, order = 128, 16
    filter = 3 * order + order + 2 * (order**2 + order) + order + order * inner
    total = 3 * inner * 129 + 3 * inner * 4 + 8 * 128 + inner + filter + 128 * 17
    assert parameters_in(layer) == total == layer.active_params()
    assert layer.nominal_state(32) == 2048
    assert layer.measure_state(32) == {"recurrent": 0, "conv": 768, "growing": 32 * 128, "total": 768 + 4096}
    assert layer.filter(7).shape == (7, inner) and 0.8 < layer.skip.std() < 1.2
    assert 0.018 < layer.router.weight.std() < 0.022
    hints = layer.hints()
    plain = {"project.weight", "project.bias", "out.weight", "out.bias", "router.weight", "conv.bias"}
    assert set(hints) == {n for n, _ in layer.named_parameters()} - plain
    assert not any(h.decay for h in hints.values())


def test_more_tokens_than_the_filter_is_long_are_refused() -> None:
    layer = make(max_len=8)
    _, state = layer.prefill(noise(1, 8, DIM), layer.init_state(1))
    with pytest.raises(ValueError, match="max_len 8"):
        layer.step(noise(1, DIM), state)
