"""M2RNN against its equation, token by token; the contract tests cover the rest."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from architectures.functional.delta import delta_rule
from architectures.primitives.m2rnn import tanh_recurrence
from architectures.registry import get
from tests.architectures.helpers import (
    agree,
    close,
    convolved,
    in_pieces,
    layer_of,
    noise,
    parameters_in,
    rms,
    silu,
    slopes,
)

DIM = 32
make = partial(layer_of, "m2rnn")
OPTIONS = ["clip=none", "conv=0, clip=none, heads=1", "key_dim=8, value_dim=24, conv=2, clip=none"]


def rule(
    q: Tensor, k: Tensor, v: Tensor, f: Tensor, w: Tensor, s: Tensor, *, clip: float | None = None
) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written; the gradient of a state is clipped where it is passed on."""
    rows = []
    for t in range(q.shape[1]):
        new = torch.tanh(s @ w + k[:, t, None, :, None] * v[:, t, :, None])
        s = f[:, t, :, None, None] * s + (1 - f[:, t, :, None, None]) * new
        if clip is not None and s.requires_grad:
            s = s.clone()
            s.register_hook(lambda g: g.clamp(-clip, clip))
        rows.append((s * q[:, t, None, :, None]).sum(-2))
    return torch.stack(rows, dim=1), s


def naive(layer: Any, x: Tensor) -> Tensor:
    """The layer from its parameters."""
    heads, key, value = layer.heads, layer.key_dim, layer.value_dim
    z = convolved(x @ layer.project.weight.T, layer.conv.weight)
    q, k, v = z.split([key, key, heads * value], dim=-1)
    v = v.reshape(*x.shape[:2], heads, value)
    f = torch.exp(-layer.log_rate.exp() * softplus(x @ layer.dt.weight.T + layer.dt_bias))
    o, _ = rule(
        q, k, v, f, layer.transition, x.new_zeros(x.shape[0], heads, key, value), clip=layer.config.clip
    )
    o = (o + layer.skip * v).flatten(2) * silu(x @ layer.gate.weight.T)
    return (rms(o) * layer.norm.weight) @ layer.out.weight.T


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 37])
def test_forward_and_its_gradient_are_those_of_the_recurrence(options: str, length: int) -> None:
    agree(make(options, away=0.3), naive, noise(2, length, DIM))


def tensors(length: int = 23) -> Any:
    q, k = noise(3, length, 4), noise(3, length, 4, seed=2)
    v, f = noise(3, length, 2, 5, seed=3), noise(3, length, 2, seed=4).sigmoid()
    w = torch.eye(5).double() + 0.3 * noise(2, 5, 5, seed=5)
    return [q, k, v, f, w, 0.3 * noise(3, 2, 4, 5, seed=6)]


@pytest.mark.parametrize("clip", [None, 0.3, 1.0])
def test_the_gradient_of_the_states_is_clipped_token_by_token(clip: float | None) -> None:
    leaves = [z.requires_grad_() for z in tensors()]
    ours, theirs = tanh_recurrence(*leaves, clip=clip), rule(*leaves, clip=clip)
    for a, b in zip(ours, theirs, strict=True):
        close(a, b, 1e-12)
    both = [torch.cat([o.flatten(), last.flatten()]) for o, last in (ours, theirs)]
    found, expected = (slopes(y, leaves) for y in both)
    free = slopes(torch.cat([z.flatten() for z in rule(*leaves)]), leaves)
    for a, b, c in zip(found, expected, free, strict=True):
        close(a, b, 1e-10)
        if clip is not None and a is not found[0]:  # no later state depends on q
            assert not torch.allclose(a, c, rtol=1e-3)


def test_replicas_with_transitions_of_their_own_are_the_loop() -> None:
    values = [torch.stack([z, 0.9 * z, 0.8 * z]).requires_grad_() for z in tensors(11)]
    batched = torch.vmap(lambda *z: tanh_recurrence(*z, clip=0.3))(*values)
    loop = [tanh_recurrence(*(z[r] for z in values), clip=0.3) for r in range(3)]
    for a, b in zip(batched, zip(*loop, strict=True), strict=True):
        close(a, torch.stack(b), 1e-13)
    grads = [slopes(y, values) for y in (batched[0], torch.stack([o for o, _ in loop]))]
    for a, b in zip(*grads, strict=True):
        close(a, b, 1e-12)


def test_small_values_without_a_transition_are_a_decayed_sum() -> None:
    q, k, v, f, w, s = tensors()
    o, _ = tanh_recurrence(q, 1e-6 * k, v, f, 0 * w, 0 * s)
    keys = (1 - f)[..., None] * k[:, :, None]
    expected, _ = delta_rule(q[:, :, None].expand_as(keys), keys, v, f.log())
    close(1e6 * o, expected, 1e-9)


def test_small_values_with_the_identity_are_a_sum_without_a_gate() -> None:
    q, k, v, f, w, s = tensors()
    o, _ = tanh_recurrence(q, 1e-6 * k, v, f, torch.eye(5).double().expand_as(w), 0 * s)
    keys = (1 - f)[..., None] * k[:, :, None]
    expected, _ = delta_rule(q[:, :, None].expand_as(keys), keys, v)
    close(1e6 * o, expected, 1e-9)


def test_a_state_continues_and_stays_within_one() -> None:
    layer, x = make(away=0.3), 10 * noise(2, 40, DIM)
    y, state = in_pieces(layer, x, 7, 8, 29)
    whole, last = layer.prefill(x, layer.init_state(2))
    for a, b in zip((y, *state), (whole, *last), strict=True):
        close(a, b, 1e-12)
    assert last[0].abs().max() <= 1


def test_it_starts_as_published_and_refuses_a_clip_of_nothing() -> None:
    layer, d, heads = make(dim=128), 128, 8
    sizes = layer.measure_state(100_000)
    assert (sizes["recurrent"], sizes["conv"]) == (2048, 3 * (2 * 16 + d))
    assert (
        parameters_in(layer) == 3 * d * d + 2 * 16 * d + heads * d + 4 * (d + 32) + 2 * heads + 16 * d + 2 * d
    )
    assert torch.equal(layer.transition, torch.eye(16).double().expand(heads, 16, 16))
    assert bool((layer.skip == 1).all())
    rate = make(dim=2048).log_rate.detach().exp()
    assert rate.min() < 1 and 14 < rate.max() <= 16
    with pytest.raises(ValueError, match="clip=0.*choose a number above 0, or none"):
        get("m2rnn").config({"clip": 0.0})
