"""Canon at its four sites against y_t = x_t + sum_i w_i x_{t-i}; the contract tests cover the rest."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import architectures
from architectures import growth
from architectures.elastic import extract, set_granularity
from architectures.functional.rotary import rotate_first
from architectures.parts.canon import Canon
from architectures.registry import get
from architectures.sizes.accounting import account
from tests.architectures.helpers import (
    agree,
    close,
    decodes_and_learns,
    gated_out,
    heads_of_attention,
    in_pieces,
    layer_of,
    model_of,
    moved,
    noise,
    random_tokens,
    short_conv,
    silu,
    wild,
    wrapper_of,
)

DIM = 32
INSIDE = [
    name
    for name in architectures.names()
    if any(f.name == "canon" for f in dataclasses.fields(get(name).cls.Config))
]
CAUSAL = [name for name in INSIDE if get(name).cls.causal]
AROUND = "canon[sites=abcd]{mh-attention swiglu}"


def canon(z: Tensor, weight: Tensor | None) -> Tensor:
    return z if weight is None else z + short_conv(z, weight)


def taps_of(module: nn.Module) -> list[nn.Parameter]:
    """The taps of every site in a module."""
    return [p for name, p in module.named_parameters() if "canon" in name]


def test_it_is_a_depthwise_convolution_of_torch_beside_the_plain_path() -> None:
    ours, theirs = Canon(6, 4).double(), nn.Conv1d(6, 6, 4, groups=6, padding=3, bias=False).double()
    assert ours.weight is not None
    with torch.no_grad():
        theirs.weight[:, 0] = ours.weight
    x = noise(2, 11, 6)
    close(ours.anew(x), x + theirs(x.mT)[..., :11].mT)
    # The taps start as torch's do: uniform, of variance 1 / 12.
    start = Canon(4096, 4).weight
    assert start is not None and float(start.detach().abs().max()) <= 0.5
    assert float(start.detach().var()) == pytest.approx(1 / 12, rel=0.05)


@pytest.mark.parametrize("name", INSIDE)
def test_zero_taps_inside_a_layer_are_none(name: str) -> None:
    layer, plain = layer_of(name, "canon=4", dim=DIM, away=0.1), layer_of(name, dim=DIM)
    own = {n: p for n, p in layer.named_parameters() if "canon" in n}
    assert own and all(not layer.hints()[n].decay for n in own)
    x = noise(2, 19, DIM)
    before = layer(x)
    with torch.no_grad():
        for p in own.values():
            p.zero_()
    plain.load_state_dict({n: p for n, p in layer.state_dict().items() if n not in own})
    close(layer(x), plain(x), 1e-12)
    assert float((before - plain(x)).detach().abs().max()) > 1e-6


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("taps", [1, 4])
def test_the_forms_agree_and_every_tap_acts(name: str, taps: int) -> None:
    layer = layer_of(name, f"canon={taps}", dim=DIM, away=0.02)
    x = noise(2, 13, DIM)
    whole = layer(x)
    close(in_pieces(layer, x, 3, *range(8, 13))[0], whole, 1e-11)
    (whole * noise(*whole.shape, seed=2)).sum().backward()
    taken = taps_of(layer)
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in taken)
    plain, channels = layer_of(name, dim=DIM), sum(len(p) for p in taken)
    assert layer.measure_state(13)["conv"] - plain.measure_state(13)["conv"] == (taps - 1) * channels
    assert layer.flops(13) - plain.flops(13) == (2 * taps + 1) * 13 * channels


@pytest.mark.parametrize("name", ["delta-net", "gated-delta-net", "mh-gated-linear-attention", "kda"])
def test_behind_a_convolution_without_silu_it_would_be_a_tap_more(name: str) -> None:
    """A site is a convolution whose last tap is w_0 + 1."""
    layer = layer_of(name, "conv=0, canon=4", dim=DIM, away=0.1)
    folded = layer_of(name, "conv=4", dim=DIM)
    weights = layer.state_dict()
    weights["conv.weight"] = weights.pop("conv.canon") + F.one_hot(torch.tensor(3), 4)
    folded.load_state_dict(weights)
    folded.conv.activation = False
    x = noise(2, 19, DIM)
    close(layer(x), folded(x))


def naive_attention(layer: Any, x: Tensor) -> Tensor:
    heads = heads_of_attention(layer, x)
    z = canon(torch.cat([u.flatten(2) for u in heads], dim=-1), layer.canon.weight)
    parts = z.split([u[0, 0].numel() for u in heads], dim=-1)
    q, k, v = (part.view_as(u) for part, u in zip(parts, heads, strict=True))
    where = torch.arange(x.shape[1])
    if layer.rotated:
        q, k = (rotate_first(u, where, layer.rotated, layer.rotated) for u in (q, k))
    k, v = (u.repeat_interleave(layer.heads // layer.kv_heads, dim=2) for u in (k, v))
    scores = torch.einsum("bthk,bshk->bhts", q, k) / layer.key_dim**0.5
    scores = scores.masked_fill(where > where[:, None], float("-inf"))
    o = torch.einsum("bhts,bshv->bthv", scores.softmax(-1), v).flatten(2)
    return torch.stack([gated_out(layer, o[:, t], x[:, t]) for t in range(x.shape[1])], dim=1)


OPTIONS = [
    "canon=4",
    "canon=2, conv=3, qk_norm=true",
    "canon=4, heads=4, kv_heads=2, rope_fraction=0.5, gate=true",
]


@pytest.mark.parametrize("options", OPTIONS)
def test_in_attention_it_stands_behind_qk_norm_and_before_the_rotation(options: str) -> None:
    agree(layer_of("mh-attention", options, dim=DIM, away=0.1), naive_attention, noise(2, 17, DIM))


def naive_mlp(layer: Any, x: Tensor) -> Tensor:
    up = canon(x @ layer.up.weight.T, layer.up_canon.weight)
    if layer.gate is None:
        h = F.gelu(up) if layer.name.endswith("mlp") and "relu" not in layer.name else F.relu(up).square()
    else:
        h = silu(canon(x @ layer.gate.weight.T, layer.gate_canon.weight)) * up
    return h @ layer.down.weight.T


@pytest.mark.parametrize("name", ["mlp", "relu2-mlp", "swiglu"])
def test_in_a_channel_mixer_it_stands_before_the_activation(name: str) -> None:
    agree(layer_of(name, "inner=20, canon=3", dim=DIM, away=0.1), naive_mlp, noise(2, 17, DIM))


def test_in_mamba2_it_stands_on_the_whole_projection_before_the_convolution() -> None:
    layer, x = layer_of("mamba2", "canon=4", dim=DIM, away=0.1), noise(2, 17, DIM)
    plain = layer_of("mamba2", dim=DIM)
    plain.load_state_dict({n: p for n, p in layer.state_dict().items() if "canon" not in n})
    mixed = canon(x @ layer.project.weight.T, layer.canon.weight)
    plain.project = nn.Identity()
    close(layer(x), plain(mixed))


@pytest.mark.parametrize("expand, inner", [(2.0, 64), (0.5, 16), (0.01, 1)])
def test_the_inner_width_may_follow_the_width(expand: float, inner: int) -> None:
    assert layer_of("swiglu", f"expand={expand}", dim=DIM).inner == inner
    assert layer_of("swiglu", f"expand={expand}, inner=24", dim=DIM).inner == 24
    with pytest.raises(ValueError, match="expand=0.0 must be positive and finite"):
        layer_of("swiglu", "expand=0.0")


def test_the_wrapper_convolves_between_norm_and_layer() -> None:
    wrapper = wrapper_of("canon{mh-attention (mlp + delta-net) (mlp + mlp) mlp}", away=0.1)
    x = expected = noise(2, 19, DIM)
    for block in wrapper.body:
        expected = expected + block.layer(canon(block.norm(expected), block.canon.weight))
    close(wrapper(x), expected)
    only = wrapper_of("canon[sites=a]{mh-attention (mlp + delta-net) (mlp + mlp) mlp}")
    assert [block.canon is not None for block in only.body] == [True, True, False, False]
    only = wrapper_of("canon[sites=c]{mh-attention (mlp + delta-net) (mlp + mlp) mlp}")
    assert [block.canon is not None for block in only.body] == [False, False, True, True]


def test_all_sites_are_the_outer_ones_around_layers_that_state_the_inner_ones() -> None:
    inside = wrapper_of("canon{mh-attention[canon=4] swiglu[canon=4]}", away=0)
    around = wrapper_of(AROUND, away=0)
    assert len(taps_of(around)) == 5
    for (name, a), (other, b) in zip(inside.named_parameters(), around.named_parameters(), strict=True):
        assert name == other and torch.equal(a, b)
    stated = wrapper_of("canon[sites=b, taps=2]{delta-net[canon=3] mamba2 mlp}", away=0)
    assert [p.shape[1] for p in taps_of(stated)] == [3, 2]


def test_zero_taps_are_the_plain_residual_and_no_site_is_decayed() -> None:
    wrapper, x = wrapper_of(AROUND, away=0.1), noise(2, 19, DIM)
    hints = wrapper.hints() | {f"body.0.layer.{n}": h for n, h in wrapper.body[0].layer.hints().items()}
    assert not hints["body.0.canon.weight"].decay and not hints["body.0.layer.canon.weight"].decay
    with torch.no_grad():
        for p in taps_of(wrapper):
            p.zero_()
    expected = x
    for block in wrapper.body:
        expected = expected + block.layer(block.norm(expected))
    close(wrapper(x), expected)
    with torch.no_grad():  # y_t = x_{t-1}: the mixer reads what it read one token later
        wrapper.body[0].canon.weight[:, -2:] = torch.tensor([1.0, -1.0])
    block = wrapper.body[0]
    close(block(x)[:, 1:], block.layer(F.pad(block.norm(x), (0, 0, 1, 0)))[:, 1:-1])


@pytest.mark.parametrize(
    "spec",
    [
        "canon[sites=abcd]{repeat[times=2]{delta-net (mlp + mamba2)} mlp}",
        "reversible{canon{mh-attention mlp}} hyper-connections{canon[sites=abcd]{gated-delta-net swiglu}}",
        "canon[sites=ad]{value-residual{mqa mlp mqa}} canon[sites=b]{hgrn linear-attention}",
    ],
)
def test_it_composes_with_branches_and_other_wrappers(spec: str) -> None:
    decodes_and_learns(spec)


@pytest.mark.parametrize(
    "spec, message",
    [
        (
            "canon[sites=ba]{mlp}",
            "sites=ba is not some of the letters a, b, c, d in this order; choose sites=ab",
        ),
        ("canon[sites=x]{mlp}", "choose sites=ac"),
        ("canon{4*mamba}", "no place for site c: no layer that mixes channel in its body; state sites=a"),
        (
            "canon[sites=b]{mamba mlp}",
            "no layer that mixes time with an option canon in its body; give it one",
        ),
        ("canon[sites=abd]{mamba2 moe-mlp}", "no place for site d"),
        ("canon{mh-attention canon{mh-attention mlp} mlp}", "stands inside another one"),
        ("canon[taps=0]{mlp}", "taps=0 must be at least 1"),
    ],
)
def test_what_has_no_place_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        architectures.build(spec, vocab_size=5, dim=DIM, max_len=16, seed=0)


@pytest.mark.parametrize(
    "grow, to",
    [
        (growth.widen_hidden, 48),
        (growth.widen_mlp, 96),
        (growth.add_heads, 4),
        (growth.widen_keys, 24),
        (growth.widen_values, 24),
    ],
)
def test_growth_keeps_the_function_of_every_site(grow: Any, to: int) -> None:
    model, tokens = (
        model_of("canon[sites=abcd]{mh-attention[heads=2] swiglu[inner=64]}"),
        random_tokens(2, 19),
    )
    grown, _ = grow(model, to=to, fill=wild())
    close(grown(tokens), model(tokens))
    assert sum(p.numel() for p in grown.parameters()) > sum(p.numel() for p in model.parameters())


def test_submodels_of_nested_layers_keep_their_part_of_every_site() -> None:
    model = model_of("canon[sites=abcd]{matformer-attention[heads=4] matformer-swiglu[inner=64]}")
    tokens = random_tokens(2, 19)
    for size in range(4):
        set_granularity(model, size)
        small = extract(model, size)
        close(small(tokens), model(tokens))
        close(in_pieces(model, tokens, *range(10, 19))[0], small(tokens))


def test_the_sites_of_a_block_hold_three_inputs_of_every_channel() -> None:
    def conv(spec: str) -> int:
        state = account(spec, vocab_size=5, dim=128, seq_len=40).state
        assert state is not None
        return state["conv"]

    d = 128
    assert conv("canon[sites=a]{mh-attention swiglu}") == conv("canon[sites=c]{mh-attention swiglu}") == 3 * d
    assert conv("canon[sites=b]{mh-attention swiglu}") == 3 * 3 * d
    assert conv("canon[sites=d]{mh-attention swiglu[expand=2]}") == 12 * d
    assert conv("canon[sites=abcd]{mh-attention swiglu[expand=2]}") == 27 * d


def test_values_away_from_the_start_are_those_of_every_replica() -> None:
    """vmap over models is the loop over them."""
    model = moved(architectures.build(AROUND, vocab_size=5, dim=DIM, max_len=24, seed=0).double())
    other = moved(architectures.build(AROUND, vocab_size=5, dim=DIM, max_len=24, seed=1).double())
    params = [dict(m.named_parameters()) for m in (model, other)]
    both = {n: torch.stack([p[n].detach() for p in params]) for n in params[0]}
    tokens = random_tokens(2, 17)
    found = torch.func.vmap(lambda p: torch.func.functional_call(model, p, (tokens,)))(both)
    close(found, torch.stack([model(tokens), other(tokens)]))
