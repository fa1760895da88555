"""Forgetting attention against its definition, token by token in float64; the contract covers the rest."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import architectures
from architectures.primitive import Primitive

DIM = 48
OPTIONS = [
    "fox",
    "fox[heads=2, key_dim=5, value_dim=9]",
    "fox[qk_norm=true, gate=true, conv=3]",
    "fox[heads=6, kv_heads=2]",
]


def make(spec: str = "fox", *, dim: int = DIM) -> Primitive:
    model = architectures.build(f"1*{spec}", vocab_size=5, dim=dim, max_len=600, seed=0)
    layer = model.layers()[0][1].double()
    with torch.no_grad():
        for j, p in enumerate(layer.parameters()):
            p.add_(0.05 * noise(*p.shape, seed=j))
    return layer


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(layer: Primitive, x: Tensor) -> Tensor:
    """The definition; the weight of a key is multiplied by f of every later token, one after the other."""
    config, heads, shared = layer.config, layer.heads, layer.kv_heads
    u = torch.cat([x @ layer.query.weight.T, x @ layer.key.weight.T, x @ layer.value.weight.T], dim=-1)
    if config.conv:
        mixed = torch.zeros_like(u)
        for i in range(config.conv):
            late = torch.cat([torch.zeros_like(u[:, :i]), u[:, : max(u.shape[1] - i, 0)]], dim=1)[
                :, : u.shape[1]
            ]
            mixed = mixed + layer.conv.weight[:, config.conv - 1 - i] * late
        u = mixed * torch.sigmoid(mixed)
    widths = [heads * layer.key_dim, shared * layer.key_dim, shared * layer.value_dim]
    q, k, v = (
        z.unflatten(-1, (n, -1)) for z, n in zip(u.split(widths, -1), (heads, shared, shared), strict=True)
    )
    if config.qk_norm:
        q = q / (q.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.query_norm.weight
        k = k / (k.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.key_norm.weight
    f = torch.sigmoid(x @ layer.forget.weight.T + layer.forget.bias)
    rows = []
    for t in range(x.shape[1]):
        found = []
        for h in range(heads):
            g = h * shared // heads
            weights = (k[:, : t + 1, g] * q[:, t : t + 1, h]).sum(-1).div(math.sqrt(layer.key_dim)).exp()
            kept = [f[:, s + 1 : t + 1, h].prod(1) for s in range(t + 1)]
            weights = weights * torch.stack(kept, dim=1)
            weights = weights / weights.sum(1, keepdim=True)
            found.append((weights[..., None] * v[:, : t + 1, g]).sum(1))
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
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-11 * scale)
    low = layer.float()(x.float())
    torch.testing.assert_close(low, expected.float(), rtol=0, atol=3e-5 * scale)


@pytest.mark.parametrize("spec", OPTIONS)
def test_the_gradient_is_that_of_the_definition(spec: str) -> None:
    layer, x = make(spec), noise(2, 11, DIM)
    weight, parameters = noise(2, 11, DIM, seed=5), list(layer.parameters())
    ours = torch.autograd.grad((layer(x) * weight).sum(), parameters)
    theirs = torch.autograd.grad((naive(layer, x) * weight).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("spec", [*OPTIONS, "fox[rope=true]"])
def test_pieces_and_steps_continue_the_sequence(spec: str) -> None:
    layer, x = make(spec), noise(2, 24, DIM)
    y, state = layer.prefill(x[:, :9], layer.init_state(2))
    z, state = layer.prefill(x[:, 9:23], state)
    last, state = layer.step(x[:, 23], state)
    torch.testing.assert_close(torch.cat([y, z, last[:, None]], 1), layer(x), rtol=0, atol=1e-12)
    assert len(state) == len(layer.state_kinds)


@pytest.mark.parametrize("rope", ["false", "true"])
def test_a_layer_that_forgets_nothing_is_attention(rope: str) -> None:
    layer, plain = make(f"fox[rope={rope}]"), make(f"mh-attention[rope={rope}]")
    kept = {"forget.weight": torch.zeros(3, DIM), "forget.bias": torch.full((3,), 1e4)}
    layer.load_state_dict({**plain.state_dict(), **kept})
    x = noise(2, 23, DIM)
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=1e-12)


def test_a_layer_that_forgets_everything_sees_the_token_itself() -> None:
    layer, x = make(), noise(2, 23, DIM)
    with torch.no_grad():
        layer.forget.weight.zero_()
        layer.forget.bias.fill_(-1e3)
    expected = x @ layer.value.weight.T @ layer.out.weight.T
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bias", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_no_gate_breaks_the_values_or_the_gradient(bias: float) -> None:
    layer = make().float()
    with torch.no_grad():
        layer.forget.bias.fill_(bias)
    x = noise(2, 67, DIM).float().requires_grad_()
    y = layer(x)
    gradients = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
    _, state = layer.prefill(x, layer.init_state(2))
    assert all(bool(torch.isfinite(z).all()) for z in (y, *gradients, layer.step(x[:, 0], state)[0]))


def test_a_long_sequence_keeps_its_digits_also_in_bfloat16() -> None:
    layer, x = make(), noise(1, 512, DIM)
    exact, low = layer(x), layer.float()
    scale = float(exact.detach().abs().max())
    torch.testing.assert_close(low(x.float()), exact.float(), rtol=0, atol=1e-4 * scale)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole = low(x.float())
        first, state = low.prefill(x[:, :500].float(), low.init_state(1))
        rest, _ = low.prefill(x[:, 500:].float(), state)
    for found in (whole, torch.cat([first, rest], 1)):
        torch.testing.assert_close(found.float(), exact.float(), rtol=0, atol=0.05 * scale)


def test_the_state_holds_one_sum_a_head_and_token_besides_the_cache() -> None:
    layer = make(dim=128)
    assert layer.measure_state(40)["growing"] == 2 * 40 * 128 + 40 * 8
    assert sum(p.numel() for p in layer.parameters()) == 4 * 128**2 + 128 * 8 + 8
    low = make().to(torch.bfloat16)
    y, state = low.step(noise(2, DIM).bfloat16(), low.init_state(2))
    assert (y.dtype, state[0].dtype, state[-1].dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert low(noise(2, 5, DIM).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fox[heads=16, rope=true]", "is odd, and RoPE rotates pairs"),
        ("fox[heads=0]", "heads=0 must be at least 1"),
        ("fox[conv=-1]", "conv=-1 must be at least 0"),
        ("fox[heads=3, kv_heads=2]", "choose kv_heads from 1, 3"),
    ],
)
def test_what_cannot_be_built_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(spec)
