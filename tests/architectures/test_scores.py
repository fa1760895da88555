"""Attention in blocks of queries, and the growth of layers that weigh in ways of their own."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.functional.attention import attend, attend_past
from architectures.functional.scores import by_rows, pairs_by_rows, products
from architectures.growth import add_heads, widen_hidden, widen_keys, widen_values
from tests.architectures.helpers import model_of, noise, random_tokens, wild


def softmax(q: Tensor, k: Tensor, v: Tensor, blind: Tensor) -> Tensor:
    return products(q, k).masked_fill(blind, float("-inf")).softmax(-1) @ v


@pytest.mark.parametrize("rows", [1, 4, 64])
@pytest.mark.parametrize("length", [1, 8, 37])
def test_blocks_of_queries_give_what_the_whole_gives(rows: int, length: int) -> None:
    q, k, v = (noise(3, 37, 2, width, seed=width) for width in (5, 5, 7))
    expected = attend(q, k, v, scale=1.0)[:, -length:]
    found = by_rows(softmax, q[:, -length:], k, v, rows=rows)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(attend_past(q[:, -length:], k, v, scale=1.0), expected, rtol=0, atol=1e-12)
    met = sum((min(start + rows, 37) - start) * min(start + rows, 37) for start in range(0, 37, rows))
    assert pairs_by_rows(37, rows) == met


GROWING = [
    "diff-attention[heads=4]",
    "diff-attention[heads=8, kv_heads=4, gate=true, conv=2, canon=2, bias=all]",
    "diff-attention-v2[heads=4, kv_heads=2, gate=true, conv=2, canon=2, bias=all]",
    "sink-attention[heads=2]",
    "softpick[heads=2]",
    "stick-breaking[heads=2]",
    "selective-attention[heads=2]",
    "parallax[heads=4, kv_heads=2]",
    "wall[heads=2]",
    "pope[heads=2]",
]


@torch.no_grad()
def change(old: Any, new: Any) -> float:
    tokens = random_tokens(2, 12, vocab=7, seed=3)
    before = old(tokens)
    return float((new(tokens) - before).abs().max() / before.abs().max())


@pytest.mark.parametrize("rule", ["keep", "rescale"])
@pytest.mark.parametrize("layer", GROWING)
def test_these_layers_grow_in_every_direction_and_keep_their_function(layer: str, rule: Any) -> None:
    model = model_of(f"{layer} mlp", dim=16)
    for operation, to in ((add_heads, 16), (widen_values, 13), (widen_keys, 12), (widen_hidden, 24)):
        run = partial(operation, model, to=to, rule=rule, fill=wild(), generator=torch.Generator())
        refusal = ""
        if operation is widen_keys:
            lost = rule == "rescale" and ("bias" in layer or "parallax" in layer)
            refusal = "finds no layer" if "pope" in layer else "takes the factor of W_k away" if lost else ""
        if refusal:
            with pytest.raises(ValueError, match=refusal):
                run()
            continue
        grown, _ = run()
        assert change(model, grown) <= 1e-12, operation.__name__
        model = grown
