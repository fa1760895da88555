"""HGRN against its recurrence, token by token in float64; the contract tests cover the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.functional.delta import delta_rule
from architectures.registry import get
from tests.architectures.helpers import agree, close, finite, in_pieces, moved, noise, rms, short_conv, silu

DIM = 32
OPTIONS: list[dict[str, Any]] = [{}, {"conv": 4}, {"canon": 3}, {"expand": 2, "conv": 2, "canon": 4}]


def make(index: int = 0, depth: int = 1, dim: int = DIM, **options: Any) -> Any:
    entry = get("hgrn")
    torch.manual_seed(index)
    return entry.cls(entry.config(options), dim=dim, max_len=128, index=index, depth=depth).double()


def gates(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """f and the candidate silu(i) (B, T, R)."""
    z = short_conv(x @ layer.project.weight.T, layer.conv.weight)
    if layer.conv.canon is not None:
        z = z + short_conv(z, layer.conv.canon)
    f, i = z.split(layer.inner, dim=-1)
    bound = 0 if layer.bound is None else torch.sigmoid(layer.bound)
    return bound + (1 - bound) * torch.sigmoid(f), silu(i)


def naive(layer: Any, x: Tensor) -> Tensor:
    f, candidate = gates(layer, x)
    h, rows = torch.zeros(x.shape[0], layer.inner, dtype=x.dtype), []
    for t in range(x.shape[1]):
        h = f[:, t] * h + (1 - f[:, t]) * candidate[:, t]
        gate = silu(x[:, t] @ layer.gate.weight.T)
        rows.append((rms(h) * layer.norm.weight * gate) @ layer.out.weight.T)
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("index", [0, 2])
@pytest.mark.parametrize("length", [1, 37])
def test_forward_and_its_gradient_are_those_of_the_recurrence(
    options: dict[str, Any], index: int, length: int
) -> None:
    agree(moved(make(index, 3, **options)), naive, noise(2, length, DIM))


@pytest.mark.parametrize("options", OPTIONS)
def test_pieces_equal_the_whole(options: dict[str, Any]) -> None:
    layer, x = moved(make(1, 2, **options)), noise(2, 30, DIM)
    close(in_pieces(layer, x, 1, 2, 20)[0], layer(x))


def test_its_recurrence_is_that_of_hgrn2_with_heads_of_one_channel_and_a_query_of_one() -> None:
    layer, x = moved(make(1, 2)), noise(2, 37, DIM)
    f, candidate = gates(layer, x)
    one = torch.ones_like(f)[..., None]
    o, _ = delta_rule(one, (1 - f)[..., None], candidate[..., None], f.log()[..., None], None)
    gate = silu(x @ layer.gate.weight.T)
    close(layer(x), (rms(o[..., 0]) * layer.norm.weight * gate) @ layer.out.weight.T, 1e-10)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_bounds_start_as_those_of_hgrn2(depth: int) -> None:
    for index in range(depth):
        bound = make(index, depth).bound
        start = 0.0 if bound is None else float(torch.sigmoid(bound.detach()).mean())
        assert start == pytest.approx(index / depth, abs=1e-6)
    hints = make(1, 2, conv=2, canon=2).hints()
    assert not any(hints[name].decay for name in ("bound", "conv.weight", "conv.canon"))


@pytest.mark.parametrize("logit", [-1e4, -50.0, 50.0, 1e4])
def test_no_gate_breaks_the_values_or_the_gradient(logit: float) -> None:
    layer = make(1, 2).float()
    with torch.no_grad():
        layer.project.weight[:DIM] = logit / DIM
    x = noise(2, 67, 1).sign().float().expand(2, 67, DIM) + 0.01 * noise(2, 67, DIM).float()
    close(finite(layer, x).double(), naive(layer.double(), x.double()), 1e-4, least=1.0)


def test_its_state_is_a_vector_as_wide_as_the_recurrence() -> None:
    assert make(dim=128).measure_state(40) == {"recurrent": 128, "conv": 0, "growing": 0, "total": 128}
    assert make(dim=128, expand=2, conv=4).measure_state(40)["total"] == 256 + 3 * 512
