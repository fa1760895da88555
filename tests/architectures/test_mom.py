"""The mixture of memories against its recurrences, token by token in float64; the contract does the rest."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.primitive import Context
from tests.architectures.helpers import (
    agree,
    close,
    convolved,
    finite,
    in_pieces,
    layer_of,
    noise,
    parameters_in,
    rms,
    silu,
    unit,
)

DIM = 32
make = partial(layer_of, "mom", away=0.1)
OPTIONS = [
    "",
    "experts=3, top_k=3, shared=true, heads=1",
    "experts=5, top_k=1, key_dim=6, value_dim=3, conv=2",
]


def weights_of(layer: Any, x: Tensor) -> dict[int, Tensor]:
    """What one token x (D,) gives each memory that it is sent to."""
    c, shared = layer.config, {layer.config.experts: torch.ones((), dtype=x.dtype)}
    scores = (layer.router.weight @ x).softmax(0)
    best = sorted(range(c.experts), key=scores.tolist().__getitem__)[-c.top_k :]
    total = scores[best].sum() if c.top_k > 1 else torch.ones((), dtype=x.dtype)
    return {e: scores[e] / total for e in best} | (shared if c.shared else {})


def naive(layer: Any, x: Tensor) -> Tensor:
    """One row, one token and one chosen memory after the other."""
    heads, key, value = layer.heads, layer.key_dim, layer.value_dim
    every, widths = layer.memories, layer.widths
    maps = [(x @ layer.maps[e].T).split(widths, -1) for e in range(every)]
    parts = [x @ layer.query.weight.T, *(m[0] for m in maps), *(m[1] for m in maps)]
    joined = convolved(torch.cat(parts, -1), layer.conv.weight)
    q, *rest = joined.split([widths[0], *[widths[0]] * every, *[widths[1]] * every], -1)
    q = unit(q.unflatten(-1, (heads, key))) / key**0.5
    ks = [unit(u.unflatten(-1, (heads, key))) for u in rest[:every]]
    vs = [u.unflatten(-1, (heads, value)) for u in rest[every:]]
    rows = []
    for b in range(x.shape[0]):
        states = [torch.zeros(heads, key, value, dtype=x.dtype) for _ in range(every)]
        outputs = []
        for t in range(x.shape[1]):
            found = torch.zeros(heads, value, dtype=x.dtype)
            for e, weight in weights_of(layer, x[b, t]).items():
                strength, step = maps[e][2][b, t].sigmoid(), maps[e][3][b, t] + layer.dt_bias
                s = torch.exp(-layer.log_rate.exp() * torch.log1p(step.exp()))[:, None, None] * states[e]
                k, v = ks[e][b, t], vs[e][b, t]
                new = strength[:, None] * (v - torch.einsum("hk,hkv->hv", k, s))
                states[e] = s + torch.einsum("hk,hv->hkv", k, new)
                found = found + weight * torch.einsum("hk,hkv->hv", q[b, t], states[e])
            o = (rms(found) * layer.norm).flatten() * silu(layer.gate.weight @ x[b, t])
            outputs.append(layer.out.weight @ o)
        rows.append(torch.stack(outputs))
    return torch.stack(rows)


@pytest.mark.parametrize("options", OPTIONS)
def test_forward_and_its_gradient_are_those_of_the_recurrence(options: str) -> None:
    layer = make(options)
    agree(layer, naive, noise(2, 1, DIM), atol=1e-9, slope=None)
    agree(layer, naive, 2 * noise(1, 43, DIM), atol=1e-9, slope=1e-8)


@pytest.mark.parametrize("options", OPTIONS)
def test_pieces_and_steps_continue_the_sequence(options: str) -> None:
    layer, x = make(options), 2 * noise(2, 67, DIM)
    close(in_pieces(layer, x, 1, 41, 66)[0], layer(x), 1e-10)


def test_a_memory_that_is_not_chosen_stays_as_it_is() -> None:
    layer, x = make("experts=6"), noise(1, 12, DIM)
    _, before = layer.prefill(x[:, :11], layer.init_state(1))
    _, after = layer.step(x[:, 11], before)
    moved = (after[0] != before[0]).flatten(2).any(-1).unflatten(1, (6, -1)).any(-1)
    assert [e for e in range(6) if moved[0, e]] == sorted(weights_of(layer, x[0, 11]))


@pytest.mark.parametrize("options", ["experts=1, top_k=1", "experts=1, top_k=1, conv=0, heads=1"])
def test_one_memory_is_gated_delta_net(options: str) -> None:
    layer, rest = make(options), options.removeprefix("experts=1, top_k=1").removeprefix(", ")
    peer, x = layer_of("gated-delta-net", rest), noise(2, 70, DIM)
    with torch.no_grad():
        k, v, b, dt = layer.maps[0].split(layer.widths)
        peer.load_state_dict(
            {n: p for n, p in layer.state_dict().items() if n in peer.state_dict()}
            | {"project.weight": torch.cat([layer.query.weight, k, v])}
            | {"strength.weight": b, "dt.weight": dt}
        )
    close(layer(x), peer(x), 1e-12)


def test_the_balance_is_a_loss_of_the_context() -> None:
    layer, ctx = make(), Context()
    layer(noise(2, 20, DIM), ctx)
    assert list(ctx.losses) == ["blocks.0.layer/balance"] and all(bool(z > 0) for z in ctx.losses.values())


def test_logits_far_apart_and_strong_decay_break_nothing() -> None:
    layer = make().float()
    with torch.no_grad():
        layer.router.weight.mul_(1e4)
        layer.dt_bias.fill_(50)
    x = noise(2, 67, DIM).float()
    y = finite(layer, x)
    close(in_pieces(layer, x, 1, 30)[0], y, 1e-4)


def test_state_parameters_and_work_at_width_128() -> None:
    layer = make(dim=128)
    assert layer.measure_state(40)["recurrent"] == layer.nominal_state(40) == 4 * 8 * 256
    assert layer.measure_state(40)["conv"] == 3 * (128 + 4 * 256)
    assert make("conv=0, shared=true", dim=128).measure_state(40)["total"] == 5 * 8 * 256
    assert layer.reads(40) == layer.measure_state(40)["total"] - 2 * 8 * 256
    maps = 4 * (256 + 16) * 128
    conv = 4 * (128 + 4 * 256)
    assert parameters_in(layer) == maps + 3 * 128**2 + 4 * 128 + conv + 2 * 8 + 16
    bare = make("conv=0", dim=128)
    assert bare.flops(10) == 20 * (maps + 3 * 128**2 + 4 * 128) + 6 * 10 * 2 * 8 * 256 + 10 * 128


def test_more_memories_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="top_k=5 must be at most experts 4; lower it"):
        make("top_k=5")
