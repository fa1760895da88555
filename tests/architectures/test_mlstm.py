"""The mLSTM against its definition, token by token in float64; the contract tests cover the rest."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.functional.delta import delta_rule
from architectures.functional.scan import decaying_max, decaying_max_flops
from architectures.functional.value_residual import FIRST, mix_key
from architectures.primitive import Context
from architectures.registry import get
from tests.architectures.helpers import (
    agree,
    close,
    convolved,
    finite,
    moved,
    noise,
    parameters_in,
    rms,
    silu,
    unroll,
)

DIM = 32


def make(dim: int = DIM, depth: int = 1, **options: Any) -> Any:
    entry = get("mlstm")
    torch.manual_seed(0)
    return entry.cls(entry.config(options), dim=dim, max_len=128, depth=depth).double()


def wide(**options: Any) -> Any:
    """Away from the start, with gates and reads large enough for the divisor to be on both sides of 1."""
    return moved(make(**options), 0.3)


def projections(layer: Any, x: Tensor) -> tuple[Tensor, ...]:
    """z, c (B, T, R), q, k, v (B, T, H, K) with k scaled, i, f (B, T, H); the blocks as full matrices."""
    u, z = (x @ layer.project.weight.T).split(layer.inner, dim=-1)
    c = convolved(u, layer.conv.weight, layer.conv.bias)
    full = [torch.block_diag(*layer.blocks[j]) for j in range(3)]
    q, k, v = c @ full[0], c @ full[1], u @ full[2]
    gates = torch.cat([q, k, v], dim=-1) @ layer.select.weight.T + layer.select.bias
    q, k, v = (w.unflatten(-1, (layer.heads, -1)) for w in (q, k, v))
    return z, c, q, k / math.sqrt(k.shape[-1]), v, *gates.split(layer.heads, dim=-1)


def finish(layer: Any, h: Tensor, c: Tensor, z: Tensor) -> Tensor:
    """h (B, T, H, V) -> (B, T, D)."""
    h = rms(h - h.mean(-1, keepdim=True), 1e-5)
    return ((h.flatten(-2) * layer.norm + layer.skip * c) * silu(z)) @ layer.out.weight.T


def naive(layer: Any, x: Tensor) -> Tensor:
    """The stabilised recurrence of the paper, with S and n apart."""
    z, c, q, k, v, i, f = projections(layer, x)
    batch, length, heads, width = q.shape
    s, n = x.new_zeros(batch, heads, width, width), x.new_zeros(batch, heads, width)
    m, rows = x.new_zeros(batch, heads), []
    for t in range(length):
        log_f = torch.log(torch.sigmoid(f[:, t]))
        after = torch.maximum(log_f + m, i[:, t])
        forget, write = torch.exp(log_f + m - after)[..., None], torch.exp(i[:, t] - after)[..., None]
        s = forget[..., None] * s + (write * k[:, t])[..., None] * v[:, t, :, None]
        n, m = forget * n + write * k[:, t], after
        found = torch.einsum("bhkv,bhk->bhv", s, q[:, t])
        divisor = torch.maximum((n * q[:, t]).sum(-1).abs(), torch.exp(-m)) + 1e-6
        rows.append(found / divisor[..., None])
    return finish(layer, torch.stack(rows, dim=1), c, z)


OPTIONS: list[dict[str, Any]] = [{}, {"conv": 0}, {"heads": 1, "expand": 1}, {"heads": None, "conv": 2}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 37, 67])
def test_forward_and_its_gradient_are_those_of_the_recurrence(options: dict[str, Any], length: int) -> None:
    agree(wide(**options), naive, noise(2, length, DIM))


@pytest.mark.parametrize("options", [{"conv": 0}, {"heads": 2}])
def test_steps_equal_forward_with_other_options(options: dict[str, Any]) -> None:
    layer = wide(**options)
    x = noise(2, 21, DIM)
    close(unroll(layer, x)[0], layer(x), 1e-12)


def test_moderate_gates_need_no_stabilisation() -> None:
    layer = wide()
    x = noise(2, 67, DIM)
    z, c, q, k, v, i, f = projections(layer, x)
    ones = torch.ones_like(v[..., :1])
    o, _ = delta_rule(q, i.exp()[..., None] * k, torch.cat([v, ones], dim=-1), torch.log(torch.sigmoid(f)))
    divisor = o[..., -1:].abs()
    assert bool((divisor > 1).any()) and bool((divisor < 1).any())
    plain = finish(layer, o[..., :-1] / divisor.clamp(min=1), c, z)
    # They differ by what is added to the divisor, a millionth in the scale of the state.
    close(layer(x), plain, 1e-4)


def test_the_paper_s_parallel_form_is_the_same() -> None:
    layer = wide()
    x = noise(2, 67, DIM)
    z, c, q, k, v, i, f = projections(layer, x)
    total = torch.log(torch.sigmoid(f)).cumsum(1)
    gap = total[:, :, None] - total[:, None] + i[:, None]  # (B, T, S, H)
    future = torch.ones(67, 67, dtype=torch.bool).triu(1)[:, :, None]
    gap = gap.masked_fill(future, -math.inf)
    # The recurrence starts from m = 0, which decays like the state.
    m = torch.maximum(gap.amax(2), total)
    seen = torch.einsum("bthk,bshk->btsh", q, k) * (gap - m[:, :, None]).exp()
    divisor = torch.maximum(seen.sum(2).abs(), torch.exp(-m)) + 1e-6
    h = torch.einsum("btsh,bshv->bthv", seen, v) / divisor[..., None]
    close(layer(x), finish(layer, h, c, z), 1e-10)


@pytest.mark.parametrize("length", [1, 2, 3, 16, 37])
def test_the_decaying_maximum_is_its_recurrence(length: int) -> None:
    fall, x, m = -noise(2, length, 3).square(), noise(2, length, 3, seed=2), noise(2, 3, seed=3)
    result = decaying_max(fall, x, m)
    for t in range(length):
        m = torch.maximum(m + fall[:, t], x[:, t])
        close(result[:, t], m, 1e-14)
    assert decaying_max_flops(length) >= 2 * length


def test_the_decaying_maximum_stays_exact_over_a_long_sequence() -> None:
    fall, x = torch.full((1, 8192, 1), -3.0), noise(1, 8192, 1).float()
    expected = torch.empty(8192)
    m = torch.zeros(())
    for t in range(8192):
        m = torch.maximum(m - 3, x[0, t, 0])
        expected[t] = m
    torch.testing.assert_close(decaying_max(fall, x, torch.zeros(1, 1))[0, :, 0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("forget", [-50.0, 0.0, 50.0])
@pytest.mark.parametrize("write", [-100.0, -50.0, 50.0, 100.0, 0.0])
def test_no_gate_breaks_the_values_or_the_gradient(write: float, forget: float) -> None:
    layer = wide().float()
    with torch.no_grad():
        layer.select.weight.mul_(5)
        layer.select.bias.copy_(torch.tensor([write] * 4 + [forget] * 4))
    x = noise(2, 67, DIM).float()
    y = finite(layer, x)
    close(y, naive(layer.double(), x.double()), 1e-3)


def test_input_gates_that_jump_by_a_hundred_stay_exact() -> None:
    layer = wide().float()
    with torch.no_grad():
        # The gate is +-50 by the sign of the first value, which is that of a channel of u.
        layer.select.weight.zero_()
        layer.select.weight[:4, 2 * layer.inner] = 1e4
    x = noise(2, 67, DIM)
    _, _, _, _, v, i, _ = projections(layer.double(), x)
    with torch.no_grad():
        layer.select.weight.mul_(50 / i.abs().max())
    _, _, _, _, _, i, _ = projections(layer, x)
    assert i.max() > 25 and i.min() < -25
    expected = naive(layer, x)
    close(layer(x), expected, 1e-10)
    close(finite(layer.float(), x.float()), expected, 1e-3)


def test_the_start_is_that_of_the_public_code() -> None:
    layer = make(dim=256, depth=3)
    std = math.sqrt(2 / (5 * 256))
    assert abs(float(layer.project.weight.detach().std()) / std - 1) < 0.02
    assert abs(float(layer.blocks.detach().std()) / std - 1) < 0.05
    assert abs(float(layer.out.weight.detach().std()) * 3 * 256**0.5 / 2 - 1) < 0.02
    i, f = layer.select.bias.detach().chunk(2)
    assert f.tolist() == [3, 4, 5, 6] and 0 < float(i.abs().max()) < 0.5 and not layer.select.weight.any()
    assert bool((layer.skip == 1).all()) and bool((layer.norm == 1).all())
    hints = layer.hints()
    assert all(not hints[n].decay for n in ("skip", "norm", "select.bias", "conv.weight"))
    assert "blocks" not in hints


def test_values_of_the_first_layer_are_mixed_in_and_their_sum_of_keys_is_not() -> None:
    layer = wide()
    layer.index = 1
    x, first = noise(1, 1, DIM), noise(1, 1, 4, 16, seed=3)
    ctx = Context(shared={mix_key(1): torch.tensor([0.0, 1.0]).double(), FIRST: first})
    mixed, plain = (layer.prefill(x, layer.init_state(1), c)[1][0] for c in (ctx, None))
    close(mixed[..., -1], plain[..., -1], 1e-12)
    close(mixed[..., :-1], plain[..., -1:] * first[:, 0, :, None], 1e-12)


def test_parameters_and_state_at_width_128() -> None:
    layer, d, inner, heads = make(dim=128), 128, 256, 4
    count = 2 * d * inner + 5 * inner + 3 * inner * 4 + (3 * inner + 1) * 2 * heads + 2 * inner + inner * d
    assert parameters_in(layer) == count
    sizes = layer.measure_state(40)
    assert sizes == {"recurrent": 4 * (4096 + 64 + 1), "conv": 768, "growing": 0, "total": 17_412}
