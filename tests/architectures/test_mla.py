"""Latent attention against its definition, token by token in float64; the contract tests cover the rest."""

from __future__ import annotations

import cmath
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.architectures.helpers import agree, convolved, layer_of, noise, parameters_in, rms

DIM = 48
make = partial(layer_of, "mla", dim=DIM, away=0.1)
OPTIONS = [
    "",
    "heads=4, key_dim=5, value_dim=9, latent=7, rope_dim=4",
    "heads=2, rope_dim=0",
    "latent=24, conv=3",
    "heads=1, key_dim=4, value_dim=20",
]


def turned(z: Tensor, t: int) -> Tensor:
    """The pairs (i, i + half) of z (..., R) as complex numbers, turned by t times their frequency."""
    half = z.shape[-1] // 2
    pairs = torch.complex(z[..., :half], z[..., half:])
    turns = torch.tensor([cmath.exp(1j * t * 1e4 ** (-i / half)) for i in range(half)], dtype=pairs.dtype)
    pairs = pairs * turns
    return torch.cat([pairs.real, pairs.imag], dim=-1)


def naive(layer: Any, x: Tensor) -> Tensor:
    """The definition, with keys and values written out: one query and one head at a time."""
    heads, key, value = layer.heads, layer.key_dim, layer.value_dim
    latent, rope = layer.latent, layer.rope_dim
    u = torch.cat([x @ layer.query.weight.T, x @ layer.down.weight.T], dim=-1)
    u = convolved(u, layer.conv.weight)
    q, c, r = u.split([heads * (key + rope), latent, rope], dim=-1)
    q = q.unflatten(-1, (heads, key + rope))
    c = rms(c) * layer.norm.weight
    kv = (c @ layer.up.weight.T).unflatten(-1, (heads, key + value))
    r = torch.stack([turned(r[:, t], t) for t in range(x.shape[1])], dim=1) if rope else r
    rows = []
    for t in range(x.shape[1]):
        found = []
        for h in range(heads):
            scores = (kv[:, : t + 1, h, :key] * q[:, t : t + 1, h, :key]).sum(-1)
            if rope:
                scores = scores + (r[:, : t + 1] * turned(q[:, t, h, key:], t)[:, None]).sum(-1)
            weights = (scores / math.sqrt(key + rope)).softmax(1)
            found.append((weights[..., None] * kv[:, : t + 1, h, key:]).sum(1))
        rows.append(torch.cat(found, dim=-1) @ layer.out.weight.T)
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 11, 37])
def test_forward_and_its_gradient_are_those_of_the_definition(options: str, length: int) -> None:
    agree(
        make(options),
        naive,
        noise(2, length, DIM),
        atol=1e-12,
        slope=1e-10 if length == 11 else None,
        low=1e-5,
    )


@pytest.mark.parametrize("options", OPTIONS)
def test_asking_the_latents_equals_expanding_them(options: str) -> None:
    layer, x = make(options), noise(2, 24, DIM)
    whole = layer(x)
    y, state = layer.prefill(x[:, :9], layer.init_state(2))
    z, state = layer.prefill(x[:, 9:20], state)
    torch.testing.assert_close(torch.cat([y, z], 1), whole[:, :20], rtol=0, atol=1e-12)
    for t in range(20, 24):
        expanded, other = layer.prefill(x[:, t : t + 1], state)  # forms the keys and values
        absorbed, state = layer.step(x[:, t], state)  # does not
        torch.testing.assert_close(absorbed, expanded[:, 0], rtol=0, atol=1e-12)
        torch.testing.assert_close(absorbed, whole[:, t], rtol=0, atol=1e-12)
        assert all(torch.equal(a, b) for a, b in zip(state, other, strict=True))


def test_a_latent_as_wide_as_the_input_can_be_attention_without_position() -> None:
    # All tokens of one size: then the norm divides all latents by the same number.
    layer, plain = make("latent=48, rope_dim=0"), layer_of("mh-attention[rope=false]", dim=DIM)
    x = noise(2, 13, DIM)
    x = x / x.norm(dim=-1, keepdim=True) * DIM**0.5
    with torch.no_grad():
        layer.query.weight.copy_(plain.query.weight)
        layer.down.weight.copy_(torch.eye(DIM))
        layer.norm.weight.fill_((1 + 1e-6) ** 0.5)
        up = torch.cat([m.weight.unflatten(0, (3, 16)) for m in (plain.key, plain.value)], dim=1)
        layer.up.weight.copy_(up.flatten(0, 1))
        layer.out.weight.copy_(plain.out.weight)
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=1e-12)


def test_only_the_shared_key_carries_the_position() -> None:
    layer, rows = make(), noise(1, 1, DIM).expand(1, 6, DIM)
    _, state = layer.prefill(rows, layer.init_state(1))
    latents, keys = state[:2]
    torch.testing.assert_close(latents, latents[:, :1].expand_as(latents), rtol=0, atol=1e-13)
    assert (keys[:, 1:] - keys[:, :1]).abs().max() > 1e-2


def test_the_cache_is_the_latent_and_the_shared_key() -> None:
    layer = make(dim=128)
    assert (layer.latent, layer.rope_dim) == (32, 8)
    assert layer.measure_state(40) == {"recurrent": 0, "conv": 0, "growing": 1600, "total": 1600}
    heads, width = 8, 16
    maps = 128 * heads * (width + 8) + 128 * (32 + 8) + 32 + 32 * heads * 2 * width + heads * width * 128
    assert parameters_in(layer) == maps
    wide = make("latent=20, rope_dim=6, conv=4", dim=128).measure_state(40)
    assert (wide["growing"], wide["conv"]) == (40 * 26, 3 * (8 * 22 + 26))
    assert [make(dim=d).latent for d in (16, 48, 80, 256)] == [16, 16, 32, 64]


def test_the_work_is_the_maps_and_the_visible_pairs() -> None:
    layer = make(dim=128)
    maps = 128 * 8 * 24 + 128 * 40 + 32 * 8 * 32 + 128 * 128
    assert layer.flops(40) == 2 * 40 * maps + 2 * 820 * 8 * (24 + 16)
    assert layer.executed_flops(40) == 2 * 40 * maps + 4 * 40**2 * 8 * 24


def test_the_start_is_that_of_linear_maps_and_the_taps_are_not_decayed() -> None:
    fresh = layer_of("mla[conv=2]", dim=64)
    assert torch.equal(fresh.norm.weight, torch.ones(16).double())
    for linear in (fresh.query, fresh.down, fresh.up, fresh.out):
        bound = linear.in_features**-0.5
        assert 0.9 * bound < linear.weight.abs().max() <= bound
    assert not fresh.hints()["conv.weight"].decay and not make().hints()
    assert not fresh.value_widths
