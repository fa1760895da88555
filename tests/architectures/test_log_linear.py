"""Log-linear attention against buckets that are merged one by one; the contract tests cover the rest."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus
from torch.utils.flop_counter import FlopCounterMode

from architectures.functional.delta import delta_rule
from architectures.functional.fenwick import buckets, fenwick_flops, fenwick_rule, fenwick_step, levels_for
from tests.architectures.helpers import (
    agree,
    close,
    convolved,
    finite,
    layer_of,
    noise,
    parameters_in,
    rms,
    silu,
    unit,
)

NAMES = ["log-linear-mamba2", "log-linear-gated-delta-net"]
DIM = 32
B, H, K, V, L = 2, 3, 4, 5, 8


def tree(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, w: Tensor, ask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Tensors (B, H, T, .): before token t, levels 0..z merge into z + 1, where t has z trailing zeros."""
    zero = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    held, rows = [zero] * w.shape[-1], []
    for t in range(q.shape[2]):
        z = 0
        while t and t % 2 ** (z + 1) == 0:
            z += 1
        if t:
            held[z + 1] = sum(held[: z + 2], start=zero)
            held[: z + 1] = [zero] * (z + 1)
        held = [log_a[:, :, t, None, None].exp() * s for s in held]
        key = k[:, :, t, :, None]
        if ask is not None:
            held = [s - key @ (ask[:, :, t, None] @ s) for s in held]
        assert t == 0 or not held[0].any()
        held[0] = held[0] + key @ v[:, :, t, None]
        read = [(q[:, :, t, None] @ s)[..., 0, :] for s in held]
        rows.append(torch.stack([w[:, :, t, i, None] * r for i, r in enumerate(read)]).sum(0))
    return torch.stack(rows, dim=2), torch.stack(held, dim=2)


def vectors(length: int, corrects: bool) -> dict[str, Any]:
    """What `fenwick_rule` is fed, (B, T, H, .)."""
    k = noise(B, length, H, K, seed=2)
    k = k / k.norm(dim=-1, keepdim=True)
    strength = 2 * noise(B, length, H, 1, seed=5).sigmoid() if corrects else 1.0
    values = {
        "q": noise(B, length, H, K),
        "k": strength * k,
        "v": noise(B, length, H, V, seed=3),
        "log_a": -0.3 * noise(B, length, H, seed=4).square(),
        "weights": noise(B, length, H, L, seed=6),
    }
    return values | ({"ask": k} if corrects else {})


def naive_rule(values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    q, k, v, log_a, w = (values[n].movedim(2, 1) for n in ("q", "k", "v", "log_a", "weights"))
    ask = values["ask"].movedim(2, 1) if "ask" in values else None
    o, s = tree(q, k, v, log_a, w, ask)
    return o.movedim(1, 2), s


FRESH = (torch.zeros(B, H, L, K, V).double(), torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize("corrects", [False, True])
@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 64, 100, 128])
def test_the_chunks_are_the_tree(length: int, corrects: bool) -> None:
    values = vectors(length, corrects)
    o, s = fenwick_rule(**values, state=FRESH[0], seen=FRESH[1])
    expected, last = naive_rule(values)
    close(o, expected)
    close(s, last)


@pytest.mark.parametrize("corrects", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 8, 200])
def test_the_size_of_a_chunk_is_no_part_of_the_function(chunk: int, corrects: bool) -> None:
    values = vectors(45, corrects)
    o, s = fenwick_rule(**values, state=FRESH[0], seen=FRESH[1], chunk=chunk)
    expected, last = naive_rule(values)
    close(o, expected)
    close(s, last)


@pytest.mark.parametrize("corrects", [False, True])
@pytest.mark.parametrize("cuts", [(1, 2, 3), (5, 40, 41), (31, 32, 64), (33, 70, 99), (64, 96, 98)])
def test_it_continues_from_anywhere_in_the_tree(cuts: tuple[int, ...], corrects: bool) -> None:
    values = vectors(100, corrects)
    expected, last = naive_rule(values)
    s, seen, outputs = *FRESH, []
    for start, end in zip((0, *cuts), (*cuts, 100), strict=True):
        part = {n: z[:, start:end] for n, z in values.items()}
        o, s = fenwick_rule(**part, state=s, seen=seen)
        seen = seen + end - start
        outputs.append(o)
    close(torch.cat(outputs, dim=1), expected)
    close(s, last)


@pytest.mark.parametrize("corrects", [False, True])
def test_rows_may_be_at_different_positions(corrects: bool) -> None:
    values = vectors(60, corrects)
    expected, _ = naive_rule(values)
    starts, states = (7, 20), []
    for row, start in enumerate(starts):
        head = {n: z[row : row + 1, :start] for n, z in values.items()}
        states.append(fenwick_rule(**head, state=FRESH[0][:1], seen=FRESH[1])[1])
    rest: dict[str, Any] = {
        n: torch.stack([z[r, a : a + 40] for r, a in enumerate(starts)]) for n, z in values.items()
    }
    seen = torch.tensor(starts)
    o, s = fenwick_rule(**rest, state=torch.cat(states), seen=seen)
    close(o, torch.stack([expected[r, a : a + 40] for r, a in enumerate(starts)]))
    token = {n: z[:, 0] for n, z in rest.items()}
    close(fenwick_step(**token, state=torch.cat(states), seen=seen)[0], o[:, 0])


@pytest.mark.parametrize("corrects", [False, True])
def test_one_token_at_a_time(corrects: bool) -> None:
    values = vectors(70, corrects)
    expected, last = naive_rule(values)
    s = FRESH[0]
    for t in range(70):
        token = {n: z[:, t] for n, z in values.items()}
        o, s = fenwick_step(**token, state=s, seen=torch.tensor([t, t]))
        close(o, expected[:, t])
    close(s, last)


@pytest.mark.parametrize("corrects", [False, True])
def test_equal_weights_give_the_base(corrects: bool) -> None:
    values = vectors(67, corrects)
    weights = torch.ones_like(values.pop("weights"))
    o, s = fenwick_rule(**values, weights=weights, state=FRESH[0], seen=FRESH[1])
    ask = values.pop("ask", None)
    y = None if ask is None else values["log_a"].exp()[..., None] * ask
    base, last = delta_rule(**values, y=y)
    close(o, base)
    close(s.sum(2), last)


def test_the_level_weights_multiply_the_matrix_of_the_corrected_values() -> None:
    # o_t = sum_j w_t[level(t, j)] A_tj v_j, with the A for which the weights 1 give the delta rule.
    values = vectors(37, True)
    q, k, ask, w = (values[n].movedim(2, 1) for n in ("q", "k", "ask", "weights"))
    total = values["log_a"].movedim(2, 1).cumsum(-1)
    between = (total[..., None] - total[..., None, :]).tril().exp().tril()
    below = ((ask @ k.mT) * between).tril(-1)
    attention = ((q @ k.mT) * between) @ torch.linalg.inv(below + torch.eye(37).double())
    level = torch.tensor([[(t ^ j).bit_length() for j in range(37)] for t in range(37)])
    masked = attention * w.gather(-1, level.expand(B, H, 37, 37))
    close((masked @ values["v"].movedim(2, 1)).movedim(1, 2), naive_rule(values)[0])


@pytest.mark.parametrize("corrects", [False, True])
def test_past_the_last_level_everything_stays_on_it(corrects: bool) -> None:
    values = vectors(70, corrects)
    values["weights"] = values["weights"][..., :4]
    capped = {
        **values,
        "weights": torch.cat([values["weights"], values["weights"][..., 3:].expand(B, 70, H, 4)], -1),
    }
    o, s = fenwick_rule(**values, state=FRESH[0][:, :, :4], seen=FRESH[1])
    expected, last = naive_rule(capped)
    close(o, expected)
    close(s[:, :, 3], last[:, :, 3:].sum(2))


def test_levels_and_buckets() -> None:
    assert [levels_for(n) for n in (1, 2, 3, 4, 5, 64, 65, 128)] == [1, 2, 3, 3, 4, 7, 8, 8]
    used, merged = buckets(8)
    assert used == sum(bin(t).count("1") + 1 for t in range(8)) and merged == 0 + 1 + 0 + 2 + 0 + 1 + 0


@pytest.mark.parametrize("corrects", [False, True])
@pytest.mark.parametrize("length", [2, 37, 100])
def test_the_products_are_counted(corrects: bool, length: int) -> None:
    with FlopCounterMode(display=False) as counter:
        fenwick_rule(**vectors(length, corrects), state=FRESH[0], seen=FRESH[1])
    products, rest = fenwick_flops(length, K, V, L, corrects=corrects)
    assert counter.get_total_flops() == B * H * products and rest > 0


def naive_delta(layer: Any, x: Tensor) -> Tensor:
    heads, key, value = layer.heads, layer.key_dim, layer.value_dim
    z = convolved(x @ layer.project.weight.T, layer.conv.weight)
    q, k, v = z.split([heads * key, heads * key, heads * value], dim=-1)
    q, k = (u.reshape(*x.shape[:2], heads, key).movedim(2, 1) for u in (q, k))
    q, k = unit(q), unit(k)
    v = v.reshape(*x.shape[:2], heads, value).movedim(2, 1)
    strength = torch.sigmoid(x @ layer.strength.weight.T).movedim(2, 1)[..., None]
    strength = strength * (2 if layer.config.negative_eigenvalues else 1)
    log_a = (-layer.log_rate.exp() * softplus(x @ layer.dt.weight.T + layer.dt_bias)).movedim(2, 1)
    w = (x @ layer.weigh.weight.T).reshape(*x.shape[:2], heads, -1) * layer.level_scale
    o, _ = tree(q / math.sqrt(key), strength * k, v, log_a, softplus(w).movedim(2, 1), k)
    o = (rms(o) * layer.norm).movedim(1, 2).flatten(2)
    return (o * silu(x @ layer.gate.weight.T)) @ layer.out.weight.T


def naive_mamba(layer: Any, x: Tensor) -> Tensor:
    heads, n, p = layer.heads, layer.key_dim, layer.value_dim
    inner = heads * p
    z = x @ layer.project.weight.T + layer.project.bias
    gate, z, dt, w = z.split([inner, inner + 2 * n, heads, heads * layer.level_scale.shape[1]], dim=-1)
    u, b, c = convolved(z, layer.conv.weight).split([inner, n, n], dim=-1)
    u = u.reshape(*x.shape[:2], heads, p).movedim(2, 1)
    b, c = (m[:, None].expand(-1, heads, -1, -1) for m in (b, c))
    dt = softplus(dt + layer.dt_bias).movedim(2, 1)
    w = softplus(w.reshape(*x.shape[:2], heads, -1) * layer.level_scale).movedim(2, 1)
    y, _ = tree(c, b, dt[..., None] * u, -layer.log_rate.exp()[:, None] * dt, w, None)
    y = (y + layer.skip[:, None, None] * u).movedim(1, 2).flatten(2) * silu(gate)
    return (rms(y) * layer.norm) @ layer.out.weight.T + layer.out.bias


def naive(layer: Any, x: Tensor) -> Tensor:
    return (naive_delta if "delta" in layer.name else naive_mamba)(layer, x)


LAYERS = [
    ("log-linear-mamba2", ""),
    ("log-linear-mamba2", "expand=1, head_dim=8, d_state=5, conv=0"),
    ("log-linear-gated-delta-net", ""),
    ("log-linear-gated-delta-net", "negative_eigenvalues=true, key_dim=8, value_dim=24, conv=2"),
]


@pytest.mark.parametrize(("name", "options"), LAYERS)
@pytest.mark.parametrize("length", [1, 5, 37, 41, 67])
def test_forward_and_its_gradient_are_those_of_the_recurrence(name: str, options: str, length: int) -> None:
    layer = layer_of(name, options, max_len=80, away=0.3)
    agree(layer, naive, noise(2, length, DIM), slope=1e-9 if length == 41 else None)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bias, rate", [(-80.0, 0.0), (80.0, 3.0), (0.0, 10.0), (0.0, -20.0)])
@pytest.mark.parametrize("scale", [-1e3, 1e3])
def test_no_decay_and_no_weight_breaks_values_or_gradients(
    name: str, bias: float, rate: float, scale: float
) -> None:
    layer = layer_of(name)
    with torch.no_grad():
        layer.dt_bias.fill_(bias)
        layer.log_rate.fill_(rate)
        layer.level_scale.fill_(scale)
    x = noise(2, 70, DIM)
    expected, y = naive(layer, x).detach(), finite(layer.float(), x.float())
    close(y, expected, 5e-4)


def test_sizes() -> None:
    delta = layer_of("log-linear-gated-delta-net", dim=128, max_len=128)
    for length in (1, 40, 128):
        sizes = delta.measure_state(length)
        assert (sizes["recurrent"], sizes["conv"], sizes["growing"]) == (2048 * 8, 1152, 0)
    d, heads, levels = 128, 8, 8
    gated = 5 * d * d + 4 * 3 * d + 2 * d * heads + 2 * heads + 16
    assert parameters_in(delta) == gated + heads * levels * (d + 1)
    mamba = layer_of("log-linear-mamba2", dim=128, max_len=128)
    sizes = mamba.measure_state(40)
    assert (sizes["recurrent"], sizes["conv"]) == (256 * 16 * 8, 3 * (256 + 32))
    wide = 2 * 256 + 32 + 16 + 16 * 8
    expected = (d + 1) * wide + 4 * (256 + 32) + 16 * 3 + 16 * 8 + 256 + 256 * d + d
    assert parameters_in(mamba) == expected


def test_it_starts_as_in_the_recipe() -> None:
    mamba, delta = (layer_of(name, dim=512, max_len=80) for name in NAMES)
    close(mamba.log_rate.exp(), torch.arange(1, 65).double(), 1e-6)
    assert bool((mamba.skip == 1).all()) and mamba.conv.bias is None and mamba.project.bias is not None
    assert delta.log_rate.exp().max() <= 16 and delta.log_rate.exp().min() < 3
    for layer in (mamba, delta):
        step = softplus(layer.dt_bias)
        assert bool((layer.level_scale == 1).all()) and layer.level_scale.shape == (layer.heads, 8)
        assert step.min() >= 1e-3 - 1e-9 and step.max() <= 0.1 + 1e-9
    fixed = {"log_rate", "dt_bias", "level_scale", "conv.weight"}
    assert {n for n, h in delta.hints().items() if not h.decay} == fixed
    assert {n for n, h in mamba.hints().items() if not h.decay} == fixed | {"skip"}
