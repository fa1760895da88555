"""Smear against its definition, token by token in float64; the contract covers the rest."""

from __future__ import annotations

import pytest
import torch

import architectures
from architectures.growth import widen_hidden
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

SPEC = "smear{delta-net mlp}"


@pytest.mark.parametrize("spec", [SPEC, "smear[read=1]{mh-attention}", "smear[read=32]{(mlp + mamba)}"])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_each_token_takes_a_part_of_the_one_before_it_along(spec: str, length: int) -> None:
    wrapper, x = wrapper_of(spec), noise(2, length, 32)
    rows = []
    for t in range(length):
        gate = 1 / (1 + torch.exp(-(x[:, t, : wrapper.config.read] @ wrapper.gate.weight[0])))
        before = x[:, t - 1] if t else torch.zeros_like(x[:, 0])
        rows.append(x[:, t] + wrapper.strength * gate[:, None] * before)
    y = torch.stack(rows, dim=1)
    for block in wrapper.body:
        y = y + block(y)
    close(wrapper(x), y, 1e-12)


def test_at_the_start_it_is_its_body() -> None:
    wrapper, x = wrapper_of(SPEC, away=0), noise(2, 9, 32)
    y = x
    for block in wrapper.body:
        y = y + block(y)
    assert torch.equal(wrapper(x), y)
    assert not bool(wrapper.strength) and not bool(wrapper.gate.weight.any())


def test_pieces_and_steps_continue_the_sequence() -> None:
    model, tokens = model_of(SPEC), random_tokens(2, 17, vocab=7)
    close(in_pieces(model, tokens, 1, 2, 8, 9)[0], model(tokens), 1e-11)


@pytest.mark.parametrize("spec", [SPEC, "smear{smear{mlp}} repeat{smear{mamba}}", "(mlp + smear{mlp})"])
def test_models_with_it_decode_and_learn(spec: str) -> None:
    decodes_and_learns(spec)


def test_it_adds_thirteen_numbers_and_a_token_of_state() -> None:
    ours, body = (
        architectures.account(spec, vocab_size=5, dim=32, seq_len=16) for spec in (SPEC, "delta-net mlp")
    )
    assert ours.params == body.params + 12 + 1
    assert ours.state and body.state and ours.state["conv"] == body.state["conv"] + 32
    assert sum(x.flops for x in ours.layers) == sum(x.flops for x in body.layers) + 2 * 12 + 2 * 32


def test_a_wider_stream_keeps_the_function() -> None:
    model, tokens = model_of("smear{mh-attention mlp}"), random_tokens(2, 12, vocab=7)
    close(widen_hidden(model, to=48, fill=wild())[0](tokens), model(tokens), 1e-10)


def test_more_channels_than_there_are_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="read=33 is more than the width 32; choose at most 32"):
        wrapper_of("smear[read=33]{mlp}")
