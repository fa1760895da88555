"""RetNet and HGRN2 against their definitions, token by token; the contract tests cover the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.functional.delta import LOG_DECAY_MIN
from architectures.functional.value_residual import FIRST, mix_key
from architectures.primitive import Context
from architectures.registry import get
from tests.architectures.helpers import (
    agree,
    close,
    convolved,
    finite,
    in_pieces,
    moved,
    noise,
    parameters_in,
    rms,
    short_conv,
    silu,
)

DIM = 32


def make(name: str, dim: int = DIM, index: int = 0, depth: int = 1, **options: Any) -> Any:
    entry = get(name)
    torch.manual_seed(index)
    return entry.cls(entry.config(options), dim=dim, max_len=128, index=index, depth=depth).double()


def turned(z: Tensor, t: int) -> Tensor:
    """RoPE of z (B, H, K) at position t, as complex numbers."""
    half = z.shape[-1] // 2
    angle = t * 10_000.0 ** (-torch.arange(half, dtype=z.dtype) / half)
    w = torch.complex(z[..., :half], z[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([w.real, w.imag], dim=-1)


def naive_retnet(layer: Any, x: Tensor) -> Tensor:
    z = convolved(x @ layer.project.weight.T, layer.conv.weight)
    s = torch.zeros(x.shape[0], layer.heads, layer.key_dim, layer.value_dim, dtype=x.dtype)
    rows = []
    for t in range(x.shape[1]):
        q, k, v = (u.unflatten(-1, (layer.heads, -1)) for u in z[:, t].split(layer.widths, dim=-1))
        q, k = turned(q, t) / layer.key_dim**0.5, turned(k, t)
        rates = torch.tensor([1 - 2.0 ** (-5 - h) for h in range(layer.heads)], dtype=x.dtype)
        s = rates[:, None, None] * s + k[..., None] * v[..., None, :]
        o = rms((s * q[..., None]).sum(-2)) * layer.norm
        rows.append((o.flatten(1) * silu(x[:, t] @ layer.gate.weight.T)) @ layer.out.weight.T)
    return torch.stack(rows, dim=1)


def naive_hgrn2(layer: Any, x: Tensor) -> Tensor:
    z = short_conv(x @ layer.project.weight.T, layer.conv.weight)
    s = torch.zeros(x.shape[0], layer.heads, layer.key_dim, layer.value_dim, dtype=x.dtype)
    bound = torch.sigmoid(layer.bound) if layer.bound is not None else torch.zeros(layer.widths[0]).double()
    rows = []
    for t in range(x.shape[1]):
        q, f, v = z[:, t].split(layer.widths, dim=-1)
        f = (bound + (1 - bound) * torch.sigmoid(f)).clamp(min=torch.tensor(LOG_DECAY_MIN).double().exp())
        q, f, v = (u.unflatten(-1, (layer.heads, -1)) for u in (silu(q), f, v))
        s = f[..., None] * s + (1 - f)[..., None] * v[..., None, :]
        o = (s * q[..., None]).sum(-2).flatten(1)
        rows.append((rms(o) * layer.norm.weight) @ layer.out.weight.T)
    return torch.stack(rows, dim=1)


NAIVE = {"retnet": naive_retnet, "hgrn2": naive_hgrn2}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"conv": 4},
    {"heads": 1, "key_dim": 6, "value_dim": 5},
    {"heads": 3, "key_dim": 4, "value_dim": 8, "conv": 2},
]


@pytest.mark.parametrize("name", list(NAIVE))
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 37, 67])
def test_forward_and_its_gradient_are_those_of_the_recurrence(
    name: str, options: dict[str, Any], length: int
) -> None:
    agree(moved(make(name, index=2, depth=3, **options)), NAIVE[name], noise(2, length, DIM))


@pytest.mark.parametrize("name", list(NAIVE))
@pytest.mark.parametrize("conv", [0, 4])
def test_pieces_equal_the_whole(name: str, conv: int) -> None:
    layer = moved(make(name, index=1, depth=2, conv=conv))
    x = noise(2, 30, DIM)
    close(in_pieces(layer, x, 1, 20)[0], layer(x))


def test_the_first_layer_of_hgrn2_has_no_bound() -> None:
    layer = moved(make("hgrn2", depth=3))
    assert layer.bound is None and "bound" not in layer.hints()
    x = noise(2, 37, DIM)
    close(layer(x), naive_hgrn2(layer, x), 1e-10)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_bounds_start_where_a_softmax_over_depth_would(depth: int) -> None:
    shared = torch.zeros(depth, DIM).double().softmax(0).cumsum(0)
    for index in range(depth):
        bound = make("hgrn2", index=index, depth=depth).bound
        start = torch.zeros(DIM).double() if bound is None else torch.sigmoid(bound.detach())
        torch.testing.assert_close(start, shared[index] - shared[0], rtol=1e-6, atol=1e-7)
    hints = make("hgrn2", index=depth, depth=depth + 1, conv=2).hints()
    assert not hints["bound"].decay and not hints["conv.weight"].decay


@pytest.mark.parametrize("logit", [-1e4, -50.0, 50.0, 1e4])
@pytest.mark.parametrize("start", [-50.0, 0.0, 50.0])
def test_no_gate_of_hgrn2_breaks_the_values_or_the_gradient(logit: float, start: float) -> None:
    layer = make("hgrn2", index=1, depth=2).float()
    with torch.no_grad():
        layer.bound.fill_(start)
        layer.project.weight[DIM : 2 * DIM] = logit / DIM
    # Inputs of one sign, and of both: all gates at the extreme, or next to the other extreme.
    for x in (torch.ones(2, 67, DIM), noise(2, 67, 1).sign().float().expand(2, 67, DIM)):
        x = x + 0.01 * noise(2, 67, DIM).float()
        y = finite(layer, x)
        # The definition rounds keys below 1e-16 to zero.
        expected = naive_hgrn2(layer.double(), x.double())
        torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-4)
        layer.float()


def test_a_hgrn2_that_forgets_one_rate_a_head_has_the_decays_of_a_scalar() -> None:
    """With every f the same, the state is the one of a scalar decay with keys 1 - f."""
    layer = make("hgrn2", heads=1)
    with torch.no_grad():
        layer.project.weight[DIM : 2 * DIM] = 0
    x = noise(1, 9, DIM)
    v = (x @ layer.project.weight.T)[0, :, 2 * DIM :]
    s = layer.prefill(x, layer.init_state(1))[1][0][0, 0]
    expected = sum(0.5 ** (9 - t) * v[t] for t in range(9))
    torch.testing.assert_close(s, expected.expand(DIM, DIM), rtol=0, atol=1e-12)


def test_retention_decays_by_the_published_rates_at_any_number_of_heads() -> None:
    layer = make("retnet", dim=1024)
    x = noise(1, 1, 1024)
    tokens, _ = layer.write(x, layer.init_state(1)[1:], None)
    rates = tokens.log_a[0, 0].exp()
    assert rates[0] == 1 - 2**-5 and rates[7] == 1 - 2**-12 and bool((tokens.log_a < 0).all())


def test_retention_knows_the_distance_and_not_the_position() -> None:
    layer = make("retnet")
    x = noise(1, 20, DIM)
    state = layer.init_state(1)
    late = (*state[:2], torch.tensor(50))
    torch.testing.assert_close(layer.prefill(x, late)[0], layer(x), rtol=0, atol=1e-11)
    assert layer.prefill(x, state)[1][2] == 20
    swapped = x[:, [1, 0, *range(2, 20)]]
    assert (layer(swapped)[:, -1] - layer(x)[:, -1]).abs().max() > 1e-6


def test_values_of_the_first_layer_are_mixed_in() -> None:
    layer, x = make("hgrn2", index=1, depth=2), noise(1, 5, DIM)
    first = noise(1, 5, 2, 16, seed=3)
    ctx = Context(shared={mix_key(1): torch.tensor([0.0, 1.0]).double(), FIRST: first})
    s = layer.prefill(x[:, :1], layer.init_state(1), Context(shared=ctx.shared | {FIRST: first[:, :1]}))[1][0]
    k = layer.write(x[:, :1], layer.init_state(1)[1:], None)[0].k[:, 0]
    torch.testing.assert_close(s, k[..., None] * first[:, 0, :, None], rtol=0, atol=1e-12)
    assert layer(x, ctx).shape == x.shape


def test_parameters_and_states_at_width_128() -> None:
    d, taps = 128, 4
    for conv in (0, taps):
        count = parameters_in(make("retnet", dim=d, conv=conv))
        assert count == (2 * d + 2 * d + 2 * d + 2 * d) * d + 2 * 16 + 4 * d * conv
        count = parameters_in(make("hgrn2", dim=d, index=1, depth=2, conv=conv))
        assert count == 4 * d * d + 2 * d + 3 * d * conv
    assert make("retnet", dim=d).measure_state(40)["total"] == 2 * 2048
    assert make("retnet", dim=d, value_dim=16).measure_state(40)["total"] == 2048
    assert make("hgrn2", dim=d).measure_state(40)["total"] == 2048
    assert make("retnet", dim=d, conv=4).measure_state(40)["conv"] == 3 * 512
