"""Softmax attention with its options against the plain definition, token by token in float64."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.contract.checkup import examine
from architectures.functional.value_residual import FIRST, mix_key
from architectures.primitive import Context
from tests.architectures.helpers import (
    agree,
    gated_out,
    heads_of_attention,
    in_pieces,
    layer_of,
    noise,
    parameters_in,
    turned,
)

DIM = 48
make = partial(layer_of, dim=DIM, away=0.05)
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
    "mh-attention[bias=all, rope_base=50]",
    "gated-attention[bias=qkv, rope_fraction=0.5, rope_base=7, kv_heads=1]",
    "attention[heads=4, kv_heads=2, window=7, rope_fraction=0.5, qk_norm=true, gate=true, conv=4]",
]


def naive(layer: Any, x: Tensor) -> Tensor:
    """The definition: one query and one head at a time."""
    (q, k, v), config = heads_of_attention(layer, x), layer.config
    if config.rope:
        width = 2 * round(config.rope_fraction * layer.key_dim / 2)
        about = width, config.rope_base
        q = torch.stack([turned(q[:, t], t, *about) for t in range(x.shape[1])], dim=1)
        k = torch.stack([turned(k[:, t], t, *about) for t in range(x.shape[1])], dim=1)
    rows = []
    for t in range(x.shape[1]):
        start = 0 if config.window is None else max(0, t + 1 - config.window)
        found = []
        for h in range(layer.heads):
            g = h * layer.kv_heads // layer.heads
            scores = (k[:, start : t + 1, g] * q[:, t : t + 1, h]).sum(-1) / math.sqrt(layer.key_dim)
            found.append((scores.softmax(1)[..., None] * v[:, start : t + 1, g]).sum(1))
        rows.append(gated_out(layer, torch.cat(found, dim=-1), x[:, t]))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("spec", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 11, 37])
def test_forward_and_its_gradient_are_those_of_the_definition(spec: str, length: int) -> None:
    agree(
        make(spec), naive, noise(2, length, DIM), atol=1e-12, slope=1e-10 if length == 11 else None, low=1e-5
    )


@pytest.mark.parametrize("spec", OPTIONS)
def test_pieces_and_steps_continue_the_sequence(spec: str) -> None:
    layer, x = make(spec), noise(2, 24, DIM)
    y, state = in_pieces(layer, x, 9, 20, 21, 22, 23)
    torch.testing.assert_close(y, layer(x), rtol=0, atol=1e-12)
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
    plain = layer_of("mh-attention", dim=DIM)
    assert [n for n, _ in plain.named_parameters()] == names
    assert plain.state_kinds == ("growing", "growing", "counter")
    rich = layer_of("mh-attention[qk_norm=true, gate=true, conv=4]", dim=DIM)
    for n in names:
        assert torch.equal(rich.get_parameter(n), plain.get_parameter(n))
    assert torch.equal(rich.query_norm.weight, torch.ones(16).double())
    assert not rich.hints()["conv.weight"].decay and not plain.hints()


def test_biases_stand_where_they_can_act() -> None:
    def biased(options: str) -> set[str]:
        return {n.removesuffix(".bias") for n, _ in make(options).named_parameters() if n.endswith(".bias")}

    assert biased("mh-attention") == set()
    assert biased("gated-attention[bias=qkv]") == {"query", "key", "value"}
    assert biased("gated-attention[bias=all]") == {"query", "key", "value", "out", "gate"}
    assert biased("mh-attention[bias=qkv, rope=false]") == {"query", "value"}
    assert biased("mh-attention[bias=qkv, rope=false, qk_norm=true]") == {"query", "key", "value"}


@pytest.mark.parametrize(
    "spec",
    [
        "encoder-attention[bias=all]",
        "matformer-attention[bias=all]",
        "matformer-swiglu[bias=true]",
        "mlp[bias=true]",
    ],
)
def test_layers_with_biases_keep_the_contract(spec: str) -> None:
    failed = {found.check: found.seen for found in examine(spec, dim=DIM) if found.result == "failed"}
    assert not failed


def test_parameters_and_cache_count_the_shared_heads_once() -> None:
    for spec, count in {
        "mh-attention": 4 * 128**2,
        "mqa": 2 * 128**2 + 2 * 128 * 16,
        "gqa": 2 * 128**2 + 2 * 128 * 32,
        "gated-attention[qk_norm=true, conv=4]": 5 * 128**2 + 2 * 16 + 4 * 3 * 128,
    }.items():
        assert parameters_in(make(spec, dim=128)) == count
    sizes = {name: make(name, dim=128).measure_state(40) for name in ("mh-attention", "gqa", "mqa")}
    assert [s["total"] for s in sizes.values()] == [2 * 40 * 128, 2 * 40 * 32, 2 * 40 * 16]
    assert make("gqa[window=8]", dim=128).measure_state(40)["recurrent"] == 2 * 8 * 32
    conv = make("gqa[conv=4]", dim=128).measure_state(40)
    assert (conv["conv"], conv["growing"]) == (3 * (128 + 2 * 32), 2 * 40 * 32)


def test_sharing_saves_projections_and_no_pairs() -> None:
    full, shared = make("mh-attention", dim=128), make("mqa", dim=128)
    saved = 2 * 40 * 128 * 2 * (128 - 16)
    assert full.flops(40) - shared.flops(40) == full.executed_flops(40) - shared.executed_flops(40) == saved
    gated = make("gated-attention", dim=128)
    assert gated.flops(40) - full.flops(40) == 40 * (2 * 128**2 + 128)
    assert (
        gated.uncounted_flops(40) == 40 * 128
        and make("mh-attention[conv=4]").uncounted_flops(40) == 2 * 4 * 40 * 3 * DIM
    )


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
