"""LSH attention against its definition, pair by pair, and why the sorted form is refused for causal use."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from peak_memory import PeakMemory
from torch import Tensor

import architectures
from architectures.functional import lsh
from architectures.functional.lsh import attend_buckets, attend_near, hash_buckets
from architectures.functional.rotary import rotate
from architectures.primitive import Choices, Context, UnknownState
from tests.architectures.helpers import close, in_pieces, layer_of, noise, parameters_in, unit

make = partial(layer_of, "lsh-attention", max_len=128, away=0.2)


def naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    buckets: Tensor,
    *,
    window: int | None = None,
    chunk: int | None = None,
    causal: bool = True,
) -> Tensor:
    """Who sees whom as sets of positions."""
    batch, length, heads, hashes = buckets.shape
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    for b in range(batch):
        for h in range(heads):
            found = buckets[b, :, h].tolist()
            for i in range(length):
                seen: set[int] = set()
                for n in range(hashes):
                    in_order = sorted(range(length), key=lambda t: (found[t][n], t))
                    place = {t: p for p, t in enumerate(in_order)}
                    same = [j for j in range(length) if found[j][n] == found[i][n]]
                    if causal:
                        same = [j for j in same if j <= i]
                    if window is not None:
                        same = same[-window:]
                    if chunk is not None:
                        same = [j for j in same if abs(place[j] // chunk - place[i] // chunk) <= 1]
                    seen |= set(same)
                seen = seen - {i} if len(seen) > 1 else seen
                js = sorted(seen)
                weights = torch.stack([q[b, i, h] @ k[b, j, h] for j in js]).softmax(0)
                out[b, i, h] = weights @ v[b, js, h]
    return out


def project(layer: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v and buckets from the layer's parameters."""
    heads = x.shape[-1] // 16
    q = (x @ layer.query.weight.T).unflatten(-1, (heads, -1))
    v = (x @ layer.value.weight.T).unflatten(-1, (heads, -1))
    turned = torch.einsum("bthk,hnkm->bthnm", q, layer.rotations)
    m = turned.shape[-1]
    best = turned.abs().argmax(-1)
    negative = turned.gather(-1, best[..., None])[..., 0] < 0
    k = unit(q)
    at = torch.arange(x.shape[1])
    return rotate(q, at), rotate(k, at), v, best + m * negative


@pytest.mark.parametrize("length", [1, 5, 37])
@pytest.mark.parametrize(
    "options, rule",
    [
        ("", {}),
        ("hashes=3, buckets=4", {}),
        ("buckets=4, window=3", {"window": 3}),
        ("buckets=2, window=1, hashes=1", {"window": 1}),
        ("buckets=4, causal=false", {"causal": False}),
        ("buckets=4, causal=false, chunk=4", {"causal": False, "chunk": 4}),
    ],
)
def test_the_layer_by_its_definition(length: int, options: str, rule: dict[str, Any]) -> None:
    layer, x = make(options), noise(2, length, 32)
    q, k, v, buckets = project(layer, x)
    expected = naive(q, k, v, buckets, **rule).flatten(-2) @ layer.out.weight.T
    close(layer(x), expected)


def test_a_wide_window_is_all_of_the_bucket() -> None:
    x = noise(2, 37, 32)
    exact, wide = make("buckets=4"), make("buckets=4, window=64")
    close(wide(x), exact(x))
    a, b = (torch.autograd.grad(m(x).square().sum(), list(m.parameters())) for m in (exact, wide))
    for p, r in zip(a, b, strict=True):
        close(r, p)


def test_one_bucket_for_all_is_attention_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    q, v = noise(1, 9, 2, 8), noise(1, 9, 2, 8, seed=2)
    k, buckets = unit(q), torch.zeros(1, 9, 2, 3, dtype=torch.uint8)
    scores = torch.einsum("bthk,bshk->bhts", q, k)
    hidden = torch.ones(9, 9, dtype=torch.bool).triu()
    hidden[0, 0] = False
    plain = torch.einsum("bhts,bshv->bthv", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)
    close(attend_buckets(q, k, v, buckets), plain)
    close(attend_near(q, k, v, buckets, size=16), plain)


def test_the_sorted_form_moves_with_later_tokens_and_the_window_does_not() -> None:
    """Six chunks; every mask is causal, and still the cuts betray what comes later."""
    q, v = noise(1, 48, 1, 8), noise(1, 48, 1, 8, seed=2)
    rotations = noise(1, 2, 8, 2, seed=3)
    changed = q.clone()
    changed[:, 30:] = noise(1, 18, 1, 8, seed=9)

    def early(q: Tensor, **how: Any) -> Tensor:
        return attend_near(q, unit(q), v, hash_buckets(q, rotations), **how)[:, :30]

    before, after = (early(z, size=8, chunks=True, causal=True) for z in (q, changed))
    assert not torch.allclose(before, after, atol=1e-2)
    # Its blocks move too, so sums round otherwise; what is seen does not.
    close(early(q, size=8), early(changed, size=8), atol=1e-14)
    # Within two chunks everything is beside everything: nothing can be seen to move.
    before, after = (early(z, size=24, chunks=True, causal=True) for z in (q, changed))
    close(before, after)


@pytest.mark.parametrize("options", ["window=3, buckets=4", "hashes=3, conv=4, rope=false"])
def test_decoding_equals_the_whole(options: str) -> None:
    layer, x = make(options), noise(2, 37, 32)
    close(in_pieces(layer, x, *range(11, 31))[0], layer(x))
    assert layer.measure_state(37)["growing"] == 2 * 37 * 32


def test_what_sees_later_tokens_is_not_decoded() -> None:
    layer = make("causal=false")
    with pytest.raises(NotImplementedError, match="cannot be decoded"):
        layer.step(noise(1, 32), layer.init_state(1))
    with pytest.raises(UnknownState):
        layer.measure_state(8)
    gradient = torch.autograd.functional.jacobian(lambda x: layer(x)[0, 3].sum(), noise(1, 24, 32))
    assert gradient[0, 4:].abs().max() > 0


@pytest.mark.parametrize("options", ["window=8, buckets=4", "causal=false, chunk=4", "causal=false"])
def test_the_slope_of_every_form(options: str) -> None:
    layer = make(options, dim=16)
    named = dict(layer.named_parameters())

    def f(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(named, values, strict=True)), (x,))

    x = noise(1, 14, 16).requires_grad_()
    assert torch.autograd.gradcheck(f, (x, *named.values()), fast_mode=True, atol=1e-6)


def test_many_groups_of_rows_and_blocks_are_one_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for small in (False, True):
        if small:
            monkeypatch.setattr(lsh, "_groups", lambda mine: [(i, i + 1) for i in range(mine.shape[1])])
            rows = [(i, min(i + 5, 37)) for i in range(0, 37, 5)]
            monkeypatch.setattr(lsh, "bucket_rows", lambda length, rows=rows: rows)
        for options in ("window=4", "causal=false, chunk=4", "", "causal=false"):
            layer = make(options)
            y = layer(noise(2, 37, 32))
            found.append([y, *torch.autograd.grad(y.square().sum(), list(layer.parameters()))])
    for whole, parts in zip(found[:4], found[4:], strict=True):
        for a, b in zip(whole, parts, strict=True):
            close(b, a)


@pytest.mark.parametrize("options", ["window=16", "causal=false, chunk=16"])
def test_replicas_of_every_form_equal_the_loop(options: str) -> None:
    layers, x = [make(options, seed=s) for s in range(2)], noise(2, 21, 32)
    tensors = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in layers]
    stacked = {n: torch.stack([t[n].detach() for t in tensors]) for n in tensors[0]}
    leaves = [stacked[n].requires_grad_() for n, _ in layers[0].named_parameters()]
    y = torch.vmap(lambda named: torch.func.functional_call(layers[0], named, (x,)))(stacked)
    grads = torch.autograd.grad(y.square().sum(), leaves)
    for r, layer in enumerate(layers):
        close(y[r], layer(x))
        for g, own in zip(
            grads, torch.autograd.grad(layer(x).square().sum(), list(layer.parameters())), strict=True
        ):
            close(g[r], own)


def test_rotations_are_drawn_with_the_weights_and_kept() -> None:
    a, b, c = make(seed=1), make(seed=1), make(seed=2)
    assert torch.equal(a.rotations, b.rotations) and not torch.equal(a.rotations, c.rotations)
    assert "rotations" in a.state_dict() and "rotations" not in dict(a.named_parameters())
    assert a.rotations.shape == (2, 2, 16, 8)
    assert parameters_in(make(dim=64)) == 3 * 64**2


def test_buckets_are_those_of_the_full_precision() -> None:
    layer, x = make().float(), noise(2, 37, 32).float()
    ctx = Context(choices=Choices())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x, ctx)
    layer(x, ctx)
    low, high = ctx.choices.made  # type: ignore[union-attr]
    assert torch.equal(low, high) and low.dtype == torch.uint8


def test_close_vectors_share_buckets_and_length_does_not_matter() -> None:
    x, rotations = noise(1, 4000, 1, 16), noise(1, 1, 16, 8, seed=2)
    buckets = hash_buckets(x, rotations)
    assert torch.equal(hash_buckets(7 * x, rotations), buckets)
    near = (hash_buckets(x + 0.1 * noise(*x.shape, seed=3), rotations) == buckets).double().mean()
    far = (buckets == buckets.flip(1)).double().mean()
    assert near > 0.8 and abs(float(far) - 1 / 16) < 0.04


@pytest.mark.parametrize("options", ["", "window=32"])
def test_memory_is_linear_in_time(options: str) -> None:
    def peak(length: int) -> int:
        with torch.device("meta"):
            spec = f"lsh-attention[{options}]" if options else "lsh-attention"
            layer = architectures.build(spec, vocab_size=2, dim=32, max_len=length, seed=0).layers()[0][1]
        x = torch.empty(1, length, 32, device="meta", requires_grad=True)
        with PeakMemory() as memory:
            layer(x).square().sum().backward()
        return memory.peak

    assert peak(4096) <= 2.1 * peak(2048)
