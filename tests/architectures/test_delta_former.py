"""DeltaFormer against its definition, token by token in float64; the contract covers the rest."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.functional.rotary import rotate_first
from architectures.primitives.delta_former import delta_attend
from tests.architectures.helpers import (
    agree,
    close,
    finite,
    gated_out,
    heads_of_attention,
    in_pieces,
    layer_of,
    noise,
    parameters_in,
)

DIM = 32
make = partial(layer_of, "delta-former", max_len=300, away=0.1)
OPTIONS = [
    "",
    "heads=1, rope=false",
    "heads=4, key_dim=6, value_dim=3, kv_heads=2, conv=3, qk_norm=true, gate=true",
]


def naive(layer: Any, x: Tensor) -> Tensor:
    """One head, one token after the other: what a token writes, then what it reads."""
    q, k, v = heads_of_attention(layer, x)
    if layer.rotated:
        at = torch.arange(x.shape[1])
        q, k = (rotate_first(z, at, layer.rotated, layer.rotary_width) for z in (q, k))
    rows: list[list[Tensor]] = [[] for _ in range(x.shape[1])]
    for h in range(layer.heads):
        g = h * layer.kv_heads // layer.heads
        written: list[Tensor] = []
        for t in range(x.shape[1]):
            scores = torch.stack([(q[:, t, h] * k[:, s, g]).sum(-1) for s in range(t + 1)], dim=1)
            scores = scores / math.sqrt(layer.key_dim)
            new = v[:, t, g]
            if t:
                answer = sum(p[:, None] * u for p, u in zip(scores[:, :t].softmax(1).T, written, strict=True))
                logit = x[:, t] @ layer.strength.weight[h] + layer.strength.bias[h]
                new = new - torch.tanh(logit)[:, None] * answer
            written.append(new)
            rows[t].append(sum(p[:, None] * u for p, u in zip(scores.softmax(1).T, written, strict=True)))
    outputs = [gated_out(layer, torch.cat(row, dim=-1), x[:, t]) for t, row in enumerate(rows)]
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 2, 37])
def test_forward_and_its_gradient_are_those_of_the_definition(options: str, length: int) -> None:
    x = noise(2, length, DIM)
    agree(make(options), naive, x, atol=1e-11, slope=1e-9 if length == 37 else None, low=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
def test_pieces_and_steps_continue_the_sequence_across_chunks(options: str) -> None:
    layer, x = make(options), noise(2, 100, DIM)
    y, state = in_pieces(layer, x, 1, 9, 99)
    close(y, layer(x))
    assert len(state) == len(layer.state_kinds)


@pytest.mark.parametrize("length", [1, 7, 9, 30])
@pytest.mark.parametrize("chunk", [1, 4, 8])
def test_any_chunk_gives_the_same_output_and_gradient(length: int, chunk: int) -> None:
    q, k, v = (noise(2, length, 3, 6, seed=s).requires_grad_() for s in range(3))
    b = noise(2, length, 3, seed=9).tanh().requires_grad_()
    found = [delta_attend(q, k, v, b, v[:, :0], scale=0.4, chunk=c) for c in (chunk, 32)]
    for ours, theirs in zip(*found, strict=True):
        close(ours, theirs, 1e-12)
    slopes = [torch.autograd.grad((o * noise(*o.shape)).sum(), (q, k, v, b)) for o, _ in found]
    for a, c in zip(*slopes, strict=True):
        close(a, c, 1e-10)


def test_without_strength_it_is_attention() -> None:
    layer, plain = make(), layer_of("mh-attention")
    layer.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        layer.strength.weight.zero_()
        layer.strength.bias.zero_()
    x = noise(2, 70, DIM)
    close(layer(x), plain(x), 1e-12)


def test_a_token_with_a_known_key_writes_the_difference() -> None:
    # All tokens alike, strength 1: the first writes v, the others what the mean of the earlier leaves of it.
    q, v = torch.zeros(1, 6, 1, 2).double(), torch.ones(1, 6, 1, 1).double()
    _, u = delta_attend(q, q, v, torch.ones(1, 6, 1).double(), v[:, :0], scale=1.0, chunk=4)
    assert u.flatten().tolist() == pytest.approx([1, 0, 0.5, 0.5, 0.5, 0.5])


@pytest.mark.parametrize("bias", [-100.0, 100.0])
def test_no_strength_breaks_the_values_or_the_gradient(bias: float) -> None:
    layer = make().float()
    with torch.no_grad():
        layer.strength.bias.fill_(bias)
    y = finite(layer, noise(2, 300, DIM).float())
    assert float(y.detach().abs().max()) < 1e4


def test_state_parameters_and_work_at_width_128() -> None:
    layer = make(dim=128)
    assert layer.measure_state(40) == {
        "recurrent": 0,
        "conv": 0,
        "growing": 2 * 40 * 128,
        "total": 2 * 40 * 128,
    }
    assert parameters_in(layer) == 4 * 128**2 + 128 * 8 + 8
    assert make("kv_heads=2", dim=128).measure_state(40)["growing"] == 40 * (2 * 16 + 128)
    maps = 2 * 40 * (4 * 128**2 + 128 * 8)
    assert layer.flops(40) == maps + 820 * 2 * 128 * 2 + 780 * 2 * 128
