"""Nested, widened, sparse and growing layers with each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import architectures
from architectures import elastic, growth
from architectures.model import SequenceModel
from tests.architectures.helpers import close, moved, random_tokens

DIM, VOCABULARY, LENGTH = 32, 11, 20


def start(spec: str) -> SequenceModel:
    return architectures.build(spec, vocab_size=VOCABULARY, dim=DIM, max_len=LENGTH, seed=0).double()


def make(spec: str) -> SequenceModel:
    return moved(start(spec))


def tokens() -> Tensor:
    return random_tokens(2, LENGTH, vocab=VOCABULARY)


@pytest.mark.parametrize("size", [0, 1, 2])
def test_widening_undoes_extraction(size: int) -> None:
    whole = make("2*(mh-attention matformer-swiglu[inner=64])")
    small = elastic.extract(whole, size)
    weights = dict(whole.named_parameters())

    def fill(name: str, initial: Tensor) -> Tensor:
        return weights[name].detach().clone()

    grown, _ = growth.widen_mlp(small, to=64, fill=fill)
    close(grown(tokens()), small(tokens()), 1e-12)
    inner = 64 * 2**size // 8
    for name, p in grown.named_parameters():
        if name.endswith("down.weight"):
            assert torch.equal(p[:, :inner], weights[name][:, :inner]) and not p[:, inner:].any()
            with torch.no_grad():
                p[:, inner:] = weights[name][:, inner:]
        else:
            assert torch.equal(p, weights[name]), name
    close(grown(tokens()), whole(tokens()), 1e-12)


def test_extraction_undoes_widening() -> None:
    small = make("mh-attention mlp[inner=16]")
    grown, _ = growth.widen_mlp(small, to=128)
    nested = make("mh-attention matformer-mlp[inner=128]")
    nested.load_state_dict(grown.state_dict())
    again = elastic.extract(nested, 0)
    assert again.spec == small.spec
    for (name, a), b in zip(again.named_parameters(), small.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("body", ["mh-attention sparse-mlp", "mh-attention moe-mlp", "sparse-attention sru"])
@pytest.mark.parametrize("k", [2, 3])
def test_altup_around_sparse_and_routed_layers_starts_as_they_are(body: str, k: int) -> None:
    base, wide = start(body), start(f"altup[k={k}, recycled=true]{{{body}}}")
    inside = dict(base.named_parameters())
    with torch.no_grad():
        for name, p in wide.named_parameters():
            if (plain := name.replace("blocks.0.body.", "blocks.")) in inside:
                p.copy_(inside.pop(plain))
    assert not inside
    close(wide(tokens()), base(tokens()), 1e-12)
    wide(tokens()).square().sum().backward()
    assert all(p.grad is not None for p in wide.parameters())


@pytest.mark.parametrize(
    "options", ["", "[block=4, rank=5]", "[block=8, bias=true]", "[multiply=true]", "[block=1]"]
)
def test_a_sparse_mlp_is_widened_by_whole_blocks(options: str) -> None:
    model = make(f"mh-attention sparse-mlp{options}")
    adamw = torch.optim.AdamW(model.parameters())
    model(tokens()).square().mean().backward()
    adamw.step()
    before = model(tokens())
    grown, carried = growth.widen_mlp(model, adamw, to=192)
    layer: Any = grown.layers()[1][1]
    assert layer.inner == 192 and carried is not None
    close(grown(tokens()), before, 1e-12)
    rebuilt = start(str(grown.spec))
    assert {n: p.shape for n, p in rebuilt.named_parameters()} == {
        n: p.shape for n, p in grown.named_parameters()
    }
    wider, _ = growth.widen_hidden(grown, to=48)
    close(wider(tokens()), before, 1e-12)
    for _ in range(2):
        carried.zero_grad()
        grown(tokens()).square().mean().backward()
        carried.step()
    new = slice(128, None)
    assert layer.down[new].abs().max() > 0 and layer.up.grad[new].abs().max() > 0


def test_a_block_is_not_widened_in_part() -> None:
    with pytest.raises(ValueError, match="inner=136 is not divisible by block=16"):
        growth.widen_mlp(make("sparse-mlp"), to=136)
