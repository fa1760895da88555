"""Attention to compressed entries, token by token in float64; the contract covers the rest."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.functional.rotary import rotate_first
from architectures.primitive import Choices, Context
from tests.architectures.helpers import agree, close, in_pieces, layer_of, noise, parameters_in, rms

DIM = 32
SPECS = [
    ("hca", "stride=5, window=4"),
    ("hca", "stride=1, window=1, heads=1, rope=false, query_rank=3"),
    ("csa", "stride=3, window=4, top_k=2"),
    ("csa", "stride=2, window=3, top_k=9, heads=4, key_dim=6, rope_fraction=0.3, index_heads=1, index_dim=6"),
    ("csa", "stride=1, window=1, top_k=4, rope=false, index_dim=3"),
]


def make(name: str, options: str = "", *, away: float = 0.1, dim: int = DIM) -> Any:
    return layer_of(name, options, away=away, dim=dim)


def turn(z: Tensor, t: int, count: int) -> Tensor:
    """RoPE on the first channels of z (..., K) at position t."""
    if not count:
        return z
    return rotate_first(z.reshape(1, 1, -1, z.shape[-1]), torch.tensor([t]), count, count).reshape(z.shape)


def entries(module: Any, x: Tensor, count: int) -> list[Tensor]:
    """What a compressor makes of x (T, D), entry by entry and channel by channel."""
    m, width, found = module.stride, module.width, []
    c, z = (x @ module.maps.weight.T).chunk(2, dim=-1)
    for i in range(len(x) // m):
        slots = [(i * m + j, j, width if module.overlap else 0) for j in range(m)]
        if module.overlap and i:
            slots += [((i - 1) * m + j, j, 0) for j in range(m)]
        entry = []
        for n in range(width):
            logits = torch.stack([z[t, half + n] + module.bias[j, half + n] for t, j, half in slots])
            values = torch.stack([c[t, half + n] for t, _, half in slots])
            entry.append((logits.softmax(0) * values).sum())
        found.append(turn(rms(torch.stack(entry)) * module.norm.weight, i * m, count))
    return found


def judged(layer: Any, x: Tensor) -> Tensor:
    """The index (T, N) of every entry for every token, whole or not."""
    c = layer.config
    keys = torch.stack(entries(layer.index_compressor, x, layer.index_rotated))
    low = rms(x @ layer.query_down.weight.T) * layer.query_norm.weight
    p = (low @ layer.index_query.weight.T).unflatten(-1, (c.index_heads, c.index_dim))
    p = torch.stack([turn(z, t, layer.index_rotated) for t, z in enumerate(p)])
    w = x @ layer.index_head.weight.T / math.sqrt(c.index_heads * c.index_dim)
    return (w[..., None] * torch.relu(p @ keys.T)).sum(1)


def asked(layer: Any, x: Tensor) -> Tensor:
    """Queries (T, H, K)."""
    low = rms(x @ layer.query_down.weight.T) * layer.query_norm.weight
    q = rms((low @ layer.query_up.weight.T).unflatten(-1, (layer.heads, layer.key_dim)))
    return torch.stack([turn(z, t, layer.rotated) for t, z in enumerate(q)])


def naive(layer: Any, x: Tensor) -> Tensor:
    c, rows = layer.config, []
    for row in x:
        own = entries(layer.compressor, row, layer.rotated)
        keys = rms(row @ layer.key.weight.T) * layer.key_norm.weight
        keys = torch.stack([turn(z, t, layer.rotated) for t, z in enumerate(keys)])
        scores = judged(layer, row.detach()) if layer.name == "csa" and own else None
        for t, q in enumerate(asked(layer, row)):
            best = list(range((t + 1) // c.stride))
            if scores is not None:
                index = scores[t].tolist()
                best = sorted(best, key=lambda i, v=index: (v[i], i))[-c.top_k :]  # type: ignore[misc]
            seen = [*keys[max(0, t - c.window + 1) : t + 1], *(own[i] for i in best)]
            found = []
            for h in range(layer.heads):
                logits = [k @ q[h] / math.sqrt(layer.key_dim) for k in seen]
                weights = torch.stack([*logits, layer.sink[h]]).softmax(0)
                answer = sum(p * k for p, k in zip(weights, seen, strict=False))
                found.append(turn(answer, -t, layer.rotated))
            rows.append(layer.out.weight @ torch.cat(found))
    return torch.stack(rows).unflatten(0, x.shape[:2])


@pytest.mark.parametrize("name, options", SPECS)
def test_forward_and_its_gradient_are_those_of_the_definition(name: str, options: str) -> None:
    layer = make(name, options)
    for length in (1, 2, 3, 5):
        agree(layer, naive, noise(1, length, DIM), atol=1e-11, slope=None)
    agree(layer, naive, noise(1, 23, DIM), atol=1e-11)


@pytest.mark.parametrize("name, options", SPECS)
def test_pieces_and_steps_continue_the_sequence(name: str, options: str) -> None:
    layer, x = make(name, options), noise(2, 60, DIM)
    whole = layer(x)
    close(in_pieces(layer, x, 1, 9, 10, 11, 12, 13, 14, 41)[0], whole)
    close(in_pieces(layer, x, *range(1, 60))[0], whole)


def test_without_whole_entries_it_is_attention_with_one_key_that_is_the_value() -> None:
    layer, x = make("hca", "stride=40, window=40, rope=false"), noise(2, 39, DIM)
    with torch.no_grad():
        layer.sink.fill_(-1e9)
    q = torch.stack([asked(layer, row) for row in x])
    k = rms(x @ layer.key.weight.T) * layer.key_norm.weight
    scores = torch.einsum("bthk,bsk->bhts", q, k) / math.sqrt(layer.key_dim)
    scores = scores + torch.full((39, 39), -torch.inf).triu(1)
    o = torch.einsum("bhts,bsk->bthk", scores.softmax(-1), k)
    close(layer(x), o.flatten(-2) @ layer.out.weight.T, 1e-12)


def test_with_all_entries_chosen_the_indexer_says_nothing() -> None:
    layer, x = make("csa", "top_k=15, stride=4"), noise(2, 60, DIM)
    y = layer(x)
    with torch.no_grad():
        layer.index_head.weight.neg_()
    assert torch.equal(layer(x), y)
    few = make("csa", "top_k=2, stride=4")
    y = few(x)
    with torch.no_grad():
        few.index_head.weight.neg_()
    assert not torch.equal(few(x), y)


def test_equal_indices_leave_the_latest_entries() -> None:
    layer, every, x = make("csa", "top_k=3, stride=2"), make("csa", "top_k=3, stride=2"), noise(1, 30, DIM)
    with torch.no_grad():
        layer.index_head.weight.zero_()
    ctx = Context(choices=Choices())
    layer(x, ctx)
    (chosen,) = ctx.choices.made  # type: ignore[union-attr]
    for t in range(30):
        whole = (t + 1) // 2
        assert [i for i in range(15) if chosen[0, t, i]] == list(range(whole))[-3:]
    given = Context(choices=Choices(given=[chosen]))
    close(every(x, given), layer(x), 1e-12)
    assert not torch.equal(every(x), layer(x))


def test_the_indexer_learns_the_mean_of_the_heads_and_nothing_else_learns_from_it() -> None:
    layer, ctx = make("csa", "stride=3, top_k=2, index_weight=0.5", away=0.3), Context(seed=0)
    x = noise(1, 11, DIM).requires_grad_()
    layer(x, ctx)
    ((key, loss),) = ctx.losses.items()
    own, q, scores = entries(layer.compressor, x[0], layer.rotated), asked(layer, x[0]), judged(layer, x[0])
    expected = torch.zeros((), dtype=torch.float64)
    for t in range(2, 11):
        whole = (t + 1) // 3
        heads = [
            (torch.stack(own[:whole]) @ q[t, h] / math.sqrt(layer.key_dim)).softmax(0)
            for h in range(layer.heads)
        ]
        target = torch.stack(heads).mean(0)
        expected = expected + (target * (target / scores[t, :whole].softmax(0)).log()).sum() / 9
    assert key == "blocks.0.layer/index"
    close(loss, 0.5 * expected, 1e-10)
    named = {"x": x} | dict(layer.named_parameters())
    slopes = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    learns = {name for name, g in zip(named, slopes, strict=True) if g is not None and bool(g.any())}
    assert learns == {name for name in named if name.startswith("index")}
    quiet = Context(seed=0)
    make("csa", "index_weight=0")(x, quiet)
    assert not quiet.losses


def test_state_parameters_and_work_at_width_128() -> None:
    hca, csa = make("hca", dim=128), make("csa", dim=128)
    # A window of 16 tokens; c and z of 7 tokens; an entry of 16 channels for 8 tokens.
    sizes = hca.measure_state(96)
    assert (sizes["recurrent"], sizes["conv"], sizes["growing"]) == (16 * 16, 7 * 32, 12 * 16)
    sizes = csa.measure_state(96)
    assert (sizes["recurrent"], sizes["conv"], sizes["growing"]) == (256, 2 * 7 * 64, 24 * (16 + 16))
    maps = 128 * 32 + 32 * 128 + 128 * 16 + 128**2
    assert parameters_in(hca) == maps + 128 * 32 + 8 * 16 + 8 + 32 + 2 * 16
    assert csa.reads(96) == sizes["total"] - (24 - 8) * 16 and hca.reads(96) is None
    read = sum(min(t + 1, 16) + (t + 1) // 8 for t in range(40))
    assert hca.flops(40) == 80 * (maps + 128 * 32) + 4 * read * 128 + 2 * 40 * 16
    whole = [(t + 1) // 4 for t in range(40)]
    read = sum(min(t + 1, 16) for t in range(40)) + sum(min(n, 8) for n in whole)
    linear = maps + 2 * 128 * 64 + 32 * 64 + 128 * 4
    assert csa.flops(40) == 80 * linear + 4 * read * 128 + sum(whole) * 4 * 34 + 2 * 2 * 40 * 32
    undecayed = {n for n, h in csa.hints().items() if not h.decay}
    assert undecayed == {"sink", "compressor.bias", "index_compressor.bias"}


@pytest.mark.parametrize("option", ["stride=0", "window=0"])
def test_what_is_empty_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match="=0 must be at least 1"):
        make("hca", option)


@pytest.mark.parametrize("name", ["hca", "csa"])
def test_a_batch_may_be_empty(name: str) -> None:
    assert make(name)(noise(0, 9, DIM)).shape == (0, 9, DIM)
