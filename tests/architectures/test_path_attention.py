"""PaTH attention against its definition, token by token in float64; the contract tests cover the rest."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.primitives.path_attention import path_attend
from tests.architectures.helpers import (
    agree,
    convolved,
    finite,
    gated_out,
    heads_of_attention,
    in_pieces,
    layer_of,
    noise,
    parameters_in,
    unit,
)

DIM = 32
make = partial(layer_of, "path-attention", dim=DIM, max_len=300, away=0.1)
OPTIONS = [
    "",
    "heads=1",
    "heads=4, key_dim=5, value_dim=9, rank=3, w_conv=0",
    "qk_norm=true, gate=true, conv=3, w_conv=2",
    "heads=4, kv_heads=2",
]


def naive(layer: Any, x: Tensor) -> Tensor:
    """The definition: after each token, every earlier key is moved by its map; one head at a time."""
    (q, k, v), shared = heads_of_attention(layer, x), layer.kv_heads
    w = x @ layer.w_down.weight.T @ layer.w_up.weight.T
    w = unit(convolved(w, layer.w_conv.weight).unflatten(-1, (shared, -1)))
    strength = 2 * torch.sigmoid(x @ layer.strength.weight.T + layer.strength.bias)
    rows = []
    moved: list[list[Tensor]] = [[] for _ in range(shared)]
    for t in range(x.shape[1]):
        for g in range(shared):
            eye = torch.eye(layer.key_dim, dtype=torch.float64)
            outer = w[:, t, g, :, None] * w[:, t, g, None, :]
            reflect = eye - strength[:, t, g, None, None] * outer
            moved[g] = [torch.einsum("bij,bj->bi", reflect, old) for old in moved[g]] + [k[:, t, g]]
        found = []
        for h in range(layer.heads):
            g = h * shared // layer.heads
            scores = torch.stack([(q[:, t, h] * key).sum(-1) for key in moved[g]], dim=1)
            weights = (scores / math.sqrt(layer.key_dim)).softmax(1)
            found.append((weights[..., None] * v[:, : t + 1, g]).sum(1))
        rows.append(gated_out(layer, torch.cat(found, dim=-1), x[:, t]))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 11, 37, 67])
def test_forward_and_its_gradient_are_those_of_the_definition(options: str, length: int) -> None:
    agree(
        make(options),
        naive,
        noise(2, length, DIM),
        atol=1e-11,
        slope=1e-9 if length == 11 else None,
        low=1e-5,
    )


@pytest.mark.parametrize("options", OPTIONS)
def test_pieces_and_steps_continue_the_sequence_across_chunks(options: str) -> None:
    layer, x = make(options), noise(2, 150, DIM)
    y, state = in_pieces(layer, x, 9, 149)
    torch.testing.assert_close(y, layer(x), rtol=0, atol=1e-11)
    assert len(state) == len(layer.state_kinds)


def random_inputs(length: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    q, k, v, w = (noise(2, length, 3, 6, seed=s) for s in range(4))
    strength = 2 * torch.sigmoid(noise(2, length, 3, seed=9))
    return q, k, v, w / w.norm(dim=-1, keepdim=True), strength, k[:, :0]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 30])
@pytest.mark.parametrize("chunk", [1, 4, 8])
def test_any_chunk_gives_the_same_output_keys_and_gradient(length: int, chunk: int) -> None:
    inputs = [z.requires_grad_() for z in random_inputs(length)]
    o, keys = path_attend(*inputs, scale=0.4, chunk=chunk)
    whole, moved = path_attend(*inputs, scale=0.4, chunk=32)
    torch.testing.assert_close(o, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(keys, moved, rtol=0, atol=1e-12)
    weights = noise(*o.shape, seed=4), noise(*keys.shape, seed=5)
    ours = torch.autograd.grad((o * weights[0]).sum() + (keys * weights[1]).sum(), inputs[:5])
    theirs = torch.autograd.grad((whole * weights[0]).sum() + (moved * weights[1]).sum(), inputs[:5])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_a_key_stands_after_the_maps_of_all_later_tokens() -> None:
    q, k, v, w, strength, none = random_inputs(11)
    _, keys = path_attend(q, k, v, w, strength, none, scale=1.0, chunk=4)
    expected = k[:, 0]
    for t in range(1, 11):
        taken = strength[:, t, :, None] * (expected * w[:, t]).sum(-1, keepdim=True)
        expected = expected - taken * w[:, t]
    torch.testing.assert_close(keys[:, 0], expected, rtol=0, atol=1e-12)
    assert torch.equal(keys[:, -1], k[:, -1])


def test_reflections_keep_the_length_of_a_key_over_a_long_sequence() -> None:
    q, k, v, w, strength, none = (z.float() for z in random_inputs(300))
    o, keys = path_attend(q, k, v, w, torch.full_like(strength, 2.0), none, scale=1.0)
    torch.testing.assert_close(keys.norm(dim=-1), k.norm(dim=-1), rtol=0, atol=1e-4)
    assert bool(torch.isfinite(o).all())


def test_a_layer_without_strength_is_attention_without_position() -> None:
    layer, plain = make(), layer_of("mh-attention[rope=false]", dim=DIM)
    layer.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        layer.strength.weight.zero_()
        layer.strength.bias.fill_(-1e3)
    x = noise(2, 70, DIM)
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("bias", [-100.0, 0.0, 100.0])
@pytest.mark.parametrize("size", [0.0, 100.0])
def test_no_strength_and_no_size_of_w_break_the_values_or_the_gradient(bias: float, size: float) -> None:
    layer = make().float()
    with torch.no_grad():
        layer.strength.bias.fill_(bias)
        layer.w_up.weight.mul_(size)
    finite(layer, noise(2, 130, DIM).float())


def test_autocast_leaves_the_maps_in_float32() -> None:
    layer, x = make().float(), noise(1, 256, DIM).float()
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low, state = layer.prefill(x, layer.init_state(1))
    assert (low.float() - exact).abs().max() < 0.05 * exact.abs().max()
    assert state[0].dtype == torch.float32
    bfloat = make().to(torch.bfloat16)
    assert bfloat(x.bfloat16()).dtype == torch.bfloat16


def test_the_state_is_the_cache_and_the_tail_of_w() -> None:
    layer = make(dim=128)
    sizes = layer.measure_state(40)
    assert (sizes["growing"], sizes["conv"]) == (2 * 40 * 128, 2 * 128)
    low_rank = 2 * 128 * 32 + 3 * 128
    assert parameters_in(layer) == 4 * 128**2 + low_rank + 128 * 8 + 8
    mixed = make("conv=4", dim=128).measure_state(40)
    assert mixed["conv"] == 3 * 3 * 128 + 2 * 128
    assert {n for n, h in layer.hints().items() if not h.decay} == {"w_conv.weight"}


def test_the_work_of_moving_keys_is_that_of_the_tokens_or_of_the_chunks() -> None:
    layer = make(dim=128)
    maps = 2 * 40 * (4 * 128**2 + 2 * 128 * 32 + 128 * 8) + 2 * 3 * 40 * 128
    assert layer.flops(40) == maps + 2 * 820 * 128 * 2 + 4 * 128 * (40 * 39 // 2)
    assert all(layer.flops(n) <= layer.executed_flops(n) for n in (1, 64, 65, 1024, 4096))
    # A chunk moves an earlier key at once, so that beside the pairs little is left in a long sequence.
    pairs = 2 * (4096 * 4097 // 2) * 128 * 2
    assert layer.flops(4096) < 2 * (pairs + layer.products(4096))
