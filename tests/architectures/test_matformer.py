"""MatFormer layers: what a prefix computes, which weights it touches, and what the whole layer equals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import architectures
from architectures.families.nested import Nested, NestedInner, probabilities
from architectures.functional.rotary import rotate
from architectures.primitive import Context, Primitive
from tests.architectures.helpers import layer_of, noise, parameters_in, stacked

NAMES = ["matformer-mlp", "matformer-swiglu", "matformer-attention", "matformer-encoder-attention"]
OPTIONS = [
    "matformer-mlp",
    "matformer-mlp[inner=96, granularities=3]",
    "matformer-swiglu",
    "matformer-swiglu[inner=64, granularities=2]",
    "matformer-attention",
    "matformer-attention[heads=8, kv_heads=4, qk_norm=true, gate=true, conv=3]",
    "matformer-attention[heads=2, granularities=2, key_dim=6, value_dim=10, rope=false, conv=2]",
    "matformer-encoder-attention",
    "matformer-encoder-attention[heads=8, group=2, gate=true, conv=3, rope_fraction=0.5]",
]
DIM = 64


def make(layer: str, **where: Any) -> Any:
    return layer_of(layer, **{"dim": DIM} | where)


def at(granularity: int) -> Context:
    return Context(granularity=granularity)


def heads_alone(layer: Any, x: Tensor, units: int, causal: bool) -> Tensor:
    """The first heads by the definition, one query head and position after the other."""
    c, length = layer.config, x.shape[1]
    assert not c.conv and not c.qk_norm and not c.gate and c.rope
    group, y = layer.heads // layer.kv_heads, torch.zeros_like(x)
    width, value_width = layer.key_dim, layer.value_dim
    for h in range(units * group):
        rows, kv = slice(h * width, (h + 1) * width), h // group
        q = rotate((x @ layer.query.weight[rows].T)[:, :, None], torch.arange(length))[:, :, 0]
        k = x @ layer.key.weight[kv * width : (kv + 1) * width].T
        k = rotate(k[:, :, None], torch.arange(length))[:, :, 0]
        v = x @ layer.value.weight[kv * value_width : (kv + 1) * value_width].T
        for t in range(length):
            seen = t + 1 if causal else length
            weights = torch.softmax((k[:, :seen] @ q[:, t, :, None])[..., 0] * width**-0.5, dim=-1)
            o = (weights[:, None] @ v[:, :seen])[:, 0]
            y[:, t] += o @ layer.out.weight[:, h * value_width : (h + 1) * value_width].T
    return y


@pytest.mark.parametrize("granularity", range(4))
def test_mlps_are_their_equation_with_the_units_beyond_the_prefix_masked(granularity: int) -> None:
    x, share = noise(2, 7, DIM), (1 / 8, 1 / 4, 1 / 2, 1)[granularity]
    mlp, swiglu = make("matformer-mlp"), make("matformer-swiglu")
    for layer, hidden in (
        (mlp, F.gelu(x @ mlp.up.weight.T)),
        (swiglu, F.silu(x @ swiglu.gate.weight.T) * (x @ swiglu.up.weight.T)),
    ):
        mask = torch.arange(layer.inner) < share * layer.inner
        expected = (hidden * mask) @ layer.down.weight.T
        torch.testing.assert_close(layer(x, at(granularity)), expected, rtol=0, atol=1e-12)
        assert layer.widths[granularity] == share * layer.inner


@pytest.mark.parametrize("granularity", range(4))
@pytest.mark.parametrize("options", ["[heads=8]", "[heads=8, kv_heads=4]", "[heads=4, value_dim=5]"])
@pytest.mark.parametrize("name", NAMES[2:])
def test_attention_is_its_equation_over_the_first_groups_of_heads(
    name: str, options: str, granularity: int
) -> None:
    layer, x = make(name + options), noise(2, 9, DIM)
    expected = heads_alone(
        layer, x, layer.kv_heads * (granularity + 1) // 4, causal=name == "matformer-attention"
    )
    torch.testing.assert_close(layer(x, at(granularity)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layer", OPTIONS)
def test_a_size_is_the_whole_layer_with_the_later_units_masked(layer: str) -> None:
    nested, masked, x = make(layer), make(layer), noise(2, 9, DIM)
    for g, width in enumerate(nested.widths):
        name = "down" if isinstance(masked, NestedInner) else "out"
        read = masked.get_submodule(name)
        with torch.no_grad():
            read.weight.copy_(nested.get_parameter(f"{name}.weight"))
            read.weight[:, read.in_features * width // nested.widths[-1] :] = 0
        torch.testing.assert_close(nested(x, at(g)), masked(x), rtol=0, atol=1e-12)
        if nested.causal and nested.mixes == "time":  # also from the cache and the tails of the whole layer
            _, state = nested.prefill(x, nested.init_state(2))
            ours, theirs = nested.step(x[:, 3], state, at(g))[0], masked.step(x[:, 3], state)[0]
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layer", OPTIONS)
def test_the_whole_layer_is_the_plain_one(layer: str) -> None:
    nested = make(layer)
    name, options = nested.plain(len(nested.widths) - 1)
    spelled = ", ".join(f"{k}={architectures.registry.spell(v)}" for k, v in options.items())
    plain, x = make(f"{name}[{spelled}]"), noise(2, 9, DIM)
    for (n, a), (m, b) in zip(nested.named_parameters(), plain.named_parameters(), strict=True):
        assert n == m and torch.equal(a, b), "the same seed, the same weights"
    assert torch.equal(nested(x), plain(x)) and nested.flops(9) == plain.flops(9)


@pytest.mark.parametrize("layer", OPTIONS)
def test_prefixes_are_views_inside_one_another(layer: str) -> None:
    nested = make(layer)
    for g in range(len(nested.widths) - 1):
        small, large = nested.prefix(g), nested.prefix(g + 1)
        assert small.keys() == large.keys() == dict(nested.named_parameters()).keys()
        for name, p in small.items():
            cut = large[name][tuple(slice(n) for n in p.shape)]
            if name != "conv.weight":  # channels of three kinds, which are copied together
                assert p.data_ptr() == cut.data_ptr() and torch.equal(p, cut)
                assert (
                    p.untyped_storage().data_ptr() == nested.get_parameter(name).untyped_storage().data_ptr()
                )


@pytest.mark.parametrize("layer", OPTIONS)
def test_a_step_leaves_the_gradient_outside_its_prefix_exactly_zero(layer: str) -> None:
    nested, x = make(layer), noise(3, 9, DIM)
    for g in range(len(nested.widths)):
        nested.zero_grad(set_to_none=True)
        marked = {n: torch.zeros_like(p) for n, p in nested.named_parameters()}
        nested(x, at(g)).square().sum().backward()
        for name, kept in nested.prefix(g).items():
            if name == "conv.weight":
                inside = nested.first_channels(torch.arange(len(nested.conv.weight)), nested.widths[g], 0)
                marked[name][inside] = 1
            else:
                marked[name][tuple(slice(n) for n in kept.shape)] = 1
            gradient = nested.get_parameter(name).grad
            assert bool((gradient[marked[name] == 0] == 0).all()), name
            assert bool((gradient[marked[name] == 1] != 0).double().mean() > 0.9), name


@pytest.mark.parametrize("layer", OPTIONS)
def test_sizes_flops_and_active_parameters_follow_the_granularity(layer: str) -> None:
    nested = make(layer)
    whole = parameters_in(nested)
    shared = sum(p.numel() for n, p in nested.named_parameters() if "norm" in n)
    for g, width in enumerate(nested.widths):
        nested.granularity = g
        share = width / nested.widths[-1]
        assert nested.active_params() == (whole - shared) * share + shared
        name, options = nested.plain(g)
        spelled = ", ".join(f"{k}={architectures.registry.spell(v)}" for k, v in options.items())
        plain = make(f"{name}[{spelled}]")
        for count in (Primitive.flops, Primitive.executed_flops, Primitive.uncounted_flops):
            mine, theirs = (getattr(m, count.__name__)(9) for m in (nested, plain))
            assert mine == theirs, count.__name__


def test_the_context_wins_over_the_attribute_and_nothing_is_set_back() -> None:
    layer, x = make("matformer-mlp"), noise(1, 3, DIM)
    layer.granularity = 1
    y = layer(x)
    assert torch.equal(layer(x, at(3)), make("matformer-mlp")(x)) and not torch.equal(y, layer(x, at(3)))
    assert layer.granularity == 1 and torch.equal(layer(x), y) and torch.equal(layer(x, Context()), y)
    assert torch.equal(layer(x, Context(granularity={layer.path: 1})), y)
    assert torch.equal(layer(x, Context(granularity={"elsewhere": 3})), y)
    again = torch.utils.checkpoint.checkpoint(layer, x.requires_grad_(), at(1), use_reentrant=False)
    assert torch.equal(again, y)


@pytest.mark.parametrize("granularity", range(4))
@pytest.mark.parametrize("options", ["", "[heads=8, kv_heads=4, qk_norm=true, gate=true, conv=3]"])
def test_decoding_at_a_size_equals_forward_at_that_size(options: str, granularity: int) -> None:
    layer, x, ctx = make("matformer-attention" + options), noise(2, 9, DIM), at(granularity)
    outputs = []
    y, state = layer.prefill(x[:, :4], layer.init_state(2), ctx)
    for t in range(4, 9):
        out, state = layer.step(x[:, t], state, ctx)
        outputs.append(out)
    torch.testing.assert_close(torch.cat([y, torch.stack(outputs, 1)], 1), layer(x, ctx), rtol=0, atol=1e-12)
    assert state[0].shape[2] == layer.widths[granularity]
    layer.granularity = granularity
    expected = layer.widths[granularity] * (layer.key_dim + layer.value_dim) * 9
    assert layer.measure_state(9)["growing"] == expected


def test_a_small_size_reads_a_large_cache_and_not_the_reverse() -> None:
    layer, x = make("matformer-attention[heads=8, conv=3]"), noise(2, 5, DIM)
    _, whole = layer.prefill(x, layer.init_state(2), at(3))
    y, small = layer.step(x[:, 0], whole, at(1))
    cut = [t[:, :, :4] if t.dim() == 4 else t for t in whole]
    assert torch.equal(layer.step(x[:, 0], tuple(cut), at(1))[0], y)
    with pytest.raises(ValueError, match="cache holds 4 heads, this call reads 8"):
        layer.step(x[:, 0], small, at(3))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name, granularity", list(zip(NAMES, (0, 2, 1, 2), strict=True)))
def test_every_size_survives_vmap_and_compile(name: str, granularity: int) -> None:
    layers = [make(name, seed=r) for r in range(2)]
    x, ctx = noise(2, 5, DIM), at(granularity)

    def call(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(layers[0], parameters, (x, ctx))

    for y, layer in zip(torch.vmap(call)(stacked(layers)), layers, strict=True):
        torch.testing.assert_close(y, layer(x, ctx), rtol=0, atol=1e-12)
    torch._dynamo.reset()
    compiled = torch.compile(layers[0], backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, ctx), layers[0](x, ctx), rtol=0, atol=1e-12)


def test_the_default_heads_are_divisible_at_every_width_that_16_divides() -> None:
    found = {dim: make("matformer-attention", dim=dim).heads for dim in (16, 48, 80, 128, 256, 272)}
    assert found == {16: 4, 48: 4, 80: 4, 128: 8, 256: 16, 272: 8}


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: make("matformer-mlp[inner=100]"), "inner=100 is not divisible by 8.*choose inner=96"),
    (lambda: make("matformer-swiglu[inner=4]"), "choose inner=8"),
    (lambda: make("matformer-mlp[inner=0]"), "inner=0 must be at least 1"),
    (lambda: make("matformer-mlp[granularities=0]"), "granularities=0 must be at least 1"),
    (lambda: make("matformer-attention[heads=2]"), "granularities=4 does not divide the 2 heads.*from 1, 2"),
    (lambda: make("matformer-attention[heads=8, kv_heads=2]"), "does not divide the 2 heads"),
    (lambda: make("matformer-attention", dim=20), "dim 20 is not divisible by twice granularities=4"),
    (lambda: make("matformer-mlp[draw=sampled]"), "uniform, joint, or weights such as w1-1-1-1"),
    (lambda: make("matformer-mlp[draw=w1-2]"), "2 weights, of sum 3, for granularities=4"),
    (lambda: make("matformer-mlp[draw=w0-0-0-0]"), "not all 0"),
    (lambda: make("matformer-mlp")(noise(1, 1, DIM), at(4)), "granularity 4 .* choose 0 .* to 3"),
    (lambda: make("matformer-mlp")(noise(1, 1, DIM), at(-1)), "granularity -1"),
]


@pytest.mark.parametrize("call, message", REFUSED)
def test_what_does_not_fit_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_how_often_a_size_is_drawn_is_read_from_the_option() -> None:
    assert probabilities("uniform", 4) == (0.25,) * 4 and probabilities("joint", 4) == ()
    assert probabilities("w20-22-24-34", 4) == pytest.approx((0.2, 0.22, 0.24, 0.34))
    assert probabilities("w0.5-1.5", 2) == (0.25, 0.75)


def test_the_bases_say_what_a_subclass_owes() -> None:
    class Bare(Nested, Primitive):
        config: Any
        nested = "F"

    bare = Bare(Primitive.Config(), dim=4, max_len=4)
    bare.nest((1, 2))
    for call in (bare.prefix, bare.plain):
        with pytest.raises(NotImplementedError):
            call(0)
    assert issubclass(NestedInner, Nested)
