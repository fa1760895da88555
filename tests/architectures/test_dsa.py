"""DeepSeek sparse attention against sets of positions, in float64; the contract covers the rest."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.functional.rotary import rotate, rotate_first
from architectures.primitive import Choices, Context
from tests.architectures.helpers import (
    agree,
    close,
    gated_out,
    heads_of_attention,
    in_pieces,
    layer_of,
    noise,
)

DIM = 32
make = partial(layer_of, "dsa", away=0.1)
OPTIONS = [
    "top_k=5",
    "top_k=1, heads=1, rope=false, index_heads=1",
    "top_k=7, heads=4, kv_heads=2, key_dim=6, value_dim=3, index_dim=4, conv=3, qk_norm=true, gate=true",
]


def turned(layer: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = heads_of_attention(layer, x)
    if layer.rotated:
        at = torch.arange(x.shape[1])
        q, k = (rotate_first(z, at, layer.rotated, layer.rotary_width) for z in (q, k))
    return q, k, v


def judged(layer: Any, x: Tensor) -> list[list[Tensor]]:
    """The index of each earlier token, x (T, D)."""
    c, at = layer.config, torch.arange(len(x))
    p = (x @ layer.index_query.weight.T).unflatten(-1, (c.index_heads, c.index_dim))
    r = (x @ layer.index_key.weight.T)[:, None]
    if c.rope:
        p, r = (rotate(z[None], at)[0] for z in (p, r))
    w = x @ layer.index_head.weight.T / math.sqrt(c.index_heads * c.index_dim)
    pairs = [[(w[t] * torch.relu(p[t] @ r[s, 0])).sum() for s in range(t + 1)] for t in range(len(x))]
    return pairs


def naive(layer: Any, x: Tensor) -> Tensor:
    (q, k, v), rows = turned(layer, x), []
    for b in range(x.shape[0]):
        for t, scores in enumerate(judged(layer, x[b].detach())):
            order = sorted(range(t + 1), key=lambda s, i=scores: (i[s].item(), s))  # type: ignore[misc]
            js, found = order[-layer.config.top_k :], []
            for h in range(layer.heads):
                g = h * layer.kv_heads // layer.heads
                weights = (k[b, js, g] @ q[b, t, h] / math.sqrt(layer.key_dim)).softmax(0)
                found.append(weights @ v[b, js, g])
            rows.append(gated_out(layer, torch.cat(found), x[b, t]))
    return torch.stack(rows).unflatten(0, x.shape[:2])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 4, 31])
def test_forward_and_its_gradient_are_those_of_the_definition(options: str, length: int) -> None:
    agree(make(options), naive, noise(1, length, DIM), atol=1e-11, slope=1e-9 if length > 4 else None)


@pytest.mark.parametrize("options", OPTIONS)
def test_pieces_and_steps_continue_the_sequence(options: str) -> None:
    layer, x = make(options), noise(2, 60, DIM)
    close(in_pieces(layer, x, 1, 9, 10, 11, 41)[0], layer(x))


def test_all_tokens_are_full_attention_and_equal_indices_a_window() -> None:
    x = noise(2, 38, DIM)
    for options, spec in (("top_k=38", "mh-attention"), ("top_k=9", "mh-attention[window=9]")):
        layer, plain = make(options), layer_of(spec)
        plain.load_state_dict({n: p for n, p in layer.state_dict().items() if not n.startswith("index")})
        with torch.no_grad():
            layer.index_head.weight.zero_()
        close(layer(x), plain(x), 1e-12)
        close(in_pieces(layer, x, 20, 21, 22)[0], plain(x), 1e-12)


def test_the_indexer_learns_the_mean_of_the_heads_and_nothing_else_learns_from_it() -> None:
    layer, ctx = make("top_k=3, index_weight=0.5", away=0.3), Context(seed=0)
    x = noise(1, 6, DIM).requires_grad_()
    layer(x, ctx)
    ((key, loss),) = ctx.losses.items()
    q, k, _ = turned(layer, x)
    expected = torch.zeros((), dtype=torch.float64)
    for t, scores in enumerate(judged(layer, x[0])):
        own = torch.stack(scores).softmax(0)
        heads = [
            (k[0, : t + 1, h] @ q[0, t, h] / math.sqrt(layer.key_dim)).softmax(0) for h in range(layer.heads)
        ]
        target = torch.stack(heads).mean(0)
        expected = expected + (target * (target / own).log()).sum() / 6
    assert key == "blocks.0.layer/index"
    close(loss, 0.5 * expected, 1e-10)
    named = {"x": x} | dict(layer.named_parameters())
    slopes = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    learns = {name for name, g in zip(named, slopes, strict=True) if g is not None and bool(g.any())}
    assert learns == {"index_query.weight", "index_key.weight", "index_head.weight"}
    still, quiet = Context(), Context(seed=0)
    layer(x, still)
    make("index_weight=0")(x, quiet)
    assert not still.losses and not quiet.losses


def test_the_choice_is_replayed_and_made_in_full_precision() -> None:
    layer, x = make("top_k=2").float(), noise(1, 12, DIM).float()
    ctx = Context(choices=Choices())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x, ctx)
    layer(x, ctx)
    low, high = ctx.choices.made  # type: ignore[union-attr]
    assert torch.equal(low, high)
    every = torch.ones_like(low).tril()
    assert not torch.equal(layer(x, Context(choices=Choices(given=[every]))), layer(x))


def test_work_state_and_refusals() -> None:
    layer = make("top_k=4", dim=128)
    maps, pairs, judged = 4 * 128**2 + (4 * 16 + 16 + 4) * 128, 1 + 2 + 3 + 4 * 7, 10 * 11 // 2
    assert layer.flops(10) == 20 * maps + 4 * pairs * 128 + judged * 4 * (2 * 16 + 2)
    assert layer.measure_state(40)["growing"] == 40 * (2 * 128 + 16)
    assert layer.reads(40) == 4 * 2 * 128 + 40 * 16 and layer.reads(3) == 3 * (2 * 128 + 16)
    with pytest.raises(ValueError, match="index_dim=5 is odd, and RoPE rotates pairs; choose an even"):
        make("index_dim=5")
    with pytest.raises(ValueError, match="top_k=0 must be at least 1"):
        make("top_k=0")
