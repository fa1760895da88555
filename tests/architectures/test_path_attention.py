"""PaTH attention against its definition, token by token in float64; the contract tests cover the rest."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import architectures
from architectures.primitive import Primitive
from architectures.primitives.path_attention import path_attend

DIM = 32
OPTIONS = [
    "",
    "[heads=1]",
    "[heads=4, key_dim=5, value_dim=9, rank=3, w_conv=0]",
    "[qk_norm=true, gate=true, conv=3, w_conv=2]",
    "[heads=4, kv_heads=2]",
]


def make(options: str = "", *, dim: int = DIM) -> Primitive:
    model = architectures.build(f"1*path-attention{options}", vocab_size=5, dim=dim, max_len=300, seed=0)
    layer = model.layers()[0][1].double()
    with torch.no_grad():
        for j, p in enumerate(layer.parameters()):
            p.add_(0.1 * noise(*p.shape, seed=j))
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


def naive(layer: Primitive, x: Tensor) -> Tensor:
    """The definition: after each token, every earlier key is moved by its map; one head at a time."""
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
    w = x @ layer.w_down.weight.T @ layer.w_up.weight.T
    if config.w_conv:
        w = taps(w, layer.w_conv.weight)
    w = w.unflatten(-1, (shared, -1))
    w = w / (w.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    strength = 2 * torch.sigmoid(x @ layer.strength.weight.T + layer.strength.bias)
    rows = []
    moved: list[list[Tensor]] = [[] for _ in range(shared)]
    for t in range(x.shape[1]):
        for g in range(shared):
            eye = torch.eye(layer.key_dim, dtype=torch.float64)
            outer = w[:, t, g, :, None] * w[:, t, g, None, :]
            reflect = eye - strength[:, t, g, None, None] * outer
            moved[g] = [torch.einsum("bij,bj->bi", reflect, old) for old in moved[g]] + [k[:, t, g]]
        found = []
        for h in range(heads):
            g = h * shared // heads
            scores = torch.stack([(q[:, t, h] * key).sum(-1) for key in moved[g]], dim=1)
            weights = (scores / math.sqrt(layer.key_dim)).softmax(1)
            found.append((weights[..., None] * v[:, : t + 1, g]).sum(1))
        o = torch.cat(found, dim=-1)
        if config.gate:
            o = o * torch.sigmoid(x[:, t] @ layer.gate.weight.T)
        rows.append(o @ layer.out.weight.T)
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 37, 67])
def test_forward_is_the_definition(options: str, length: int) -> None:
    layer, x = make(options), noise(2, length, DIM)
    with torch.no_grad():
        expected = naive(layer, x)
        scale = float(expected.abs().max())
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-11 * scale)
        low = layer.float()(x.float())
    torch.testing.assert_close(low, expected.float(), rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_gradient_is_that_of_the_definition(options: str) -> None:
    layer, x = make(options), noise(2, 11, DIM)
    weight, parameters = noise(2, 11, DIM, seed=5), list(layer.parameters())
    ours = torch.autograd.grad((layer(x) * weight).sum(), parameters)
    theirs = torch.autograd.grad((naive(layer, x) * weight).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("options", OPTIONS)
def test_pieces_and_steps_continue_the_sequence_across_chunks(options: str) -> None:
    layer, x = make(options), noise(2, 150, DIM)
    y, state = layer.prefill(x[:, :9], layer.init_state(2))
    z, state = layer.prefill(x[:, 9:149], state)
    last, state = layer.step(x[:, 149], state)
    torch.testing.assert_close(torch.cat([y, z, last[:, None]], 1), layer(x), rtol=0, atol=1e-11)
    assert len(state) == len(layer.state_kinds)


def random_inputs(length: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    q, k, v, w = (noise(2, length, 3, 6, seed=s) for s in range(4))
    strength = 2 * torch.sigmoid(noise(2, length, 3, seed=9))
    return q, k, v, w / w.norm(dim=-1, keepdim=True), strength, k[:, :0]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 30])
@pytest.mark.parametrize("chunk", [1, 4, 8])
def test_any_chunk_gives_the_same_output_keys_and_gradient(length: int, chunk: int) -> None:
    inputs = [z.requires_grad_() for z in random_inputs(length)]
    o, keys = path_attend(*inputs, scale=0.4, chunk=chunk)
    whole, moved = path_attend(*inputs, scale=0.4, chunk=32)
    torch.testing.assert_close(o, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(keys, moved, rtol=0, atol=1e-12)
    weights = noise(*o.shape, seed=4), noise(*keys.shape, seed=5)
    ours = torch.autograd.grad((o * weights[0]).sum() + (keys * weights[1]).sum(), inputs[:5])
    theirs = torch.autograd.grad((whole * weights[0]).sum() + (moved * weights[1]).sum(), inputs[:5])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_a_key_stands_after_the_maps_of_all_later_tokens() -> None:
    q, k, v, w, strength, none = random_inputs(11)
    _, keys = path_attend(q, k, v, w, strength, none, scale=1.0, chunk=4)
    expected = k[:, 0]
    for t in range(1, 11):
        taken = strength[:, t, :, None] * (expected * w[:, t]).sum(-1, keepdim=True)
        expected = expected - taken * w[:, t]
    torch.testing.assert_close(keys[:, 0], expected, rtol=0, atol=1e-12)
    assert torch.equal(keys[:, -1], k[:, -1])


def test_reflections_keep_the_length_of_a_key_over_a_long_sequence() -> None:
    q, k, v, w, strength, none = (z.float() for z in random_inputs(300))
    o, keys = path_attend(q, k, v, w, torch.full_like(strength, 2.0), none, scale=1.0)
    torch.testing.assert_close(keys.norm(dim=-1), k.norm(dim=-1), rtol=0, atol=1e-4)
    assert bool(torch.isfinite(o).all())


def test_a_layer_without_strength_is_attention_without_position() -> None:
    layer = make()
    model = architectures.build("1*mh-attention[rope=false]", vocab_size=5, dim=DIM, max_len=300, seed=0)
    plain = model.layers()[0][1].double()
    layer.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        layer.strength.weight.zero_()
        layer.strength.bias.fill_(-1e3)
    x = noise(2, 70, DIM)
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("bias", [-100.0, 0.0, 100.0])
@pytest.mark.parametrize("size", [0.0, 100.0])
def test_no_strength_and_no_size_of_w_break_the_values_or_the_gradient(bias: float, size: float) -> None:
    layer = make().float()
    with torch.no_grad():
        layer.strength.bias.fill_(bias)
        layer.w_up.weight.mul_(size)
    x = noise(2, 130, DIM).float().requires_grad_()
    y = layer(x)
    gradients = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
    assert all(bool(torch.isfinite(z).all()) for z in (y, *gradients))


def test_autocast_leaves_the_maps_in_float32() -> None:
    layer, x = make().float(), noise(1, 256, DIM).float()
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low, state = layer.prefill(x, layer.init_state(1))
    assert (low.float() - exact).abs().max() < 0.05 * exact.abs().max()
    assert state[0].dtype == torch.float32
    bfloat = make().to(torch.bfloat16)
    assert bfloat(x.bfloat16()).dtype == torch.bfloat16


def test_the_state_is_the_cache_and_the_tail_of_w() -> None:
    layer = make(dim=128)
    sizes = layer.measure_state(40)
    assert (sizes["growing"], sizes["conv"]) == (2 * 40 * 128, 2 * 128)
    low_rank = 2 * 128 * 32 + 3 * 128
    assert sum(p.numel() for p in layer.parameters()) == 4 * 128**2 + low_rank + 128 * 8 + 8
    mixed = make("[conv=4]", dim=128).measure_state(40)
    assert mixed["conv"] == 3 * 3 * 128 + 2 * 128
    assert {n for n, h in layer.hints().items() if not h.decay} == {"w_conv.weight"}


def test_the_work_of_moving_keys_is_that_of_the_tokens_or_of_the_chunks() -> None:
    layer = make(dim=128)
    maps = 2 * 40 * (4 * 128**2 + 2 * 128 * 32 + 128 * 8) + 2 * 3 * 40 * 128
    assert layer.flops(40) == maps + 2 * 820 * 128 * 2 + 4 * 128 * (40 * 39 // 2)
    assert all(layer.flops(n) <= layer.executed(n) for n in (1, 64, 65, 1024, 4096))
    # A chunk moves an earlier key at once, so that beside the pairs little is left in a long sequence.
    pairs = 2 * (4096 * 4097 // 2) * 128 * 2
    assert layer.flops(4096) < 2 * (pairs + layer.products(4096))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("rank=0", "rank=0 must be at least 1"),
        ("w_conv=-1", "w_conv=-1 must be at least 0"),
        ("conv=-1", "conv=-1 must be at least 0"),
        ("heads=4, kv_heads=3", "choose kv_heads from 1, 2, 4"),
    ],
)
def test_what_cannot_be_built_is_refused(options: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(f"[{options}]")
