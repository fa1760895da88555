"""Multi-head Hyena against its double sum in float64; the contract tests cover the rest."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import architectures
from architectures.parts.implicit_filter import ImplicitFilter
from tests.architectures.helpers import agree, layer_of, noise, short_conv, unroll

DIM = 16
hyena = partial(layer_of, "hyena", dim=DIM, max_len=32)
make = partial(layer_of, "mh-hyena", dim=DIM, max_len=32)


def naive(layer: Any, x: Tensor) -> Tensor:
    width = layer.config.head_dim
    z = torch.cat(layer.config.tied * [x @ layer.project.weight.T + layer.project.bias], dim=-1)
    q, k, v = short_conv(z, layer.conv.weight, layer.conv.bias).split(x.shape[2], dim=-1)
    h = layer.filter(x.shape[1])
    heads = []
    for j in range(x.shape[2] // width):
        part = slice(j * width, (j + 1) * width)
        rows = []
        for t in range(x.shape[1]):
            s = layer.skip[j] * torch.einsum("bk,bv->bkv", k[:, t, part], v[:, t, part])
            for u in range(t + 1):
                s = s + h[t - u, j] * torch.einsum("bk,bv->bkv", k[:, u, part], v[:, u, part])
            rows.append(torch.einsum("bk,bkv->bv", q[:, t, part], s))
        heads.append(torch.stack(rows, dim=1))
    return torch.cat(heads, dim=-1) @ layer.out.weight.T + layer.out.bias


@pytest.mark.parametrize(
    "options",
    [
        "",
        "head_dim=4, order=3",
        "head_dim=1",
        "head_dim=16, conv=5",
        "conv=0",
        "tied=4, positions=learned",
    ],
)
def test_forward_and_its_gradient_are_those_of_the_double_sum(options: str) -> None:
    agree(make(options), naive, noise(2, 11, DIM), atol=1e-12)


@pytest.mark.parametrize("tied, positions", [(1, "fixed"), (4, "learned")])
def test_heads_of_one_channel_are_hyena_without_expansion(tied: int, positions: str) -> None:
    shared = f"tied={tied}, positions={positions}"
    ours, theirs = make(f"head_dim=1, order=4, {shared}"), hyena(f"expand=1, {shared}")
    theirs.load_state_dict(ours.state_dict())
    x = noise(2, 19, DIM)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-12)
    for layer in (ours, theirs):
        torch.testing.assert_close(unroll(layer, x)[0], ours(x), rtol=0, atol=1e-12)


# athms/mad-lab at width 128 and length 128; there MH-Hyena has 8 heads of 16, and the router a bias.
@pytest.mark.parametrize(
    "spec, params",
    [
        ("hyena[tied=4, positions=learned]", 124_348),
        ("mh-hyena[tied=4, positions=learned, head_dim=16]", 30_862),
        ("hyena-experts[positions=learned]", 57_464 - 8),
    ],
)
def test_the_options_give_the_parameters_of_the_public_code(spec: str, params: int) -> None:
    found = architectures.account(spec, vocab_size=5, dim=128, seq_len=128).layers[0]
    assert found.params == params


def test_a_tied_projection_costs_its_part() -> None:
    free, tied = (hyena(f"tied={n}").flops(32) for n in (1, 4))
    assert free - tied == 0.75 * 2 * 32 * DIM * 3 * 4 * DIM


def test_learned_positions_are_trained_slowly() -> None:
    for name in ("hyena", "mh-hyena", "hyena-experts"):
        hints = layer_of(name, "positions=learned").hints()
        assert hints["filter.features"].lr_scale == 0.01 and not hints["filter.features"].decay
        assert hints["filter.frequency"].lr_scale == 1 and "filter.features" not in layer_of(name).hints()


def test_the_nominal_state_is_the_published_one_and_the_history_is_counted() -> None:
    layer = make(dim=128)
    assert layer.heads == 16 and layer.nominal_state(32) == 2048
    sizes = layer.measure_state(32)
    assert sizes == {"recurrent": 0, "conv": 2 * 3 * 128, "growing": 2 * 32 * 128, "total": 768 + 8192}


def test_there_is_one_filter_and_one_skip_for_each_head() -> None:
    layer = make()
    assert isinstance(layer.filter, ImplicitFilter)
    assert layer.filter(7).shape == (7, 2) and layer.skip.shape == (2,)
    hints = layer.hints()
    assert all(not hints[f"filter.{n}"].decay for n, _ in layer.filter.named_parameters())


def test_more_tokens_than_the_filter_is_long_are_refused() -> None:
    layer = make()
    _, state = layer.prefill(noise(1, 32, DIM), layer.init_state(1))
    with pytest.raises(ValueError, match="max_len 32"):
        layer.step(noise(1, DIM), state)
