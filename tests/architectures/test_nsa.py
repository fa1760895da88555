"""Native sparse attention against sets of positions, in float64; the contract covers the rest."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.functional.rotary import rotate_first
from architectures.growth import add_heads, widen_hidden
from architectures.primitive import Choices, Context
from tests.architectures.helpers import (
    agree,
    close,
    gated_out,
    heads_of_attention,
    in_pieces,
    layer_of,
    model_of,
    noise,
    random_tokens,
    wild,
)

DIM = 32
make = partial(layer_of, "nsa", away=0.1)
OPTIONS = [
    "block=3, top_k=4, window=5",
    "block=4, top_k=3, window=1, heads=1, rope=false",
    "block=2, top_k=5, window=8, heads=4, kv_heads=2, key_dim=6, value_dim=3, conv=3, gate=true",
]


def naive(layer: Any, x: Tensor) -> Tensor:
    c, scale = layer.config, 1 / math.sqrt(layer.key_dim)
    q, k, v = heads_of_attention(layer, x)
    if layer.rotated:
        at = torch.arange(x.shape[1])
        q, k = (rotate_first(z, at, layer.rotated, layer.rotary_width) for z in (q, k))
    gates = torch.sigmoid(x @ layer.branches.weight.T).unflatten(-1, (3, layer.heads))
    rows, group = [], layer.heads // layer.kv_heads
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            own, whole = t // c.block, (t + 1) // c.block
            found = []
            for h in range(layer.heads):
                g = h // group
                keys, values = k[b, :, g], v[b, :, g]

                def mean(z: Tensor, n: int = whole) -> Tensor:
                    return z[: n * c.block].unflatten(0, (n, c.block)).mean(1)

                sharing = [q[b, t, i] for i in range(g * group, (g + 1) * group)]
                judged = [0.0] * whole
                if whole:
                    weights = [(mean(keys) @ one * scale).softmax(0) for one in sharing]
                    judged = torch.stack(weights).mean(0).tolist()
                always = {c_ for c_ in (0, own, own - 1) if c_ >= 0}
                others = sorted(set(range(own)) - always, key=lambda n: (judged[n], n), reverse=True)
                best = always | set(others[: c.top_k - 3])
                blocks = [s for s in range(t + 1) if s // c.block in best]
                near = list(range(max(0, t - c.window + 1), t + 1))
                answers = [(keys[js] @ q[b, t, h] * scale).softmax(0) @ values[js] for js in (blocks, near)]
                pooled = torch.zeros_like(answers[0])
                if whole:
                    pooled = (mean(keys) @ q[b, t, h] * scale).softmax(0) @ mean(values)
                terms = zip(gates[b, t, :, h], (pooled, *answers), strict=True)
                found.append(torch.stack([gate * answer for gate, answer in terms]).sum(0))
            rows.append(gated_out(layer, torch.cat(found), x[b, t]))
    return torch.stack(rows).unflatten(0, x.shape[:2])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 4, 31])
def test_forward_and_its_gradient_are_those_of_the_definition(options: str, length: int) -> None:
    x = noise(1, length, DIM)
    agree(make(options), lambda layer, x: naive(layer, x), x, atol=1e-11, slope=1e-9 if length > 4 else None)


@pytest.mark.parametrize("options", OPTIONS)
def test_pieces_and_steps_continue_the_sequence(options: str) -> None:
    layer, x = make(options), noise(2, 60, DIM)
    close(in_pieces(layer, x, 1, 9, 10, 11, 12, 13, 41)[0], layer(x))


def test_the_second_branch_with_all_blocks_is_full_attention() -> None:
    layer, x = make("block=5, top_k=8, heads=2"), noise(2, 38, DIM)
    plain = layer_of("mh-attention", "kv_heads=1")
    plain.load_state_dict({n: p for n, p in layer.state_dict().items() if n in plain.state_dict()})
    x[..., 0] = 100
    with torch.no_grad():
        for name in ("query", "key", "value"):
            getattr(layer, name).weight[:, 0] = 0
            getattr(plain, name).weight[:, 0] = 0
        layer.branches.weight.zero_()
        layer.branches.weight[:, 0] = torch.tensor([-1.0, 1.0, -1.0]).repeat_interleave(2)
    close(layer(x), plain(x), 1e-12)


def test_the_first_branch_is_nothing_before_a_block_is_whole() -> None:
    layer, x = make("block=8"), noise(2, 20, DIM)
    q, k, v, _ = layer.project(x, torch.arange(20), layer.init_tails(2), None)
    found, weights = layer.pooled(q, k, v)
    assert not found[:, :7].any() and bool(found[:, 7:].any(-1).all())
    close(weights[:, :, 7:].sum(-1), torch.ones_like(weights[:, :, 7:, 0]), 1e-12)


def test_the_choice_is_replayed() -> None:
    layer, x = make("block=2, top_k=3"), noise(1, 12, DIM)
    ctx = Context(choices=Choices())
    layer(x, ctx)
    (chosen,) = ctx.choices.made  # type: ignore[union-attr]
    every = torch.ones_like(chosen).tril()
    assert not torch.equal(layer(x, Context(choices=Choices(given=[every]))), layer(x))


def test_work_state_and_refusals() -> None:
    layer = make("block=4, top_k=3, window=5", dim=128)
    visible = sum(t % 4 + 1 + min(2, t // 4) * 4 for t in range(20))
    seen = visible + sum((t + 1) // 4 for t in range(20)) + sum(min(t + 1, 5) for t in range(20))
    assert layer.kv_heads == 2 and layer.measure_state(40)["growing"] == 40 * 2 * 2 * 16
    assert layer.reads(42) == 2 * 32 * (2 + 8 + 10 + 4) and layer.reads(6) == 2 * 32 * 6
    maps = 2 * 128**2 + 2 * 32 * 128 + 24 * 128
    assert layer.flops(20) == 40 * maps + 4 * seen * 128 + 3 * 20 * 128
    with pytest.raises(ValueError, match="top_k=2 must be at least 3"):
        make("top_k=2")


def test_only_the_width_of_the_model_grows() -> None:
    model, tokens = model_of("nsa[heads=4, kv_heads=2, block=2, top_k=3] mlp", dim=16), random_tokens(2, 12)
    close(widen_hidden(model, to=32, fill=wild())[0](tokens), model(tokens), 1e-12)
    with pytest.raises(ValueError, match="no rule for that"):
        add_heads(model, to=8)
