"""Attention of factored queries against its definition in float64; the contract covers the rest."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.functional.rotary import rotate
from tests.architectures.helpers import agree, in_pieces, layer_of, noise, parameters_in, rms

DIM = 48
make = partial(layer_of, dim=DIM, away=0.2)
OPTIONS = [
    f"{name}[{options}]"
    for name in ("mfa", "mfa-kr")
    for options in ("heads=3", "heads=5, key_dim=6, rank=7", "rope=false, rank=80")
]


def naive(layer: Any, x: Tensor) -> Tensor:
    q = rms(x @ layer.down.weight.T) * layer.norm.weight @ layer.query.weight.T
    k = x @ layer.key.weight.T
    if hasattr(layer, "reuse"):
        v = k + layer.amount * (k @ layer.reuse.weight.T)
    else:
        v = x @ layer.value.weight.T
    q, k = q.unflatten(-1, (layer.heads, -1)), k[:, :, None]
    if layer.config.rope:
        q, k = (rotate(z, torch.arange(x.shape[1])) for z in (q, k))
    scores = torch.einsum("bthk,bsk->bhts", q, k[:, :, 0]) / math.sqrt(layer.key_dim)
    scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
    return torch.einsum("bhts,bsv->bthv", scores.softmax(-1), v).flatten(-2) @ layer.out.weight.T


@pytest.mark.parametrize("spec", OPTIONS)
@pytest.mark.parametrize("length", [1, 11, 37])
def test_forward_and_its_gradient_are_those_of_the_definition(spec: str, length: int) -> None:
    agree(make(spec), naive, noise(2, length, DIM), atol=1e-11, slope=1e-9 if length == 11 else None)


@pytest.mark.parametrize("spec", OPTIONS)
def test_pieces_and_steps_continue_the_sequence(spec: str) -> None:
    layer, x = make(spec), noise(2, 24, DIM)
    torch.testing.assert_close(in_pieces(layer, x, 9, 22, 23)[0], layer(x), rtol=0, atol=1e-12)


def test_a_full_rank_and_equal_tokens_leave_mqa() -> None:
    # All tokens of one size: then the norm divides all of them by the same number.
    layer, plain = make("mfa[rank=48, key_dim=16]"), layer_of("mqa", dim=DIM)
    x = noise(2, 13, DIM)
    x = x / x.norm(dim=-1, keepdim=True) * DIM**0.5
    with torch.no_grad():
        layer.down.weight.copy_(torch.eye(DIM))
        layer.norm.weight.fill_((1 + 1e-6) ** 0.5)
        for name in ("query", "key", "value", "out"):
            getattr(layer, name).weight.copy_(getattr(plain, name).weight)
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=1e-12)


def test_reused_keys_can_be_the_values_of_mfa() -> None:
    layer, other, x = make("mfa-kr"), make("mfa"), noise(2, 13, DIM)
    shared = {n: p for n, p in other.state_dict().items() if n != "value.weight"}
    layer.load_state_dict({**layer.state_dict(), **shared, "amount": torch.zeros(32)})
    with torch.no_grad():
        other.value.weight.copy_(other.key.weight)
    torch.testing.assert_close(layer(x), other(x), rtol=0, atol=1e-12)


def test_the_cache_is_one_key_or_one_key_and_value() -> None:
    assert make("mfa", dim=128).measure_state(40)["growing"] == 40 * 2 * 32
    assert make("mfa-kr", dim=128).measure_state(40)["growing"] == 40 * 32
    shared = 128 * 32 + 32 + 32 * 8 * 32 + 128 * 32 + 8 * 32 * 128
    assert parameters_in(make("mfa", dim=128)) == shared + 128 * 32
    assert parameters_in(make("mfa-kr", dim=128)) == shared + 32 * 32 + 32
    assert not layer_of("mfa-kr").amount.any()
