"""The shared maths against its definition, written as loops and sums, in float64 and with gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from architectures.functional import attention
from architectures.functional.attention import attend, attend_past, visible_pairs
from architectures.functional.fold import fold, unfold
from architectures.functional.long_conv import long_conv, long_conv_flops
from architectures.functional.rotary import rotate
from architectures.functional.scan import linear_scan
from architectures.parts.norms import RMSNorm, rms_norm
from architectures.parts.short_conv import next_tail, short_conv
from tests.architectures.helpers import noise

WINDOWS = [None, 1, 2, 5, 100]


def close(actual: Tensor, expected: Tensor, name: str = "", *, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol, msg=lambda m: f"{name}: {m}")


def gradients(f: Callable[..., Tensor], inputs: list[Tensor], weight: Tensor) -> list[Tensor]:
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    return list(torch.autograd.grad((f(*inputs) * weight).sum(), inputs))


def agree(
    f: Callable[..., Tensor], g: Callable[..., Tensor], inputs: list[Tensor], *, atol: float = 1e-12
) -> None:
    """f and g have the same values and the same gradients."""
    y = g(*inputs)
    close(f(*inputs), y, "value", atol=atol)
    weight = noise(*y.shape, seed=9)
    pairs = zip(gradients(f, inputs, weight), gradients(g, inputs, weight), strict=True)
    for i, (a, b) in enumerate(pairs):
        close(a, b, f"gradient of input {i}", atol=atol)


def vmap_agrees(f: Callable[..., Tensor], shapes: list[tuple[int, ...]], *, atol: float = 1e-12) -> None:
    """vmap equals the loop, values and gradients, with every input shared or stacked along axis 0 or 1."""
    replicas = 3
    for dims in itertools.product((None, 0, 1), repeat=len(shapes)):
        if all(d is None for d in dims):
            continue
        inputs = []
        for i, (shape, dim) in enumerate(zip(shapes, dims, strict=True)):
            stacked = shape if dim is None else (*shape[:dim], replicas, *shape[dim:])
            inputs.append(noise(*stacked, seed=i))

        def loop(*xs: Tensor, dims: tuple[int | None, ...] = dims) -> Tensor:
            rows = [
                f(*(x if d is None else x.select(d, r) for x, d in zip(xs, dims, strict=True)))
                for r in range(replicas)
            ]
            return torch.stack(rows)

        agree(torch.vmap(f, in_dims=dims), loop, inputs, atol=atol)


def naive_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None = None) -> Tensor:
    rows = []
    for t in range(q.shape[1]):
        start = 0 if window is None else max(0, t + 1 - window)
        scores = torch.einsum("bhk,bshk->bsh", q[:, t], k[:, start : t + 1]) * scale
        rows.append(torch.einsum("bsh,bshv->bhv", scores.softmax(1), v[:, start : t + 1]))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("widths", [(4, 4), (3, 7), (6, 1)], ids=str)
@pytest.mark.parametrize("length", [1, 2, 12, 13])
def test_attention_is_a_softmax_over_the_visible_past(
    length: int, widths: tuple[int, int], window: int | None
) -> None:
    key, value = widths
    inputs = [noise(2, length, 3, key), noise(2, length, 3, key, seed=2), noise(2, length, 3, value, seed=3)]
    agree(
        lambda q, k, v: attend(q, k, v, scale=0.7, window=window),
        lambda q, k, v: naive_attention(q, k, v, scale=0.7, window=window),
        inputs,
    )


def test_attention_scales_its_scores_and_nothing_else() -> None:
    q, k, v = (noise(2, 9, 2, 4, seed=s) for s in range(3))
    close(attend(q, k, v, scale=0.3), attend(q * 0.3, k, v, scale=1.0))
    mean = v.cumsum(1) / torch.arange(1, 10)[:, None, None]
    close(attend(q, 0 * k, v, scale=0.3), mean)
    for scale in (0.0, -1.0):
        with pytest.raises(ValueError, match="must be positive"):
            attend(q, k, v, scale=scale)
    close(attend(q, k, v, scale=0.3, window=1), v)


def test_attention_promotes_to_the_widest_of_its_inputs() -> None:
    q, k, v = (noise(2, 9, 2, 4, seed=s, dtype=torch.float32) for s in range(3))
    mixed = attend(q.bfloat16(), k.bfloat16(), v, scale=0.5)
    assert mixed.dtype == torch.float32
    close(mixed, attend(q.bfloat16().float(), k.bfloat16().float(), v, scale=0.5), atol=1e-6)


@pytest.mark.parametrize("window", [None, 3])
def test_attention_under_vmap_equals_the_loop(window: int | None) -> None:
    shapes: list[tuple[int, ...]] = [(2, 7, 2, 4), (2, 7, 2, 4), (2, 7, 2, 3)]
    vmap_agrees(lambda q, k, v: attend(q, k, v, scale=0.5, window=window), shapes)


def test_attention_under_two_vmaps_equals_two_loops() -> None:
    q, k, v = (noise(2, 3, 2, 5, 2, 4, seed=s) for s in range(3))
    both = torch.vmap(torch.vmap(lambda q, k, v: attend(q, k, v, scale=0.5)))(q, k, v)
    for i, j in itertools.product(range(2), range(3)):
        close(both[i, j], attend(q[i, j], k[i, j], v[i, j], scale=0.5))


def written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the path of an accelerator on a CPU."""
    monkeypatch.setattr(attention, "fused", lambda x: False)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("length", [1, 2, 12, 13])
def test_written_out_attention_is_the_same_function(
    length: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_out(monkeypatch)
    inputs = [noise(2, length, 3, 3, seed=1), noise(2, length, 3, 3, seed=2), noise(2, length, 3, 5, seed=3)]
    agree(
        lambda q, k, v: attend(q, k, v, scale=0.7, window=window),
        lambda q, k, v: naive_attention(q, k, v, scale=0.7, window=window),
        inputs,
    )


def test_written_out_attention_under_vmap_equals_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    written_out(monkeypatch)
    vmap_agrees(lambda q, k, v: attend(q, k, v, scale=0.5, window=3), [(1, 8, 2, 4)] * 3)


def masked(*shape: int, seed: int = 5) -> Tensor:
    """Additive, with about a third of the keys hidden, but the first."""
    bias = noise(*shape, seed=seed)
    hide = noise(*shape, seed=seed + 1) > 0.4
    hide[..., 0] = False
    return bias.masked_fill(hide, float("-inf"))


@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize("rows, heads", [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_a_mask_is_added_to_the_scores_and_says_alone_who_sees_whom(
    rows: int, heads: int, written_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if written_out:
        monkeypatch.setattr(attention, "fused", lambda x: False)
    mask = masked(rows, heads, 5, 7)
    shapes: list[tuple[int, ...]] = [(3, 5, 2, 4), (3, 7, 2, 4), (3, 7, 2, 6)]

    def definition(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = 0.3 * torch.einsum("bthk,bshk->bhts", q, k) + mask
        return torch.einsum("bhts,bshv->bthv", scores.softmax(-1), v)

    inputs = [noise(*shape, seed=i) for i, shape in enumerate(shapes)]
    agree(lambda q, k, v: attend(q, k, v, scale=0.3, mask=mask), definition, inputs)
    agree(lambda q, k, v: attend_past(q, k, v, scale=0.3, mask=mask), definition, inputs)
    vmap_agrees(lambda q, k, v: attend(q, k, v, scale=0.3, mask=mask), shapes)


@pytest.mark.parametrize("rows", [1, 3])
def test_each_replica_may_have_a_mask_of_its_own(rows: int) -> None:
    q, k, v = (noise(2, 3, 5, 2, 4, seed=i) for i in range(3))
    masks = torch.stack([masked(rows, 2, 5, 5, seed=r) for r in range(2)])

    def run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return attend(q, k, v, scale=0.3, mask=mask)

    loop = torch.stack([run(*each) for each in zip(q, k, v, masks, strict=True)])
    close(torch.vmap(run)(q, k, v, masks), loop)
    loop = torch.stack([run(q[0], k[0], v[0], mask) for mask in masks])
    close(torch.vmap(run, in_dims=(None, None, None, 0))(q[0], k[0], v[0], masks), loop)


def test_the_slope_of_a_mask_is_that_of_the_written_out_form_only() -> None:
    q, k, v = (noise(3, 5, 2, 4, seed=i) for i in range(3))
    mask = masked(1, 2, 5, 5).requires_grad_()
    weight = noise(3, 5, 2, 4, seed=4)
    (attend_past(q, k, v, scale=0.3, mask=mask) * weight).sum().backward()
    assert mask.grad is not None and mask.grad.isfinite().all() and mask.grad.any()
    assert not attend(q, k, v, scale=0.3, mask=mask).requires_grad
    with pytest.raises(ValueError, match="window=2 beside a mask, which says alone who sees whom"):
        attend(q, k, v, scale=0.3, mask=mask, window=2)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("path", ["fused", "written out"])
def test_attention_in_bfloat16_rounds_only_at_its_ends(
    path: str, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path == "written out":
        written_out(monkeypatch)
    inputs = [noise(2, 33, 3, 8, seed=s, dtype=torch.bfloat16) for s in range(3)]
    weight = noise(2, 33, 3, 8, seed=9, dtype=torch.bfloat16)
    low = gradients(lambda *x: attend(*x, scale=0.5, window=window), inputs, weight)
    wide = [x.double() for x in inputs]
    high = gradients(lambda *x: naive_attention(*x, scale=0.5, window=window), wide, weight.double())
    y = naive_attention(*wide, scale=0.5, window=window)
    # Eight bits of mantissa, a few roundings: two decimal digits of the largest value.
    found = attend(*inputs, scale=0.5, window=window)
    assert found.dtype == torch.bfloat16
    close(found.double(), y, "value", atol=0.02 * float(y.abs().max()))
    for a, b in zip(low, high, strict=True):
        assert a.dtype == torch.bfloat16
        close(a.double(), b, "gradient", atol=0.03 * float(b.abs().max()))


def test_autocast_does_not_round_the_scores_of_written_out_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    written_out(monkeypatch)
    inputs = [8 * noise(1, 17, 1, 8, seed=s, dtype=torch.float32) for s in range(3)]
    weight = noise(1, 17, 1, 8, seed=9, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = attend(*inputs, scale=0.5)
        low = gradients(lambda *x: attend(*x, scale=0.5), inputs, weight)
    assert y.dtype == torch.float32
    close(y, naive_attention(*inputs, scale=0.5), atol=1e-4)
    for a, b in zip(low, gradients(lambda *x: naive_attention(*x, scale=0.5), inputs, weight), strict=True):
        close(a, b, atol=1e-3)


def test_attention_has_a_shape_on_meta() -> None:
    q = torch.empty(2, 9, 3, 4, device="meta")
    assert attend(q, q, torch.empty(2, 9, 3, 7, device="meta"), scale=1.0, window=4).shape == (2, 9, 3, 7)


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("window", WINDOWS)
def test_visible_pairs_are_counted_one_by_one(length: int, window: int | None) -> None:
    pairs = sum(0 <= i - j < (window or length) for i in range(length) for j in range(length))
    assert visible_pairs(length, window) == pairs


def naive_scan(a: Tensor, b: Tensor) -> Tensor:
    h, states = torch.zeros_like(b[:, 0]), []
    for t in range(b.shape[1]):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    return torch.stack(states, dim=1)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17, 31, 50, 64, 101])
def test_the_scan_is_the_recurrence(length: int) -> None:
    agree(linear_scan, naive_scan, [noise(2, length, 3, 4).sigmoid(), noise(2, length, 3, 4, seed=2)])


@pytest.mark.parametrize("shape", [(3, 11), (1, 11, 5), (2, 11, 3, 2, 2)], ids=str)
def test_the_scan_takes_any_axes_behind_time(shape: tuple[int, ...]) -> None:
    agree(linear_scan, naive_scan, [noise(*shape), noise(*shape, seed=2)])


@pytest.mark.parametrize("decay", ["zero", "one", "mixed", "negative"])
@pytest.mark.parametrize("length", [2, 10, 23])
def test_the_scan_forgets_all_or_nothing(length: int, decay: str) -> None:
    shape = (2, length, 3)
    coin = noise(*shape, seed=5) > 0
    a = {
        "zero": torch.zeros(shape, dtype=torch.float64),
        "one": torch.ones(shape, dtype=torch.float64),
        "mixed": coin.double(),
        "negative": -noise(*shape).sigmoid(),
    }[decay]
    b = noise(*shape, seed=2)
    agree(linear_scan, naive_scan, [a, b])
    if decay == "one":
        close(linear_scan(a, b), b.cumsum(1))
    if decay == "zero":
        assert torch.equal(linear_scan(a, b), b)


def test_the_scan_does_not_overflow_where_a_ratio_of_products_would() -> None:
    a = torch.full((1, 400, 1), 1e-3)
    assert bool(torch.isfinite(linear_scan(a, torch.ones_like(a))).all())


def test_the_scan_leaves_its_inputs_as_they_were() -> None:
    a, b = noise(2, 10, 3), noise(2, 10, 3, seed=2)
    before = a.clone(), b.clone()
    gradients(linear_scan, [a, b], noise(2, 10, 3, seed=3))
    linear_scan(a, b)
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])


def test_the_scan_under_vmap_equals_the_loop() -> None:
    vmap_agrees(linear_scan, [(2, 7, 3), (2, 7, 3)])


def test_the_slope_of_the_scan() -> None:
    assert torch.autograd.gradcheck(
        linear_scan, (noise(2, 6, 2).requires_grad_(), noise(2, 6, 2).requires_grad_())
    )


def test_the_scan_has_a_shape_on_meta() -> None:
    a = torch.empty(2, 9, 3, device="meta")
    assert linear_scan(a, a).shape == (2, 9, 3)


def naive_long_conv(x: Tensor, h: Tensor) -> Tensor:
    length = x.shape[1]
    rows = [torch.stack([h[t - s] * x[:, s] for s in range(t + 1)]).sum(0) for t in range(length)]
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("length", [1, 2, 3, 17, 32])
def test_the_long_convolution_is_the_direct_sum(length: int) -> None:
    agree(long_conv, naive_long_conv, [noise(2, length, 5), noise(length, 5, seed=2)])


def test_the_slope_of_the_long_convolution() -> None:
    assert torch.autograd.gradcheck(
        long_conv, (noise(2, 5, 3).requires_grad_(), noise(5, 3).requires_grad_())
    )


def test_the_long_convolution_under_vmap_equals_the_loop() -> None:
    vmap_agrees(long_conv, [(2, 7, 3), (7, 3)])


def test_the_long_convolution_keeps_the_dtype_of_its_signal() -> None:
    x, h = noise(2, 9, 3, dtype=torch.bfloat16), noise(9, 3, dtype=torch.float32)
    y = long_conv(x, h)
    assert y.dtype == torch.bfloat16
    close(y.double(), naive_long_conv(x.double(), h.double()), atol=0.05)


def test_the_operations_of_the_long_convolution() -> None:
    # n = 2 * 4 = 8: three transforms of 5 * 8 * 3 and five products of complex numbers, for each channel.
    assert long_conv_flops(4, 7) == 7 * (3 * 120 + 30)


def naive_short_conv(x: Tensor, weight: Tensor, bias: Tensor, tail: Tensor) -> Tensor:
    taps, past = weight.shape[1], torch.cat([tail, x], dim=1)
    rows = [
        bias + sum(weight[:, i] * past[:, t + i] for i in range(taps))
        for t in range(x.shape[1])  # past[:, t + taps - 1] is x[:, t]
    ]
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("taps", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 3, 9])
def test_the_short_convolution_is_the_direct_sum(length: int, taps: int) -> None:
    x, weight, bias = noise(2, length, 5), noise(5, taps, seed=2), noise(5, seed=3)
    agree(short_conv, naive_short_conv, [x, weight, bias, noise(2, taps - 1, 5, seed=4)])
    zeros = torch.zeros(2, taps - 1, 5, dtype=torch.float64)
    agree(
        lambda x, w: short_conv(x, w),
        lambda x, w: naive_short_conv(x, w, torch.zeros_like(bias), zeros),
        [x, weight],
    )


@pytest.mark.parametrize("taps", [1, 2, 4])
def test_the_tail_carries_the_short_convolution_on(taps: int) -> None:
    x, weight, bias = noise(2, 11, 5), noise(5, taps, seed=2), noise(5, seed=3)
    tail, parts = torch.zeros(2, taps - 1, 5, dtype=torch.float64), []
    for part in x.split([1, 2, 5, 3], dim=1):
        parts.append(short_conv(part, weight, bias, tail))
        tail = next_tail(part, tail)
        assert tail.shape == (2, taps - 1, 5)
    close(torch.cat(parts, dim=1), short_conv(x, weight, bias))
    assert torch.equal(tail, x[:, 11 - (taps - 1) :])


def test_the_slope_of_the_short_convolution() -> None:
    inputs = [noise(2, 5, 3), noise(3, 4, seed=2), noise(3, seed=3), noise(2, 3, 3, seed=4)]
    assert torch.autograd.gradcheck(short_conv, [x.requires_grad_() for x in inputs])


def test_the_short_convolution_under_vmap_equals_the_loop() -> None:
    vmap_agrees(lambda x, w: short_conv(x, w), [(2, 7, 3), (3, 4)])
    vmap_agrees(lambda x, w, tail: short_conv(x, w, tail=tail), [(2, 7, 3), (3, 4), (2, 3, 3)])


def test_rotation_keeps_norms_and_position_zero() -> None:
    x = noise(2, 37, 3, 8)
    y = rotate(x, torch.arange(37))
    close(y.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(y[:, 0], x[:, 0])
    close(rotate(x, torch.zeros(37, dtype=torch.int64)), x)
    half = x.unflatten(-1, (2, 4)).norm(dim=-2)
    close(y.unflatten(-1, (2, 4)).norm(dim=-2), half, "the pairs are (i, i + K/2)")


def test_products_of_rotated_vectors_depend_on_the_distance_only() -> None:
    q, k = noise(1, 1, 2, 8), noise(1, 1, 2, 8, seed=2)

    def product(i: int, j: int) -> Tensor:
        return (rotate(q, torch.tensor([i])) * rotate(k, torch.tensor([j]))).sum(-1)

    for distance in (0, 1, 17):
        for start in (0, 5, 1000):
            close(product(start + distance, start), product(distance, 0), atol=1e-10)
    assert (product(3, 0) - product(0, 3)).abs().min() > 1e-3, "direction matters"


def test_the_angles_of_a_rotation() -> None:
    x = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64).expand(1, 1, 1, 4)
    y = rotate(x, torch.tensor([3]), base=100.0)[0, 0, 0]
    angle = torch.tensor([3.0, 0.3], dtype=torch.float64)
    close(y, torch.cat([angle.cos(), angle.sin()]))


def test_rotation_is_exact_to_the_dtype_at_a_far_position() -> None:
    x = noise(1, 1, 1, 8, dtype=torch.bfloat16)
    far = torch.tensor([30_001])
    y = rotate(x, far)
    assert y.dtype == torch.bfloat16
    close(y.double(), rotate(x.double(), far), atol=0.03)


def test_the_root_mean_square_norm() -> None:
    x, weight = noise(2, 3, 8), noise(8, seed=2)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
    close(rms_norm(x, weight, divisor=8), expected)
    close(rms_norm(1000 * x, weight, divisor=8), expected, "scale", atol=1e-5)
    assert torch.equal(rms_norm(0 * x, weight, divisor=8), 0 * x)
    layer = RMSNorm(8)
    assert torch.equal(layer.weight, torch.ones(8)) and layer.divisor == 8
    close(layer.double()(x), rms_norm(x, torch.ones(8, dtype=torch.float64), divisor=8))


def test_the_root_mean_square_norm_with_an_old_divisor_ignores_new_zeros() -> None:
    x, weight = noise(2, 3, 8), noise(8, seed=2)
    wide = torch.nn.functional.pad(x, (0, 5))
    y = rms_norm(wide, torch.nn.functional.pad(weight, (0, 5)), divisor=8)
    close(y[..., :8], rms_norm(x, weight, divisor=8))
    assert not y[..., 8:].any()


def test_the_root_mean_square_norm_of_bfloat16_is_taken_in_float32() -> None:
    x = 200 * noise(4, 512, dtype=torch.bfloat16)
    y = rms_norm(x, torch.ones(512), divisor=512)
    assert y.dtype == torch.bfloat16
    close(y.double(), rms_norm(x.double(), torch.ones(512, dtype=torch.float64), divisor=512), atol=0.02)


def test_replicas_are_folded_into_the_batch_and_back() -> None:
    x = noise(2, 3, 4)
    assert torch.equal(unfold(fold(x, 0, 2), 2), x)
    assert torch.equal(unfold(fold(x, 1, 3), 3), x.movedim(1, 0))
    assert torch.equal(unfold(fold(x, None, 5), 5), x.expand(5, 2, 3, 4))
