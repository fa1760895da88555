"""Hyena-SE, -MR and -LI against their double sums in float64; the contract tests cover the rest."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.functional.long_conv import grouped_conv, modal_conv, toeplitz
from tests.architectures.helpers import (
    agree,
    close,
    finite,
    in_pieces,
    layer_of,
    noise,
    parameters_in,
    short_conv,
    unroll,
)

DIM = 32
LENGTHS = [1, 5, 37, 67, 150]
LAYERS = [
    "hyena-se",
    "hyena-se[taps=4, group=8, conv=0]",
    "hyena-se[taps=1]",
    "hyena-mr",
    "hyena-mr[taps=66, group=32, conv=4]",
    "hyena-mr[taps=1, group=1]",
    "hyena-li",
    "hyena-li[order=3, conv=0]",
]


def filter_of(layer: Any, length: int) -> Tensor:
    """h (length, D), as the paper writes it; the skip is part of its first tap."""
    config, dim = layer.config, layer.dim
    columns = []
    for c in range(dim):
        taps = []
        for t in range(length):
            if layer.name == "hyena-li":
                tap = (layer.residue[c] * torch.exp(-layer.log_rate[c].exp() * t)).sum()
            elif t >= config.taps:
                tap = torch.zeros((), dtype=torch.float64)
            else:
                tap = layer.filter[c // config.group, t]
                if layer.name == "hyena-mr":
                    tap = tap * layer.window[c // config.group, t]
            if t == 0 and layer.name != "hyena-se":
                tap = tap + layer.skip[c]
            taps.append(tap)
        columns.append(torch.stack(taps))
    return torch.stack(columns, dim=-1)


def naive(layer: Any, x: Tensor) -> Tensor:
    length = x.shape[1]
    q, k, v = short_conv(x @ layer.project.weight.T, layer.conv.weight).chunk(3, dim=-1)
    h, u = filter_of(layer, length), k * v
    heard = [(h[: t + 1].flip(0) * u[:, : t + 1]).sum(1) for t in range(length)]
    return (q * torch.stack(heard, dim=1)) @ layer.out.weight.T + layer.out.bias


@pytest.mark.parametrize("spec", LAYERS)
@pytest.mark.parametrize("length", LENGTHS)
def test_forward_and_its_gradient_are_those_of_the_double_sum(spec: str, length: int) -> None:
    agree(layer_of(spec, away=0.1), naive, noise(2, length, DIM), atol=1e-11)


@pytest.mark.parametrize("spec", ["hyena-se", "hyena-mr", "hyena-li", "hyena-li[order=2, conv=0]"])
@pytest.mark.parametrize("cut", [1, 63, 64, 65, 129])
def test_prefill_continues_across_chunks(spec: str, cut: int) -> None:
    layer = layer_of(spec, away=0.1)
    x = noise(2, 150, DIM)
    torch.testing.assert_close(in_pieces(layer, x, cut, 149)[0], layer(x), rtol=0, atol=1e-11)


def test_the_same_filter_in_each_group_and_alone() -> None:
    h, x, tail = noise(2, 70), noise(3, 100, 6), noise(3, 69, 6, seed=2)
    whole = torch.cat([tail, x], dim=1)
    for g in range(2):
        part = slice(3 * g, 3 * g + 3)
        expected = torch.stack(
            [(h[g, :, None] * whole[:, t : t + 70, part].flip(1)).sum(1) for t in range(100)], dim=1
        )
        torch.testing.assert_close(grouped_conv(x, h, tail)[..., part], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("taps", "past"), [(1, 0), (64, 0), (65, 64), (100, 128), (128, 64)])
def test_a_toeplitz_matrix_holds_the_lags(taps: int, past: int) -> None:
    h = noise(2, taps)
    matrix = toeplitz(h, past)
    assert matrix.shape == (2, 64, past + 64)
    for i in range(64):
        for j in range(past + 64):
            lag = past + i - j
            expected = h[:, lag] if 0 <= lag < taps else torch.zeros(2, dtype=torch.float64)
            assert torch.equal(matrix[:, i, j], expected)


def test_modes_are_a_recurrence_from_any_state() -> None:
    u, rate, residue, s = noise(2, 130, 3), noise(3, 4).exp(), noise(3, 4, seed=2), noise(2, 3, 4, seed=3)
    y, last = modal_conv(u, rate, residue, s)
    for t in range(130):
        s = torch.exp(-rate) * s + u[:, t, :, None]
        torch.testing.assert_close(y[:, t], (residue * s).sum(-1), rtol=0, atol=1e-11)
    torch.testing.assert_close(last, s, rtol=0, atol=1e-11)


@pytest.mark.parametrize("shift", [-100.0, -10.0, 3.0, 5.0, 100.0])
def test_extreme_rates_stay_finite(shift: float) -> None:
    layer = layer_of("hyena-li").float()
    with torch.no_grad():
        layer.log_rate.fill_(shift)
    x = noise(2, 150, DIM).float()
    y = finite(layer, x).detach()
    close(unroll(layer, x[:, :5])[0], y[:, :5], 1e-4 * float(y.abs().max() / y[:, :5].abs().max()))


def test_special_cases_coincide() -> None:
    x = noise(2, 70, DIM)
    short, medium = layer_of("hyena-se[taps=5]", away=0.1), layer_of("hyena-mr[taps=5]")
    with torch.no_grad():
        for name, p in medium.named_parameters():
            p.copy_(dict(short.named_parameters()).get(name, torch.zeros_like(p)))
        medium.filter.div_(medium.window)
    torch.testing.assert_close(medium(x), short(x), rtol=0, atol=1e-12)
    # A mode that forgets at once is the skip.
    long = layer_of("hyena-li[order=1]", away=0.1)
    with torch.no_grad():
        long.log_rate.fill_(100.0)
    y = long(x)
    with torch.no_grad():
        long.skip.add_(long.residue[:, 0])
        long.residue.zero_()
    torch.testing.assert_close(long(x), y, rtol=0, atol=1e-12)


def test_the_states_are_those_of_the_paper() -> None:
    tail = 2 * 3 * 128
    for name, kind, size in (("se", "conv", 6), ("mr", "conv", 127), ("li", "recurrent", 16)):
        layer = layer_of(f"hyena-{name}", dim=128)
        expected = {"recurrent": 0, "conv": tail, "growing": 0, "total": tail + size * 128}
        expected[kind] += size * 128
        assert layer.measure_state(20) == layer.measure_state(5) == expected
        assert layer.nominal_state(20) == size * 128


def test_the_start_is_the_recipe() -> None:
    se, mr, li = (layer_of(f"hyena-{n}", dim=128).float() for n in ("se", "mr", "li"))
    common = 3 * 128 * 128 + 3 * 128 * 3 + 128 * 129
    own = (8 * 7, 8 * 128 + 128, 2 * 128 * 16 + 128)
    operators = ("filter",), ("filter", "skip"), ("log_rate", "residue", "skip")
    for layer, count, operator in zip((se, mr, li), own, operators, strict=True):
        assert parameters_in(layer) == common + count
        bound = math.sqrt(6 / (4 * 128))
        assert 0.99 * bound < layer.project.weight.abs().max() <= bound
        assert layer.project.bias is None and layer.conv.bias is None and layer.out.bias is not None
        hints = layer.hints()
        assert set(hints) == {"conv.weight", *operator} and not any(h.decay for h in hints.values())
    assert 0.8 * 7**-0.5 < se.filter.abs().max() <= 7**-0.5
    assert 0.9e-5 < mr.filter.std() * 128**0.5 < 1.1e-5
    assert 0.8 < mr.skip.std() < 1.2 and 0.8 < li.skip.std() < 1.2
    torch.testing.assert_close(
        mr.window[:, 64].log(), -64 * torch.logspace(0, 2, 8) / 8192, rtol=1e-4, atol=1e-6
    )
    rate = li.log_rate.detach().exp() * math.e
    assert 0.01 <= rate.min() < 0.011 and 0.099 < rate.max() <= 0.1 + 1e-6
    assert 0.053 < rate.mean() < 0.057  # uniform, then the logarithm
    assert 0.9 < li.residue.std() / (0.1 / 4) < 1.1
    torch.testing.assert_close(mr.window, layer_of("hyena-mr", dim=128, max_len=20).window.float())


def test_groups_share_a_filter() -> None:
    for name in ("se", "mr"):
        assert layer_of(f"hyena-{name}", dim=128).filter.shape[0] == 8
        assert layer_of(f"hyena-{name}[group=4]", dim=128).filter.shape[0] == 32
