"""Statistical top-k by its definition, unit by unit and key by key; how many it keeps, and when all."""

from __future__ import annotations

import math
import statistics
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import architectures
from architectures.growth import add_heads, widen_hidden, widen_keys
from architectures.primitives.statistical_topk import quantile, soft_topk
from tests.architectures.helpers import (
    agree,
    close,
    finite,
    gated_out,
    heads_of_attention,
    in_pieces,
    layer_of,
    moved,
    noise,
    random_tokens,
)

DIM = 48
make = partial(layer_of, dim=DIM, max_len=300, away=0.05)
ATTENTION = [
    "statistical-topk-attention",
    "statistical-topk-attention[heads=2, keep=1, rope=false]",
    "statistical-topk-attention[heads=4, kv_heads=2, key_dim=10, rank=4, gate=true, qk_norm=true, conv=3]",
    "statistical-topk-attention[key_dim=6, rope=false, bias=all]",
]


def thresholded(z: list[float], share: float) -> list[float]:
    cut = statistics.mean(z) + statistics.pstdev(z) * statistics.NormalDist().inv_cdf(1 - share)
    return [max(value - cut, 0.0) for value in z]


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_the_threshold_is_made_of_mean_and_deviation(share: float) -> None:
    z = noise(3, 5, 37)
    expected = [[thresholded(row.tolist(), share) for row in rows] for rows in z]
    close(soft_topk(z, quantile(share)), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("share", [0.05, 0.08, 0.3])
def test_it_keeps_its_share_of_normal_numbers(share: float) -> None:
    found = float((soft_topk(3 + 2 * noise(200, 1000), quantile(share)) > 0).double().mean())
    assert found == pytest.approx(share, abs=0.003)


def test_of_skewed_numbers_it_keeps_another_share() -> None:
    assert float((soft_topk(noise(200, 1000).exp(), quantile(0.3)) > 0).double().mean()) < 0.2


def test_equal_numbers_and_a_share_of_one_are_no_special_case() -> None:
    z = torch.full((2, 9), 3.0, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(soft_topk(z, quantile(0.1)).sum(), z)
    assert bool(gradient.isfinite().all())
    assert torch.equal(soft_topk(z, quantile(1)), z)


def mlp_by_definition(layer: Any, x: Tensor) -> Tensor:
    r, share = layer.rank, layer.config.share
    z = x[..., :r] @ layer.predict.weight.T
    if share < 1:
        cut = z.mean(-1, keepdim=True) + z.var(-1, keepdim=True, correction=0).sqrt() * normal(1 - share)
        z = torch.clamp(z - cut, min=0)
    gate = z / 2 * (1 + torch.erf(z / math.sqrt(2)))
    return (gate * (x[..., r:] @ layer.up.weight.T)) @ layer.down.weight.T


@pytest.mark.parametrize("options", ["", "share=0.5, rank=7, inner=40", "share=1"])
def test_the_mlp_is_its_definition(options: str) -> None:
    agree(make("statistical-topk-mlp", options), mlp_by_definition, noise(2, 7, DIM), low=1e-3)


def test_the_glu_is_a_swiglu_whose_gate_is_thresholded() -> None:
    layer, x = make("statistical-topk-glu[share=0.2]"), noise(2, 7, DIM)
    z = x @ layer.gate.weight.T
    cut = [[thresholded(row.tolist(), 0.2) for row in rows] for rows in z]
    gate = F.gelu(torch.tensor(cut, dtype=torch.float64), approximate="tanh")
    close(layer(x), (gate * (x @ layer.up.weight.T)) @ layer.down.weight.T)


def test_it_has_the_parameters_of_an_mlp_and_uses_a_part_of_them() -> None:
    layer, mlp = make("statistical-topk-mlp"), make("mlp")
    assert sum(p.numel() for p in layer.parameters()) == sum(p.numel() for p in mlp.parameters())
    # 24 of 48 channels predict 192 units, of which 15 are used.
    assert layer.active_params() == 192 * 24 + 15 * (24 + 48)
    assert layer.flops(10) == 10 * (2 * 192 * 24 + 15 * (2 * (24 + 48) + 1))
    glu = make("statistical-topk-glu")
    assert glu.inner == 128 and glu.active_params() == 128 * 48 + 6 * 2 * 48
    assert glu.flops(10) == 10 * (2 * 128 * 48 + 6 * (4 * 48 + 1))


def attention_by_definition(layer: Any, x: Tensor) -> Tensor:
    q, k, v = heads_of_attention(layer, x)
    r, keep = layer.rank, layer.config.keep
    rows = []

    def turned(z: Tensor, position: int) -> Tensor:
        """Both parts rotated, channel by channel."""
        if not layer.config.rope:
            return z
        parts = []
        for part in (z[..., :r], z[..., r:]):
            half = part.shape[-1] // 2
            angle = position * 10_000.0 ** (-torch.arange(half).double() / half)
            a, b = part[..., :half], part[..., half:]
            parts += [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]
        return torch.cat(parts, dim=-1)

    for t in range(x.shape[1]):
        n, found = t + 1, []
        for b in range(x.shape[0]):
            heads = []
            for h in range(layer.heads):
                g = h * layer.kv_heads // layer.heads
                query = turned(q[b, t, h], t)
                keys = [turned(k[b, s, g], s) for s in range(n)]
                scores = torch.stack([(query[:r] * key[:r]).sum() / math.sqrt(r) for key in keys])
                kept = list(range(n))
                if n > keep:
                    cut = float(scores.mean() + scores.std(correction=0) * normal(1 - keep / n))
                    kept = [s for s in kept if s == t or float(scores[s]) >= cut]
                weights = scores[kept].softmax(0)
                width = math.sqrt(layer.key_dim - r)
                factors = [torch.log1p(torch.exp((query[r:] * keys[s][r:]).sum() / width)) for s in kept]
                heads.append(sum(w * f * v[b, s, g] for w, f, s in zip(weights, factors, kept, strict=True)))
            found.append(torch.cat(heads))
        rows.append(gated_out(layer, torch.stack(found), x[:, t]))
    return torch.stack(rows, dim=1)


normal = statistics.NormalDist().inv_cdf


@pytest.mark.parametrize("spec", ATTENTION)
@torch.no_grad()
def test_attention_is_its_definition(spec: str) -> None:
    layer, x = make(spec), noise(2, 21, DIM)
    # In float32 another key may be chosen.
    close(layer(x), attention_by_definition(layer, x))


@pytest.mark.parametrize("spec", ATTENTION)
def test_chunks_pieces_and_steps_are_the_same_function(spec: str) -> None:
    layer, x = make(spec), noise(2, 150, DIM)
    whole = finite(layer, x)
    close(in_pieces(layer, x, 1, 2, 70, 71, 149)[0], whole)


def test_where_all_keys_are_kept_only_the_factor_is_left() -> None:
    layer, x = make("statistical-topk-attention[keep=50, rope=false]"), noise(2, 50, DIM)
    q, k, v = heads_of_attention(layer, x)
    scores, others = (
        torch.einsum("bthk,bshk->bhts", q[..., part], k[..., part]) / math.sqrt(8)
        for part in (slice(8), slice(8, 16))
    )
    scores = scores + torch.full((50, 50), -torch.inf).triu(1).double()
    found = torch.einsum("bhts,bshv->bthv", scores.softmax(-1) * torch.log1p(others.exp()), v)
    close(layer(x), found.flatten(-2) @ layer.out.weight.T)


def test_about_as_many_keys_are_kept_as_were_asked_for() -> None:
    layer = make("statistical-topk-attention[keep=16]")
    kept = ~layer._left_out(noise(4, 3, 300, 300))
    counts = kept.sum(-1).double()
    assert bool((counts[..., :16] == torch.arange(1, 17)).all())
    assert float(counts[..., 100:].mean()) == pytest.approx(16.6, abs=0.5)
    assert bool(kept.diagonal(dim1=-2, dim2=-1).all())
    for equal in (0.0, 0.1, -3.7):
        left = layer._left_out(torch.full((1, 1, 40, 40), equal, dtype=torch.float32))
        assert torch.equal(~left[0, 0], torch.ones(40, 40).tril().bool())


def test_it_grows_by_heads_and_width_and_not_by_what_moves_a_threshold() -> None:
    spec = "statistical-topk-attention[heads=4] statistical-topk-glu"
    model = moved(architectures.build(spec, vocab_size=5, dim=32, max_len=80, seed=0).double())
    tokens = random_tokens(2, 40)
    for operation, to in ((widen_hidden, 48), (add_heads, 8)):
        grown, _ = operation(model, to=to)
        close(grown(tokens), model(tokens), 1e-12)
    with pytest.raises(ValueError, match="no layer whose key width it can grow"):
        widen_keys(model, to=12)
    with pytest.raises(ValueError, match="statistical-topk-mlp"):
        widen_hidden(
            architectures.build("statistical-topk-mlp", vocab_size=5, dim=32, max_len=8, seed=0), to=48
        )


@pytest.mark.parametrize(
    "spec, message",
    [
        ("statistical-topk-mlp[share=0]", "share=0 must be above 0 and at most 1"),
        ("statistical-topk-glu[share=1.5]", "share=1.5"),
        ("statistical-topk-mlp[rank=48]", "rank=48 leaves none of the 48 channels; choose less, or a wider"),
        ("statistical-topk-attention[keep=0]", "keep=0 must be at least 1"),
        (
            "statistical-topk-attention[rank=16]",
            "rank=16 does not part the 16 channels of a key; choose less, or a key_dim above 16",
        ),
        ("statistical-topk-attention[key_dim=2]", "rank=2 does not part the 2 channels of a key"),
        ("statistical-topk-attention[rank=3]", "choose an even rank and an even key_dim, or rope=false"),
        ("statistical-topk-attention[key_dim=7]", "choose an even rank and an even key_dim, or rope=false"),
    ],
)
def test_what_has_no_meaning_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(spec)


def test_keys_have_a_bias_where_queries_have_one() -> None:
    for options in ("bias=qkv", "bias=all, rope=false"):
        assert make(f"statistical-topk-attention[{options}]").key.bias is not None


def test_a_width_of_one_leaves_nothing_to_predict_from() -> None:
    with pytest.raises(ValueError, match="rank=1 leaves none of the 1 channels"):
        architectures.build("statistical-topk-mlp", vocab_size=5, dim=1, max_len=8, seed=0)
