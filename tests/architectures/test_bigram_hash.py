"""The bigram table against its definition, token by token in float64; the contract covers the rest."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import architectures
from architectures.growth import widen_hidden
from architectures.primitive import Context
from tests.architectures.helpers import (
    close,
    decodes_and_learns,
    in_pieces,
    model_of,
    noise,
    random_tokens,
    wild,
    wrapper_of,
)

SPEC = "bigram-hash{delta-net mlp}"


def wrapper(vocab: int, rows: str = "") -> Any:
    spec = SPEC.replace("{", f"[{rows}]{{") if rows else SPEC
    model = architectures.build(spec, vocab_size=vocab, dim=32, max_len=16, seed=0)
    return model.blocks[0]


@pytest.mark.parametrize("length", [1, 2, 9])
def test_before_each_block_the_row_of_the_last_two_tokens_is_added(length: int) -> None:
    layer, x, ids = wrapper_of(SPEC), noise(2, length, 32), random_tokens(2, length)
    assert layer.table.shape == (26, 32)
    found = torch.zeros_like(x)
    for b in range(2):
        for t in range(length):
            row = int(ids[b, t - 1]) * 5 + int(ids[b, t]) if t else 25
            found[b, t] = layer.table[row].detach()
    y = x
    for block, scale in zip(layer.body, layer.scale, strict=True):
        y = y + scale * found
        y = y + block(y)
    close(layer(x, Context(tokens=ids)), y, 1e-12)


@pytest.mark.parametrize("vocab, rows", [(5, ""), (316, ""), (7, "rows=50")])
def test_where_there_are_rows_enough_no_two_pairs_share_one(vocab: int, rows: str) -> None:
    layer = wrapper(vocab, rows)
    assert len(layer.table) == vocab**2 + 1
    first, second = torch.arange(vocab).repeat_interleave(vocab), torch.arange(vocab).repeat(vocab)
    found = layer.find(torch.stack([first, second], dim=1), torch.full((vocab**2, 1), -1))
    assert bool((found[:, 0] == vocab**2).all())
    assert torch.equal(found[:, 1].sort().values, torch.arange(vocab**2))


def hashed(ids: Tensor, rows: int) -> list[list[int]]:
    """By Python's integers, which do not wrap."""
    return [
        [
            (36313 * i ^ 27191 * h) % (rows - 1) if t else rows - 1
            for t, (h, i) in enumerate(pairwise([0, *row]))
        ]
        for row in ids.tolist()
    ]


@pytest.mark.parametrize("vocab, rows", [(317, 0), (50_304, 0), (7, 49), (7, 2)])
def test_where_pairs_are_more_they_are_hashed(vocab: int, rows: int) -> None:
    layer = wrapper(vocab, f"rows={rows}" if rows else "")
    ids = random_tokens(3, 16, vocab=vocab)
    expected = hashed(ids, rows or 5 * vocab)
    assert layer.find(ids, torch.full((3, 1), -1)).tolist() == expected
    pieces = [layer.find(ids[:, :7], torch.full((3, 1), -1)), layer.find(ids[:, 7:], ids[:, 6:7])]
    assert torch.cat(pieces, dim=1).tolist() == expected


def test_at_the_start_it_is_its_body() -> None:
    layer, x = wrapper_of(SPEC, away=0), noise(2, 9, 32)
    y = x
    for block in layer.body:
        y = y + block(y)
    assert torch.equal(layer(x, Context(tokens=random_tokens(2, 9))), y)
    assert layer.scale.tolist() == pytest.approx([0.1, 0.1])


def test_pieces_and_steps_continue_the_sequence() -> None:
    model, tokens = model_of(SPEC), random_tokens(2, 17, vocab=7)
    close(in_pieces(model, tokens, 1, 2, 8, 9)[0], model(tokens), 1e-11)


@pytest.mark.parametrize(
    "spec",
    [SPEC, "mlp bigram-hash[rows=7]{2*(mh-attention swiglu)}", "repeat{bigram-hash{mamba}}"],
)
def test_models_with_it_decode_and_learn(spec: str) -> None:
    decodes_and_learns(spec)


def test_a_token_uses_one_row_of_the_table() -> None:
    ours, body = (
        architectures.account(spec, vocab_size=5, dim=32, seq_len=16) for spec in (SPEC, "delta-net mlp")
    )
    assert ours.params == body.params + 26 * 32 + 2
    assert ours.active == body.active + 32 + 2
    assert ours.state == body.state
    assert sum(x.flops for x in ours.layers) == sum(x.flops for x in body.layers) + 2 * 2 * 32
    hint = wrapper_of(SPEC).hints()["table"]
    assert (hint.decay, hint.lr_scale) == (False, 75.0)


def test_a_wider_stream_keeps_the_function() -> None:
    model, tokens = model_of("bigram-hash{mh-attention mlp}"), random_tokens(2, 12, vocab=7)
    close(widen_hidden(model, to=48, fill=wild())[0](tokens), model(tokens), 1e-10)


def test_it_needs_the_tokens() -> None:
    with pytest.raises(ValueError, match="reads the ids of the tokens, and this call has none"):
        wrapper_of(SPEC)(noise(1, 3, 32))
