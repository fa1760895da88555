"""Gated slot attention against its recurrence, token by token in float64; the contract covers the rest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import architectures
from architectures.primitive import Primitive

DIM = 32


def make(options: str = "", dim: int = DIM) -> Primitive:
    spec = f"1*gsa[{options}]" if options else "1*gsa"
    return architectures.build(spec, vocab_size=5, dim=dim, max_len=80, seed=0).layers()[0][1].double()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perturbed(layer: Primitive) -> Primitive:
    with torch.no_grad():
        for j, p in enumerate(layer.parameters()):
            p.add_(0.1 * noise(*p.shape, seed=j))
    return layer


def silu(z: Tensor) -> Tensor:
    return z * torch.sigmoid(z)


def naive(layer: Primitive, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the slots' keys and values beside each other."""
    heads, slots, key, value = layer.heads, layer.slots, layer.key_dim, layer.value_dim
    z = x @ layer.project.weight.T
    taps = layer.config.conv
    if taps:
        padded = torch.cat([torch.zeros(x.shape[0], taps - 1, z.shape[2], dtype=z.dtype), z], dim=1)
        z = sum(layer.conv.weight[:, i] * padded[:, i : i + x.shape[1]] for i in range(taps))
    q, k, v = silu(z).split([heads * key, heads * key, heads * value], dim=-1)
    alpha = (torch.sigmoid(x @ layer.forget.weight.T) ** (1 / 8)).clamp(min=torch.tensor(-5.0).double().exp())
    rows, last = [], []
    states = [torch.zeros(x.shape[0], slots, key + value, dtype=x.dtype) for _ in range(heads)]
    for t in range(x.shape[1]):
        outputs = []
        for j in range(heads):
            a = alpha[:, t, j * slots : (j + 1) * slots, None]
            kj, vj = k[:, t, j * key : (j + 1) * key], v[:, t, j * value : (j + 1) * value]
            states[j] = a * states[j] + (1 - a) * torch.cat([kj, vj], dim=-1)[:, None]
            logits = torch.einsum("bmk,bk->bm", states[j][..., :key], q[:, t, j * key : (j + 1) * key])
            outputs.append(torch.einsum("bm,bmv->bv", logits.softmax(-1), states[j][..., key:]))
        o = silu(torch.cat(outputs, dim=-1))
        o = o / torch.sqrt(o.square().mean(-1, keepdim=True) + 1e-6) * layer.norm.weight
        rows.append(o @ layer.out.weight.T)
    last = torch.stack(states, dim=1)
    return torch.stack(rows, dim=1), last


def error(y: Tensor, expected: Tensor) -> float:
    return float(((y - expected).abs().max() / expected.abs().max()).detach())


@pytest.mark.parametrize(
    "options", ["", "heads=1, slots=5", "heads=4, key_dim=6, value_dim=3, slots=9, conv=3", "slots=1, conv=1"]
)
def test_forward_and_the_state_are_those_of_the_recurrence(options: str) -> None:
    layer = perturbed(make(options))
    x = 2 * noise(2, 67, DIM)
    expected, last = naive(layer, x)
    for length in (1, 5, 37, 67):
        assert error(layer(x[:, :length]), expected[:, :length]) < 1e-9
    _, state = layer.prefill(x[:, :41], layer.init_state(2))
    y, state = layer.prefill(x[:, 41:66], state)
    y, state = layer.step(x[:, 66], state)
    assert error(y, expected[:, 66]) < 1e-9 and error(state[0], last) < 1e-9
    assert error(layer.float()(x.float()).double(), expected) < 1e-4


def test_the_gradient_is_that_of_the_recurrence() -> None:
    layer = perturbed(make("slots=5, conv=2"))
    x, weight = noise(1, 35, DIM), noise(1, 35, DIM, seed=3)
    parameters = list(layer.parameters())
    ours = torch.autograd.grad((layer(x) * weight).sum(), parameters)
    theirs = torch.autograd.grad((naive(layer, x)[0] * weight).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        assert error(a, b) < 1e-8


@pytest.mark.parametrize("logit", [-1e4, -400.0, -40.0, 0.0, 40.0, 400.0])
def test_no_gate_breaks_the_values_or_the_gradient(logit: float) -> None:
    layer = make().float()
    x = noise(2, 67, DIM).float()
    x[..., 0] = torch.where(noise(2, 67, seed=4) > 0, 1.0, 0.5).float()
    with torch.no_grad():
        layer.forget.weight[:, 0] = logit
    x.requires_grad_()
    y = layer(x)
    gradients = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
    assert all(bool(torch.isfinite(z).all()) for z in (y, *gradients))
    expected, _ = naive(layer.double(), x.detach().double())
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=float(2e-3 * expected.detach().abs().max()))


def test_autocast_rounds_nothing_of_the_recurrence() -> None:
    layer = make().float()
    tokens, _ = layer.write(noise(1, 40, DIM).float(), layer.init_state(1)[1:], None)
    s = layer.init_state(1)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer.recur(tokens, s)
    assert all(torch.equal(a, b) for a, b in zip(low, layer.recur(tokens, s), strict=True))


def test_state_and_parameters_at_width_128() -> None:
    paper = make("heads=4, slots=32", dim=128)
    assert paper.measure_state(40)["total"] == paper.nominal_state(40) == 8_192
    ours = make(dim=128)
    assert (ours.heads, ours.slots) == (8, 16) and ours.measure_state(40)["total"] == 8 * 16 * 32
    assert sum(p.numel() for p in ours.parameters()) == 5 * 128**2 + 128
    assert make("slots=64", dim=128).nominal_state(9) == 8 * 64 * 32
    assert make("conv=4", dim=128).measure_state(9)["conv"] == 3 * 384


def test_a_single_slot_reads_back_its_average_whatever_the_query() -> None:
    layer = make("slots=1")
    x = noise(1, 9, DIM)
    y = layer(x)
    with torch.no_grad():
        layer.project.weight[: layer.heads * layer.key_dim] = 0
    torch.testing.assert_close(layer(x), y, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("slots=0", "slots=0 must be at least 1"),
        ("heads=5", "not divisible by heads 5"),
        ("key_dim=0", "key_dim=0 must be at least 1"),
        ("conv=-1", "conv=-1 must be at least 0"),
    ],
)
def test_what_cannot_be_built_is_refused(options: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(options)
