"""Engram against its definition, token by token in float64; the contract covers the rest."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import architectures
from architectures.functional.ids import next_prime
from architectures.primitive import Context
from tests.architectures.helpers import (
    close,
    decodes_and_learns,
    finite,
    in_pieces,
    model_of,
    moved,
    noise,
    parameters_in,
    random_tokens,
    rms,
    silu,
    slopes,
)

DIM = 32
OPTIONS = [
    "",
    "ngrams=2, taps=0",
    "ngrams=4, heads=1, row_dim=5, taps=2",
    "rows=20, heads=3",
    "rows=2, taps=1",
]


def make(options: str = "", *, vocab: int = 5, dim: int = DIM, away: float = 0.2) -> Any:
    spec = f"1*engram[{options}]" if options else "1*engram"
    model = architectures.build(spec, vocab_size=vocab, dim=dim, max_len=60, seed=0)
    return moved(model.layers()[0][1].double(), away)


def rows_of(layer: Any, ids: list[int], t: int) -> list[int]:
    """The rows of token t, by Python's integers."""
    config, vocab = layer.config, layer.vocab_size
    least = config.rows or 5 * vocab
    back = [ids[t - i] if t >= i else vocab for i in range(config.ngrams)]
    rows, offset, prime = [], 0, least - 1
    for n in range(2, config.ngrams + 1):
        exact = (vocab + 1) ** n <= (config.rows or 100_000)
        for _ in range(config.heads):
            if exact:
                size, row = (vocab + 1) ** n, 0
                for i in back[:n]:
                    row = row * (vocab + 1) + i
            else:
                size = prime = next_prime(prime)
                row = 0
                for i, m in zip(back[:n], layer.multipliers, strict=False):
                    row ^= i * m
                row %= size
            rows.append(offset + row)
            offset += size
    assert offset == len(layer.table)
    return rows


def naive(layer: Any, x: Tensor, ids: Tensor) -> Tensor:
    """One token after the other; what the convolution looks back at is kept in a list."""
    config = layer.config
    out = []
    for b, row in enumerate(ids.tolist()):
        let_in: list[Tensor] = []
        for t in range(len(row)):
            e = torch.cat([layer.table[i] for i in rows_of(layer, row, t)])
            key = rms(layer.key.weight @ e + layer.key.bias) * layer.key_norm.weight
            s = (key * x[b, t]).sum() / math.sqrt(DIM)
            gate = 1 / (1 + torch.exp(-torch.sign(s) * torch.sqrt(torch.clamp(s.abs(), min=1e-6))))
            let_in.append(gate * (layer.value.weight @ e + layer.value.bias))
            y = let_in[-1]
            if config.taps:
                total = torch.zeros_like(y)
                for i in range(config.taps):
                    s_ = t - i * config.ngrams
                    if s_ >= 0:
                        total = total + layer.conv[:, -1 - i] * rms(let_in[s_]) * layer.value_norm.weight
                y = y + silu(total)
            out.append(y)
    return torch.stack(out).view_as(x)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 19])
def test_forward_and_its_gradient_are_those_of_the_definition(options: str, length: int) -> None:
    layer, x, ids = make(options), noise(2, length, DIM), random_tokens(2, length)
    y, expected = layer(x, Context(tokens=ids)), naive(layer, x, ids)
    close(y, expected, 1e-12)
    named = dict(layer.named_parameters())
    ours, theirs = (slopes(z, list(named.values())) for z in (y, expected))
    for name, a, b in zip(named, ours, theirs, strict=True):
        close(a, b, 1e-10, least=1e-3, name=name)


@pytest.mark.parametrize("options", OPTIONS)
def test_pieces_and_steps_continue_the_sequence(options: str) -> None:
    model = model_of(f"engram[{options}] mlp" if options else "engram mlp")
    tokens = random_tokens(2, 23, vocab=7)
    close(in_pieces(model, tokens, 1, 2, 11, 12)[0], model(tokens), 1e-11)


@pytest.mark.parametrize("vocab", [5, 7])
def test_with_two_tokens_an_open_gate_and_no_convolution_it_is_the_bigram_table(vocab: int) -> None:
    layer = make("ngrams=2, heads=1, row_dim=16, taps=0", vocab=vocab, dim=16)
    bigram = architectures.build("bigram-hash{mlp}", vocab_size=vocab, dim=16, max_len=60, seed=0).double()
    wrapper: Any = bigram.blocks[0]
    x, ids = noise(2, 19, 16), random_tokens(2, 19, vocab=vocab)
    with torch.no_grad():
        layer.key.weight.zero_()
        layer.key.bias.fill_(1.0)
        layer.key_norm.weight.fill_(1e8)
        layer.value.weight.copy_(torch.eye(16))
        layer.value.bias.zero_()
        wrapper.body[0].layer.down.weight.zero_()
        wrapper.scale.fill_(1.0)
        for i in range(vocab):
            for before in range(vocab):
                wrapper.table[before * vocab + i] = layer.table[i * (vocab + 1) + before]
            # Before the first token stands an id more; the wrapper has one row for all firsts.
            layer.table[i * (vocab + 1) + vocab] = wrapper.table[-1]
    ctx = Context(tokens=ids)
    close(layer(x.abs(), ctx), wrapper(x, ctx) - x, 1e-12)


def test_where_there_are_rows_enough_no_two_ngrams_share_one() -> None:
    layer = make("ngrams=3, heads=2", vocab=4)
    grid = torch.cartesian_prod(*3 * [torch.arange(5)])
    found = layer.find(grid)[:, 0]
    assert found.shape == (125, 4) and len(layer.table) == 2 * (25 + 125)
    for column, least, size in zip(found.T, (0, 25, 50, 175), (25, 25, 125, 125), strict=True):
        assert torch.equal(column.unique(), torch.arange(least, least + size))


def test_primes_are_distinct_and_follow_each_other() -> None:
    assert [next_prime(n) for n in (0, 2, 13, 24, 113)] == [2, 3, 17, 29, 127]
    layer = make("row_dim=1", vocab=50_000, dim=16, away=0)
    sizes = [size for each in layer.sizes for size in each]
    assert sizes[:2] == [250_007, 250_013] and len(set(sizes)) == 8
    assert all(size % d for size in sizes for d in range(2, math.isqrt(size) + 1))
    ids = random_tokens(2, 40, vocab=50_000)
    for t, row in enumerate(layer.find(ids)[0].tolist(), start=2):
        assert row == rows_of(layer, ids[0].tolist(), t)


def test_the_convolution_starts_as_nothing_and_no_gate_breaks_the_gradient() -> None:
    fresh, x = make(away=0), noise(2, 9, DIM)
    assert not bool(fresh.conv.any())
    ctx = Context(tokens=random_tokens(2, 9))
    plain = make("taps=0", away=0)
    plain.load_state_dict(fresh.state_dict(), strict=False)
    assert torch.equal(fresh(x, ctx), plain(x, ctx))
    for size in (0.0, 1e-12, 1e6):
        layer = make().float()
        told = layer.forward
        layer.forward = lambda x, told=told: told(x, ctx)
        finite(layer, size * x.float())


@pytest.mark.parametrize("spec", ["engram mlp", "mh-attention swiglu engram mamba", "repeat{engram mlp}"])
def test_models_with_it_decode_and_learn(spec: str) -> None:
    decodes_and_learns(spec)


def test_parameters_state_and_work() -> None:
    layer = make(dim=128, vocab=16)
    maps, rest = 2 * 128 * 129, 4 * 128 + 2 * 128
    assert parameters_in(layer) == 4 * (17**2 + 17**3) * 16 + maps + rest
    assert layer.active_params() == 8 * 16 + maps + rest
    assert layer.measure_state(40) == {"recurrent": 0, "conv": 9 * 128, "growing": 0, "total": 9 * 128}
    assert layer.flops(10) == 10 * (2 * 2 * 128 * 128 + 128 * (3 + 9))
    hints = layer.hints()
    assert (hints["table"].decay, hints["table"].lr_scale) == (False, 5.0) and not hints["conv"].decay


def test_it_needs_the_tokens_and_more_than_one() -> None:
    with pytest.raises(ValueError, match="reads the ids of the tokens, and this call has none"):
        make()(noise(1, 3, DIM))
    with pytest.raises(ValueError, match="ngrams=1 must be at least 2"):
        make("ngrams=1")
