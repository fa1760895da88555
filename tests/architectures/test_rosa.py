"""The copier of suffixes against brute force; the contract covers the rest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import architectures
from architectures.functional.ids import copied
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


def followed(ids: list[int]) -> list[int]:
    """Every suffix against every earlier place, the longest and then the latest first."""
    found = []
    for t in range(len(ids)):
        found.append(-1)
        for length in range(t, 0, -1):
            suffix = ids[t + 1 - length : t + 1]
            ends = [e for e in range(length - 1, t) if ids[e + 1 - length : e + 1] == suffix]
            if ends:
                found[-1] = ids[ends[-1] + 1]
                break
    return found


def whole(ids: Tensor) -> Tensor:
    return copied(ids, ids[:, :0])[0]


@pytest.mark.parametrize("vocab", [1, 2, 4, 30])
@pytest.mark.parametrize("length", [1, 2, 17, 65, 130])
def test_it_is_what_brute_force_finds(vocab: int, length: int) -> None:
    ids = random_tokens(3, length, vocab=vocab)
    assert whole(ids).tolist() == [followed(row) for row in ids.tolist()]


def test_an_example() -> None:
    ids = torch.tensor([[3, 1, 4, 1, 5, 3, 1, 4, 9, 1]])
    # 4 was last followed by 1, "3 1 4" by 1, and the last 1 by 4 (at 6), not by 5 (at 3).
    assert whole(ids).tolist() == [[-1, -1, -1, 4, -1, 1, 4, 1, -1, 4]]


@pytest.mark.parametrize("cuts", [[1, 2, 3], [64, 70], [100], [20, 21, 90]])
def test_pieces_continue_the_sequence(cuts: list[int]) -> None:
    ids = random_tokens(2, 110, vocab=2)
    found, lengths = [], ids[:, :0]
    for end in [*cuts, 110]:
        y, lengths = copied(ids[:, :end], lengths)
        assert lengths.shape == (2, end)
        found.append(y)
    assert torch.equal(torch.cat(found, dim=1), whole(ids))


def test_the_embedding_of_what_followed_is_added_ahead_of_the_body() -> None:
    layer, x, ids = wrapper_of("rosa{delta-net mlp}"), noise(2, 30, 32), random_tokens(2, 30, vocab=5)
    y = x.clone()
    for b, row in enumerate(ids.tolist()):
        for t, found in enumerate(followed(row)):
            if found >= 0:
                y[b, t] += layer.table[found].detach()
    for block in layer.body:
        y = y + block(y)
    close(layer(x, Context(tokens=ids)), y, 1e-12)


def test_pieces_and_steps_continue_the_sequence() -> None:
    model, tokens = model_of("rosa{delta-net mlp}"), random_tokens(2, 17, vocab=7)
    close(in_pieces(model, tokens, 1, 2, 8, 9)[0], model(tokens), 1e-11)


@pytest.mark.parametrize("spec", ["rosa{mlp}", "rosa{mh-attention swiglu} mlp", "mlp repeat{rosa{mamba}}"])
def test_models_with_it_decode_and_learn(spec: str) -> None:
    decodes_and_learns(spec)


def test_it_adds_an_embedding_of_which_a_token_uses_a_row() -> None:
    ours, body = (
        architectures.account(spec, vocab_size=5, dim=32, seq_len=16) for spec in ("rosa{mlp}", "1*mlp")
    )
    assert (ours.params, ours.active) == (body.params + 5 * 32, body.active + 32)
    assert ours.state == body.state
    assert sum(x.flops for x in ours.layers) == sum(x.flops for x in body.layers) + 32


def test_a_wider_stream_keeps_the_function() -> None:
    model, tokens = model_of("rosa{mlp}"), random_tokens(2, 12, vocab=7)
    close(widen_hidden(model, to=48, fill=wild())[0](tokens), model(tokens), 1e-10)
