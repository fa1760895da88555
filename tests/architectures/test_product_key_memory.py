"""The product-key memory against a search through all of its keys in float64."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.functional.weighted_rows import weighted_rows
from tests.architectures.helpers import agree, finite, layer_of, noise, parameters_in, silu

DIM = 16
make = partial(layer_of, "product-key-memory", dim=DIM)
OPTIONS = [
    "",
    "gate=true",
    "keys=9, heads=3, top_k=9, key_dim=6",
    "heads=1, top_k=2",
    "keys=2, top_k=2",
]


def naive(layer: Any, x: Tensor) -> Tensor:
    """Every key scored by itself, and the best of all n^2 read."""
    config, n = layer.config, layer.config.keys
    half = config.key_dim // 2
    rows = []
    for token in x.flatten(0, 1):
        q = (layer.query.weight @ token + layer.query.bias).view(config.heads, config.key_dim)
        y = torch.zeros_like(token)
        for h in range(config.heads):
            z = q[h] - q[h].mean()
            z = z / torch.sqrt((z**2).mean() + 1e-5)
            first, second = layer.keys[h, 0] @ z[:half], layer.keys[h, 1] @ z[half:]
            scores = torch.stack([first[m] + second[j] for m in range(n) for j in range(n)])
            ranked = scores.tolist()
            best = sorted(range(n * n), key=lambda i: -ranked[i])[: config.top_k]
            w = torch.stack([scores[i] for i in best]).softmax(0)
            y = y + sum(w[r] * layer.values[i] for r, i in enumerate(best))
        if config.gate:
            g = layer.gate.weight @ token
            y = layer.out.weight @ (y * silu(g))
        rows.append(y)
    return torch.stack(rows).view_as(x)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 5])
def test_forward_and_its_gradient_are_those_of_the_full_search(options: str, length: int) -> None:
    agree(make(options, away=0.2), naive, noise(2, length, DIM), atol=1e-12)


def test_rows_that_are_not_read_get_exactly_nothing() -> None:
    layer = make("heads=1")
    layer(noise(1, 1, DIM)).sum().backward()
    read = layer.values.grad.abs().amax(1) > 0
    assert int(read.sum()) == 8
    # Of each half, only the sub-keys of the rows that were read.
    rows = read.nonzero()[:, 0]
    for s, used in enumerate((rows // 32, rows % 32)):
        touched = (layer.keys.grad[0, s].abs().amax(-1) > 0).nonzero()[:, 0]
        assert set(touched.tolist()) <= set(used.tolist())


@pytest.mark.parametrize("in_dims", [(0, 0, 0), (None, 0, 0), (0, None, 0), (0, None, None), (1, 0, 0)])
def test_weighted_rows_are_a_sum_over_an_embedding_with_replicas_too(in_dims: tuple[int | None, ...]) -> None:
    tables, weights = noise(3, 11, 4), noise(3, 5, 6, seed=2)
    indices = torch.randint(0, 11, (3, 5, 6), generator=torch.Generator().manual_seed(0))
    given = []
    for z, d in zip((tables, indices, weights), in_dims, strict=True):
        z = z[0] if d is None else z.movedim(0, d)
        given.append(z.clone().requires_grad_(z.is_floating_point()))

    def plain(table: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        return (weights[..., None] * table[indices]).sum(1)

    results = []
    for call in (weighted_rows, plain):
        y = torch.vmap(call, in_dims=in_dims)(*given)
        grads = torch.autograd.grad((y * noise(3, 5, 4, seed=7)).sum(), [given[0], given[2]])
        results.append((y, *grads))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_weighted_rows_have_the_right_slope() -> None:
    indices = torch.tensor([[0, 2, 2], [1, 0, 4]])
    table, weights = noise(5, 3).requires_grad_(), noise(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda t, w: weighted_rows(t, indices, w), (table, weights))


def test_autocast_does_not_change_what_is_read() -> None:
    layer = make().float()
    x = noise(8, 64, DIM).float()
    weights, rows = layer._find(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low_weights, low_rows = layer._find(x)
    assert torch.equal(rows, low_rows) and torch.equal(weights, low_weights)


@pytest.mark.parametrize("scale", [0.0, 1e4, 1e12])
def test_extreme_queries_stay_finite(scale: float) -> None:
    layer = make().float()
    with torch.no_grad():
        layer.query.weight.mul_(scale)
        layer.query.bias.mul_(scale)
        layer.keys.mul_(max(scale, 1))
    finite(layer, noise(2, 9, DIM).float())


def test_the_start_the_sizes_and_the_counts() -> None:
    layer = make(dim=128)
    assert layer.values.shape == (1024, 128) and layer.keys.shape == (2, 2, 32, 32)
    rest = 2 * 64 * 129 + 2 * 2 * 32 * 32
    assert parameters_in(layer) == rest + 1024 * 128
    assert layer.active_params() == rest + 2 * 8 * 128
    small = make("keys=2, heads=4, top_k=2")
    assert small.active_params() == parameters_in(small)
    assert 0.98 / 8 < layer.keys.abs().max() <= 1 / 8
    assert 0.98 < layer.values.std() * 128**0.5 < 1.02
    bound = (6 / 256) ** 0.5
    assert 0.99 * bound < layer.query.weight.abs().max() <= bound
    assert layer.flops(10) == 10 * (2 * 128 * 128 + 2 * 4096 + 2 * 64 + 2 * 16 * 128)
    gated = make("gate=true", dim=128)
    assert gated.flops(10) == layer.flops(10) + 10 * (4 * 128**2 + 128)
    hint = layer.hints()["values"]
    assert not hint.decay and hint.lr_scale == 4.0 and list(layer.hints()) == ["values"]
    assert layer.init_state(2) == () and layer.measure_state(8)["total"] == 0
