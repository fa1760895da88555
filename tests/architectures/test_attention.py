"""Softmax attention with its options against the plain definition, token by token in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import architectures
from architectures.functional.value_residual import FIRST, mix_key
from architectures.primitive import Context, Primitive

DIM = 48
OPTIONS = [
    "mh-attention",
    "mqa",
    "gqa[heads=6, group=2]",
    "gqa[heads=8, kv_heads=2, key_dim=6, value_dim=10]",
    "gated-attention",
    "mh-attention[qk_norm=true]",
    "mh-attention[qk_norm=true, rope=false, heads=2, key_dim=5]",
    "mh-attention[rope_fraction=0.25]",
    "mh-attention[conv=3]",
    "attention[heads=4, kv_heads=2, window=7, rope_fraction=0.5, qk_norm=true, gate=true, conv=4]",
]


def make(spec: str, *, dim: int = DIM, seed: int = 0) -> Primitive:
    model = architectures.build(f"1*{spec}", vocab_size=5, dim=dim, max_len=80, seed=seed)
    layer = model.layers()[0][1].double()
    with torch.no_grad():  # away from weights of one
        for j, p in enumerate(layer.parameters()):
            p.add_(0.05 * noise(*p.shape, seed=j))
    return layer


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def taps(u: Tensor, weight: Tensor) -> Tensor:
    """silu(sum_i weight[:, -1 - i] u_{t - i}), token by token."""
    rows = []
    for t in range(u.shape[1]):
        back = range(min(weight.shape[1], t + 1))
        y = sum(weight[:, weight.shape[1] - 1 - i] * u[:, t - i] for i in back)
        assert isinstance(y, Tensor)
        rows.append(y * torch.sigmoid(y))
    return torch.stack(rows, dim=1)


def turned(z: Tensor, t: int, width: int) -> Tensor:
    """RoPE on the first `width` channels of z (..., K) at position t, pair by pair."""
    out, half = list(z.unbind(-1)), width // 2
    for i in range(half):
        angle = t * 10_000.0 ** (-i / half)
        a, b = z[..., i], z[..., i + half]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + half] = a * math.sin(angle) + b * math.cos(angle)
    return torch.stack(out, dim=-1)


def naive(layer: Primitive, x: Tensor) -> Tensor:
    """The definition: one query and one head at a time."""
    config, heads, shared = layer.config, layer.heads, layer.kv_heads
    u = torch.cat([x @ layer.query.weight.T, x @ layer.key.weight.T, x @ layer.value.weight.T], dim=-1)
    if config.conv:
        u = taps(u, layer.conv.weight)
    widths = [heads * layer.key_dim, shared * layer.key_dim, shared * layer.value_dim]
    q, k, v = (
        z.unflatten(-1, (n, -1)) for z, n in zip(u.split(widths, -1), (heads, shared, shared), strict=True)
    )
    if config.qk_norm:
        q = q / (q.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.query_norm.weight
        k = k / (k.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.key_norm.weight
    if config.rope:
        width = 2 * round(config.rope_fraction * layer.key_dim / 2)
        q = torch.stack([turned(q[:, t], t, width) for t in range(x.shape[1])], dim=1)
        k = torch.stack([turned(k[:, t], t, width) for t in range(x.shape[1])], dim=1)
    rows = []
    for t in range(x.shape[1]):
        start = 0 if config.window is None else max(0, t + 1 - config.window)
        found = []
        for h in range(heads):
            g = h * shared // heads
            scores = (k[:, start : t + 1, g] * q[:, t : t + 1, h]).sum(-1) / math.sqrt(layer.key_dim)
            found.append((scores.softmax(1)[..., None] * v[:, start : t + 1, g]).sum(1))
        o = torch.cat(found, dim=-1)
        if config.gate:
            o = o * torch.sigmoid(x[:, t] @ layer.gate.weight.T)
        rows.append(o @ layer.out.weight.T)
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("spec", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 37])
def test_forward_is_the_definition(spec: str, length: int) -> None:
    layer, x = make(spec), noise(2, length, DIM)
    expected = naive(layer, x)
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12 * scale)
    low = layer.float()(x.float())
    torch.testing.assert_close(low, expected.float(), rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("spec", OPTIONS)
def test_the_gradient_is_that_of_the_definition(spec: str) -> None:
    layer, x = make(spec), noise(2, 11, DIM)
    weight, parameters = noise(2, 11, DIM, seed=5), list(layer.parameters())
    ours = torch.autograd.grad((layer(x) * weight).sum(), parameters)
    theirs = torch.autograd.grad((naive(layer, x) * weight).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("spec", OPTIONS)
def test_pieces_and_steps_continue_the_sequence(spec: str) -> None:
    layer, x = make(spec), noise(2, 24, DIM)
    whole, rows = layer(x), []
    y, state = layer.prefill(x[:, :9], layer.init_state(2))
    z, state = layer.prefill(x[:, 9:20], state)
    for t in range(20, 24):
        row, state = layer.step(x[:, t], state)
        rows.append(row)
    torch.testing.assert_close(torch.cat([y, z, torch.stack(rows, 1)], 1), whole, rtol=0, atol=1e-12)
    assert len(state) == len(layer.state_kinds)


@pytest.mark.parametrize(
    ("dim", "options", "shared"),
    [
        (16, "", 1),
        (48, "", 1),
        (64, "", 1),
        (80, "", 1),
        (128, "", 2),
        (192, "", 3),
        (128, "[group=3]", 2),
        (96, "[group=2]", 3),
        (128, "[kv_heads=4]", 4),
        (128, "[group=1]", 8),
        (128, "[group=99]", 1),
    ],
)
def test_a_group_shares_the_most_heads_that_divide_and_are_few_enough(
    dim: int, options: str, shared: int
) -> None:
    assert make(f"gqa{options}", dim=dim).kv_heads == shared


@pytest.mark.parametrize("options", ["heads=3, kv_heads=3", "heads=3, group=1"])
def test_as_many_kv_heads_as_heads_are_attention(options: str) -> None:
    ours, plain = make(f"attention[{options}]"), make("mh-attention")
    ours.load_state_dict(plain.state_dict())
    assert torch.equal(ours(noise(2, 9, DIM)), plain(noise(2, 9, DIM)))


def test_an_option_that_is_off_leaves_no_parameter_and_draws_nothing() -> None:
    names = ["query.weight", "key.weight", "value.weight", "out.weight"]
    plain = architectures.build("1*mh-attention", vocab_size=5, dim=DIM, max_len=80, seed=0).layers()[0][1]
    assert [n for n, _ in plain.named_parameters()] == names
    assert plain.state_kinds == ("growing", "growing", "counter")
    rich = architectures.build(
        "1*mh-attention[qk_norm=true, gate=true, conv=4]", vocab_size=5, dim=DIM, max_len=80, seed=0
    ).layers()[0][1]
    for n in names:
        assert torch.equal(rich.get_parameter(n), plain.get_parameter(n))
    assert torch.equal(rich.query_norm.weight, torch.ones(16))
    assert not rich.hints()["conv.weight"].decay and not plain.hints()


def test_parameters_and_cache_count_the_shared_heads_once() -> None:
    def parameters(spec: str) -> int:
        return sum(p.numel() for p in make(spec, dim=128).parameters())

    assert parameters("mh-attention") == 4 * 128**2
    assert parameters("mqa") == 2 * 128**2 + 2 * 128 * 16
    assert parameters("gqa") == 2 * 128**2 + 2 * 128 * 32
    assert parameters("gated-attention[qk_norm=true, conv=4]") == 5 * 128**2 + 2 * 16 + 4 * 3 * 128
    sizes = {name: make(name, dim=128).measure_state(40) for name in ("mh-attention", "gqa", "mqa")}
    assert [s["total"] for s in sizes.values()] == [2 * 40 * 128, 2 * 40 * 32, 2 * 40 * 16]
    assert make("gqa[window=8]", dim=128).measure_state(40)["recurrent"] == 2 * 8 * 32
    conv = make("gqa[conv=4]", dim=128).measure_state(40)
    assert (conv["conv"], conv["growing"]) == (3 * (128 + 2 * 32), 2 * 40 * 32)


def test_sharing_saves_projections_and_no_pairs() -> None:
    full, shared = make("mh-attention", dim=128), make("mqa", dim=128)
    saved = 2 * 40 * 128 * 2 * (128 - 16)
    assert full.flops(40) - shared.flops(40) == full.executed(40) - shared.executed(40) == saved
    gated = make("gated-attention", dim=128)
    assert gated.flops(40) - full.flops(40) == 40 * (2 * 128**2 + 128)
    assert gated.unseen(40) == 40 * 128 and make("mh-attention[conv=4]").unseen(40) == 2 * 4 * 40 * 3 * DIM


def test_a_closed_gate_shuts_the_layer_and_a_gate_at_zero_halves_it() -> None:
    gated, plain = make("gated-attention"), make("mh-attention")
    gated.load_state_dict({**plain.state_dict(), "gate.weight": torch.zeros(DIM, DIM)})
    x = noise(2, 9, DIM)
    torch.testing.assert_close(gated(x), plain(x) / 2, rtol=0, atol=1e-14)


def test_normalised_scores_do_not_see_the_size_of_the_input() -> None:
    layer, x = make("mh-attention[qk_norm=true]"), 10 * noise(2, 9, DIM)
    torch.testing.assert_close(layer(3 * x), 3 * layer(x), rtol=0, atol=1e-5)


def test_the_channels_beyond_the_fraction_carry_no_position() -> None:
    layer, x = make("mh-attention[rope_fraction=0.25]"), noise(1, 1, DIM)
    rows = x.expand(1, 6, DIM)
    _, k, _, _ = layer.project(rows, torch.arange(6), [], None)
    torch.testing.assert_close(k[..., 4:], k[:, :1, :, 4:].expand(-1, 6, -1, -1), rtol=0, atol=1e-13)
    assert all((k[:, 1:, :, c] - k[:, :1, :, c]).abs().max() > 1e-3 for c in range(4))


@pytest.mark.parametrize("name", ["mh-attention", "gqa", "fox", "path-attention"])
def test_values_of_the_first_mixer_pass_into_later_ones(name: str) -> None:
    layer, x = make(name), noise(2, 7, DIM)
    layer.index = 1
    first = noise(2, 7, layer.kv_heads, layer.value_dim, seed=3)
    weights = torch.tensor([0.25, 0.5], dtype=torch.float64)
    plain = layer(x)
    mixed = layer(x, Context(shared={mix_key(1): weights, FIRST: first}))
    only_own = layer(x, Context(shared={mix_key(1): weights, FIRST: 0 * first}))
    torch.testing.assert_close(only_own, 0.25 * plain, rtol=0, atol=1e-12)
    assert (mixed - only_own).abs().max() > 1e-3
    state, rows = layer.init_state(2), []
    for t in range(7):
        context = Context(shared={mix_key(1): weights, FIRST: first[:, t : t + 1]})
        row, state = layer.step(x[:, t], state, context)
        rows.append(row)
    torch.testing.assert_close(torch.stack(rows, 1), mixed, rtol=0, atol=1e-12)
    layer.index, shared = 0, {mix_key(0): torch.empty(0)}
    layer(x, Context(shared=shared))
    assert shared[FIRST].shape == first.shape


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "attention[heads=6, kv_heads=4]",
            "heads 6 is not divisible by kv_heads 4; choose kv_heads from 1, 2, 3, 6",
        ),
        ("attention[kv_heads=0]", "kv_heads=0 must be at least 1"),
        ("gqa[group=0]", "group=0 must be at least 1"),
        ("attention[conv=-1]", "conv=-1 must be at least 0"),
        ("attention[window=0]", "window=0 must be at least 1"),
        ("attention[heads=16]", "is odd, and RoPE rotates pairs; choose an even key_dim or rope=false"),
        (
            "attention[rope_fraction=0]",
            "rope_fraction=0.0 must be above 0 and at most 1; for no rotation, rope=false",
        ),
        ("attention[rope_fraction=1.5]", "must be above 0 and at most 1"),
        ("mh-attention[rope_fraction=0.05]", "is not a pair of channels; choose at least 0.125"),
    ],
)
def test_what_cannot_be_built_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(spec)
