"""Wrappers around layers against what they mean, written out block by block."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import architectures
from architectures import registry
from architectures.blocks import Block
from architectures.functional.value_residual import FIRST, mix_key
from architectures.primitive import Context, Primitive
from architectures.primitives.hyper_connections import doubly_stochastic
from architectures.sizes.accounting import account, account_model
from tests.architectures.helpers import close, decodes_and_learns, noise, parameters_in, wrapper_of

NESTED = [
    "repeat[times=3]{delta-net (mlp + mamba)}",
    "repeat{hyper-connections[streams=2]{mamba mlp}}",
    "hyper-connections[kind=manifold]{repeat{delta-net} mlp (mlp + mamba)}",
    "value-residual{delta-net mlp repeat{gated-delta-net} (mlp + delta-net)} delta-net",
    "mlp value-residual{(delta-net + delta-net) hyper-connections{delta-net}} mlp",
    "reversible{delta-net (mlp + mamba) repeat{reversible{mamba mlp}}} mlp",
    "hyper-connections{hyena mlp} value-residual{repeat{mh-gated-linear-attention gated-delta-net}}",
]


def residual(blocks: list[Block], x: Tensor) -> Tensor:
    for block in blocks:
        x = x + block(x)
    return x


def test_repeat_runs_its_body_again_on_what_came_out() -> None:
    x = noise(2, 19, 32)
    thrice = wrapper_of("repeat[times=3]{mh-attention (mlp + mamba)}", away=0.1)
    close(thrice(x), residual(3 * list(thrice.body), x))
    once = wrapper_of("repeat[times=1]{mh-attention mlp}", away=0.1)
    close(once(x), residual(list(once.body), x))
    assert not torch.allclose(wrapper_of("repeat{mh-attention mlp}", away=0)(x), residual(list(once.body), x))


def test_repeat_costs_no_parameters_and_every_pass_has_its_state() -> None:
    once = account("repeat[times=1]{mamba swiglu}", vocab_size=5, dim=32, seq_len=16)
    thrice = account("repeat[times=3]{mamba swiglu}", vocab_size=5, dim=32, seq_len=16)
    assert once.params == thrice.params
    assert once.state and thrice.state and thrice.state["total"] == 3 * once.state["total"] > 0
    assert thrice.nominal == 3 * once.nominal  # type: ignore[operator]
    assert thrice.layers[0].flops == 3 * once.layers[0].flops
    with pytest.raises(ValueError, match="times=0 must be at least 1"):
        architectures.build("repeat[times=0]{mlp}", vocab_size=5, dim=32, max_len=16, seed=0)


@pytest.mark.parametrize("kind", ["static", "dynamic", "manifold"])
@pytest.mark.parametrize("streams", [1, 2, 4])
def test_hyper_connections_start_as_the_plain_residual(kind: str, streams: int) -> None:
    wrapper = wrapper_of(f"hyper-connections[streams={streams}, kind={kind}]{{delta-net mlp mamba}}", away=0)
    x = noise(2, 11, 32)
    # One stream under a sigmoid of 8 is 1 to 3e-4.
    atol = 1e-3 if (kind, streams) == ("manifold", 1) else 1e-12
    close(wrapper(x), residual(list(wrapper.body), x), atol=atol)


@pytest.mark.parametrize("kind", ["static", "dynamic", "manifold"])
def test_hyper_connections_by_their_definition(kind: str) -> None:
    n, dim = 3, 32
    wrapper = wrapper_of(f"hyper-connections[streams={n}, kind={kind}]{{mlp swiglu}}", away=0.1)
    x = noise(2, 5, dim)
    expected = torch.zeros_like(x)
    for b in range(2):
        for t in range(5):
            streams = [x[b, t].clone() for _ in range(n)]
            for block, maps in zip(wrapper.body, wrapper.maps, strict=True):
                pre, mixed, post = (p.detach().clone() for p in (maps.pre, maps.mixed, maps.post))
                if kind == "dynamic":
                    for i in range(n):
                        found = torch.tanh(maps.norm(streams[i]) @ maps.weight)
                        pre[i] += maps.scale[0] * found[0]
                        mixed[i] += maps.scale[1] * found[1 : 1 + n]
                        post[i] += maps.scale[2] * found[1 + n]
                elif kind == "manifold":
                    found = maps.norm(torch.cat(streams)) @ maps.weight
                    pre = torch.sigmoid(pre + maps.scale[0] * found[:n])
                    positive = torch.exp(mixed + maps.scale[1] * found[n : n + n * n].reshape(n, n))
                    for _ in range(20):
                        positive = positive / positive.sum(0, keepdim=True)
                        positive = positive / positive.sum(1, keepdim=True)
                    mixed = positive
                    post = 2 * torch.sigmoid(post + maps.scale[2] * found[n + n * n :])
                y = block(sum(pre[i] * streams[i] for i in range(n))[None, None])[0, 0]
                streams = [sum(mixed[i, j] * streams[j] for j in range(n)) + post[i] * y for i in range(n)]
            expected[b, t] = sum(streams) / n
    close(wrapper(x), expected)


def test_maps_between_streams_are_doubly_stochastic() -> None:
    mixed = doubly_stochastic(noise(7, 4, 4))
    assert bool((mixed > 0).all())
    torch.testing.assert_close(mixed.sum(-1), torch.ones(7, 4).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(mixed.sum(-2), torch.ones(7, 4).double(), rtol=0, atol=1e-3)
    wild = doubly_stochastic(torch.tensor([[80.0, -80.0], [-80.0, -80.0]]))
    assert bool(torch.isfinite(wild).all())


def test_streams_are_told_apart_by_their_first_block() -> None:
    wrapper = wrapper_of("hyper-connections[kind=static]{mlp mlp}", away=0)
    assert [maps.pre.argmax().item() for maps in wrapper.maps] == [0, 1]
    with pytest.raises(ValueError, match="streams=0 must be at least 1"):
        wrapper_of("hyper-connections[streams=0]{mlp}", away=0.1)


def test_later_mixers_see_the_values_of_the_first() -> None:
    wrapper = wrapper_of("value-residual{delta-net mlp gated-delta-net mlp delta-net}", away=0.1)
    x = noise(2, 21, 32)
    expected, first, weights = x, None, iter(wrapper.mix)
    for block in wrapper.body:
        u = block.norm(expected)
        layer = block.layer
        if layer.mixes == "channel":
            expected = expected + layer(u)
            continue
        s, *carry = layer.init_state(2)
        tokens, _ = layer.write(u, tuple(carry), None)
        if first is None:
            first = tokens.v
        else:
            own, shared = next(weights)
            tokens.v = own * tokens.v + shared * first
        expected = expected + layer.read(layer.recur(tokens, s)[0], u, tokens)
    close(wrapper(x), expected)
    with torch.no_grad():
        wrapper.mix.copy_(torch.tensor([1.0, 0.0]))
    close(wrapper(x), residual(list(wrapper.body), x))


def test_nothing_of_the_shared_values_is_left_behind() -> None:
    ctx = Context()
    wrapper = wrapper_of("value-residual{delta-net delta-net}", away=0.1)
    wrapper(noise(1, 4, 32), ctx)
    assert ctx.shared == {}


@pytest.mark.parametrize(
    "spec, message",
    [
        ("value-residual{mlp}", "its body has 0 with values that"),
        ("value-residual{value-residual{delta-net delta-net} mlp}", "stands inside another one"),
        ("value-residual{delta-net mlp}", "its body has 1 with values that"),
    ],
)
def test_a_body_without_values_to_share_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrapper_of(spec, away=0.1)


# Before any token is seen, also where a size of a nested layer is met only in training.
@pytest.mark.parametrize(
    "spec, message",
    [
        ("value-residual{delta-net gated-delta-net[value_dim=8]}", "1 are 32 wide, those of the first 64"),
        ("value-residual{mh-attention mamba3[head_dim=16]}", "1 are 128 wide, those of the first 64"),
        ("mlp value-residual{delta-net mlp repeat{gated-delta-product}}", "1 are 128 wide"),
        ("value-residual{mqa (mlp + delta-net)}", "1 are 64 wide, those of the first 16"),
        ("value-residual{matformer-attention mh-attention}", "those of the first 16 / 32 / 48 / 64"),
        ("rwkv7 mlp rwkv7[value_dim=24]", "those of the first rwkv7 64; give all rwkv7 layers the same"),
        ("repeat{rwkv7[heads=2]} (mlp + rwkv7[value_dim=24])", "those of the first rwkv7 64"),
    ],
)
def test_values_of_another_width_are_refused_at_build(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        architectures.build(spec, vocab_size=5, dim=64, max_len=8, seed=0)
    with pytest.raises(ValueError, match=message):
        account(spec, vocab_size=5, dim=64, seq_len=8)
    with pytest.raises(ValueError, match=message):
        architectures.solve(spec, params=100_000, dim=64)


def test_a_layer_shares_values_of_the_width_that_it_says() -> None:
    for name in architectures.names():
        if registry.get(name).mixes != "time":
            continue
        layer = architectures.build(name, vocab_size=5, dim=64, max_len=8, seed=0).layers()[0][1]
        tokens = torch.zeros(1, 8, dtype=torch.int64)
        ctx = Context(shared={mix_key(0): torch.empty(0)}, tokens=tokens)
        layer(torch.zeros(1, 8, 64), ctx)
        shared = ctx.shared.get(FIRST)
        assert layer.value_widths[-1:] == (() if shared is None else (shared.shape[2:].numel(),)), name


@pytest.mark.parametrize("spec", NESTED)
def test_wrappers_nest(spec: str) -> None:
    model = decodes_and_learns(spec, length=23, steps=9)
    assert account_model(model, 23).params == parameters_in(model)


def test_a_wrapper_is_as_exact_as_its_body() -> None:
    exact, rounded = (
        wrapper_of("repeat{mamba mlp}", away=0.1),
        wrapper_of("repeat{mlp (mlp + hyena)}", away=0.1),
    )
    assert isinstance(exact, Primitive) and exact.exact_causality and not rounded.exact_causality
