"""Raven against its recurrence, token by token in float64; the contract covers the rest."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.primitive import Choices, Context
from tests.architectures.helpers import (
    agree,
    close,
    finite,
    in_pieces,
    layer_of,
    noise,
    parameters_in,
    rms,
    short_conv,
    silu,
)

DIM = 32
make = partial(layer_of, "raven")


def shares(logits: Tensor, k: int) -> Tensor:
    """Of each row of logits (B, M): the sigmoids of the k largest over their sum, 0 for the others."""
    rows = []
    for row in logits:
        best = sorted(range(len(row)), key=row.tolist().__getitem__)[-k:]
        scores = torch.stack([row[m].sigmoid() if m in best else row[m] * 0 for m in range(len(row))])
        rows.append(scores / (scores.sum() + 1e-9))
    return torch.stack(rows)


def naive(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the slots' keys and values beside each other."""
    heads, slots, key, value = layer.heads, layer.slots, layer.key_dim, layer.value_dim
    z = silu(short_conv(x @ layer.project.weight.T, layer.conv.weight))
    q, k, v = (u.unflatten(-1, (heads, -1)) for u in z.split([heads * key, heads * key, heads * value], -1))
    q, k = rms(q) * layer.query_norm.weight, rms(k) * layer.key_norm.weight
    logits = (x @ layer.route.weight.T).unflatten(-1, (heads, -1))
    rows = []
    states = [torch.zeros(x.shape[0], slots, key + value, dtype=x.dtype) for _ in range(heads)]
    for t in range(x.shape[1]):
        outputs = []
        for j in range(heads):
            if layer.config.decay == "slot":
                forget = layer.forget.weight[j * slots : (j + 1) * slots]
                g = torch.log(torch.sigmoid(x[:, t] @ forget.T)) / 8
            else:
                step = torch.log1p(torch.exp(x[:, t] @ layer.dt.weight[j] + layer.dt_bias[j]))
                g = (-layer.log_rate[j].exp() * step)[:, None]
            a = (shares(logits[:, t, j], layer.top_k) * g).clamp(min=-5).exp()[..., None]
            states[j] = a * states[j] + (1 - a) * torch.cat([k[:, t, j], v[:, t, j]], dim=-1)[:, None]
            weights = torch.einsum("bmk,bk->bm", states[j][..., :key], q[:, t, j]).softmax(-1)
            outputs.append(torch.einsum("bm,bmv->bv", weights, states[j][..., key:]))
        rows.append((rms(silu(torch.cat(outputs, dim=-1))) * layer.norm.weight) @ layer.out.weight.T)
    return torch.stack(rows, dim=1), torch.stack(states, dim=1)


@pytest.mark.parametrize(
    "options",
    ["", "decay=slot, heads=1, slots=5", "heads=4, key_dim=6, value_dim=3, slots=9, conv=3, top_k=1"],
)
def test_forward_its_gradient_and_the_state_are_those_of_the_recurrence(options: str) -> None:
    layer, x = make(options, away=0.1), 2 * noise(2, 67, DIM)
    with torch.no_grad():
        expected, last = naive(layer, x)
    close(layer(x[:, :1]), expected[:, :1], 1e-9)
    y, state = in_pieces(layer, x, 41, 66)
    close(y, expected, 1e-9)
    close(state[0], last, 1e-9)
    agree(layer, lambda layer, x: naive(layer, x)[0], x[:1, :35], atol=1e-9, slope=1e-8)


def test_slots_that_are_not_chosen_stay_as_they_are() -> None:
    layer, x = make("top_k=3, slots=8"), noise(1, 12, DIM)
    _, before = layer.prefill(x[:, :11], layer.init_state(1))
    _, after = layer.step(x[:, 11], before)
    moved = (after[0] != before[0]).any(-1)
    assert torch.equal(moved, layer.routes(x[:, 11:], None)[:, 0] > 0)
    assert moved.sum(-1).unique().tolist() == [3]


def test_all_slots_with_equal_scores_are_gated_slot_attention() -> None:
    layer, peer = make("top_k=16, decay=slot"), layer_of("gsa")
    x = noise(2, 37, DIM)
    with torch.no_grad():
        layer.route.weight.zero_()
        peer.load_state_dict({n: p for n, p in layer.state_dict().items() if n in peer.state_dict()})
        tokens, _ = layer.write(x, layer.init_state(2)[1:], None)
        theirs, _ = peer.write(x, peer.init_state(2)[1:], None)
    # A share of 1 / 16 of the log gate.
    close(tokens.log_a * 16, theirs.log_a, 1e-6)
    tokens.q, tokens.k, tokens.log_a = theirs.q, theirs.k, 16 * tokens.log_a
    o, _ = layer.recur(tokens, layer.init_state(2)[0])
    close(layer.read(o, x, tokens), peer(x), 1e-6)


def test_noise_tries_other_slots_in_training_only() -> None:
    layer, x = make(), noise(1, 40, DIM)
    ctx = Context(seed=3)
    noisy, again = layer.routes(x, ctx), layer.routes(x, Context(seed=3))
    assert torch.equal(noisy, again) and not torch.equal(noisy > 0, layer.routes(x, Context()) > 0)
    assert torch.equal(make("noise=false").routes(x, ctx), layer.routes(x, None))


def test_the_choice_is_replayed() -> None:
    layer, x = make(), noise(1, 9, DIM)
    ctx = Context(choices=Choices())
    layer(x, ctx)
    made = ctx.choices.made  # type: ignore[union-attr]
    again = Context(choices=Choices(given=[~made[0]]))
    assert len(made) == 1 and not torch.equal(layer(x, again), layer(x))


@pytest.mark.parametrize("logit", [-1e4, -40.0, 0.0, 400.0])
def test_no_gate_breaks_the_values_or_the_gradient(logit: float) -> None:
    layer = make().float()
    x = noise(2, 67, DIM).float()
    x[..., 0] = torch.where(noise(2, 67, seed=4) > 0, 1.0, 0.5).float()
    with torch.no_grad():
        layer.dt.weight[:, 0] = logit
        layer.route.weight[:, 0] = logit / 10
    finite(layer, x)


def test_state_parameters_and_refusals() -> None:
    layer = make(dim=128)
    assert (layer.heads, layer.slots, layer.top_k) == (8, 16, 8)
    assert layer.measure_state(40)["total"] == layer.nominal_state(40) == 8 * 16 * 32
    assert parameters_in(layer) == 5 * 128**2 + 128 * 8 + 2 * 8 + 128 + 2 * 16
    assert layer.state_flops(10) == 10 * 8 * 32 * 2 * (16 + 8)
    with pytest.raises(ValueError, match="top_k=17 must be at most slots 16; lower it"):
        make("top_k=17")
