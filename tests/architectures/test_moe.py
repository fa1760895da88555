"""The mixture of experts and its router, against a loop over tokens in float64."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import architectures
from architectures.parts.routing import Router, RoutingConfig
from architectures.primitive import Context, Primitive
from tests.architectures.helpers import agree, layer_of, moved, noise, parameters_in, stacked

DIM = 16
make = partial(layer_of, "moe-mlp", dim=DIM)
OPTIONS = [
    "",
    "activation=swiglu",
    "gating=sigmoid, shared=2",
    "gating=sigmoid, balance=bias, top_k=3",
    "balance=bias, experts=5, inner=3",
    "top_k=1",
    "top_k=1, gating=sigmoid",
    "top_k=8",
    "experts=1, top_k=1, shared=1",
]


def perturbed(layer: Any) -> Any:
    """Parameters and the router's bias away from where they start."""
    for i, buffer in enumerate(layer.buffers()):
        buffer.add_(0.2 * noise(*buffer.shape, seed=i + len(list(layer.parameters()))))
    return moved(layer, 0.2)


def weights_of(layer: Any, x: Tensor) -> dict[int, Tensor]:
    """What one token x (D,) gives each expert that it is sent to."""
    config = layer.config
    if config.experts == 1:
        return {0: torch.ones((), dtype=x.dtype)}
    logits = layer.router.weight @ x
    scores = 1 / (1 + torch.exp(-logits)) if config.gating == "sigmoid" else logits.exp() / logits.exp().sum()
    order = scores + layer.router.bias if config.balance == "bias" else scores
    ranked = order.tolist()
    chosen = sorted(range(config.experts), key=lambda e: -ranked[e])[: config.top_k]
    if config.top_k == 1:
        return {chosen[0]: scores[chosen[0]]}
    total = sum(scores[e] for e in chosen)
    return {e: scores[e] / total for e in chosen}


def expert(layer: Any, e: int, x: Tensor) -> Tensor:
    h = layer.up[e] @ x
    if layer.config.activation == "swiglu":
        gate = layer.gate[e] @ x
        return (gate / (1 + torch.exp(-gate)) * h) @ layer.down[e]
    return (h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))) @ layer.down[e]


def naive(layer: Any, x: Tensor) -> Tensor:
    rows = []
    for token in x.flatten(0, 1):
        y: Any = sum(expert(layer, e, token) for e in range(layer.config.shared))
        for e, weight in weights_of(layer, token).items():
            y = y + weight * expert(layer, layer.config.shared + e, token)
        rows.append(y)
    return torch.stack(rows).view_as(x)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("length", [1, 5, 37])
def test_forward_and_its_gradient_are_those_of_the_loop_over_tokens(options: str, length: int) -> None:
    agree(perturbed(make(options)), naive, noise(2, length, DIM), atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_decoding_gathers_the_chosen_experts_and_gives_the_same(options: str, rows: int) -> None:
    layer = perturbed(make(options))
    x = noise(rows, DIM)
    torch.testing.assert_close(layer.step(x, ())[0], layer(x[:, None])[:, 0], rtol=0, atol=1e-12)


def test_one_expert_is_the_dense_mlp_and_has_no_router() -> None:
    for name, activation in (("mlp", "gelu"), ("swiglu", "swiglu")):
        layer = make(f"experts=1, top_k=1, inner=40, activation={activation}")
        dense = layer_of(name, "inner=40", dim=DIM)
        with torch.no_grad():
            dense.up.weight.copy_(layer.up[0])
            dense.down.weight.copy_(layer.down[0].T)
            if activation == "swiglu":
                dense.gate.weight.copy_(layer.gate[0])
        x = noise(2, 5, DIM)
        torch.testing.assert_close(layer(x), dense(x), rtol=0, atol=1e-13)
        assert not any("router" in n for n, _ in layer.named_parameters())
        assert layer.active_params() == parameters_in(dense)


def test_all_experts_chosen_are_the_mixture_by_the_full_softmax() -> None:
    layer = perturbed(make("experts=4, top_k=4"))
    x = noise(3, 7, DIM)
    p = (x @ layer.router.weight.T).softmax(-1)
    mixture = sum(
        p[..., e, None] * torch.stack([expert(layer, e, token) for token in x.flatten(0, 1)]).view_as(x)
        for e in range(4)
    )
    torch.testing.assert_close(layer(x), mixture, rtol=0, atol=1e-12)


@pytest.mark.parametrize("balance", ["loss", "bias"])
def test_the_order_of_the_experts_is_immaterial(balance: str) -> None:
    layer = perturbed(make(f"balance={balance}, gating=sigmoid, activation=swiglu"))
    other, order = make(f"balance={balance}, gating=sigmoid, activation=swiglu"), torch.randperm(8)
    other.load_state_dict({n: t[order] for n, t in layer.state_dict().items()})
    x = noise(2, 9, DIM)
    torch.testing.assert_close(other(x), layer(x), rtol=0, atol=1e-12)


def test_experts_that_are_not_chosen_get_exactly_nothing() -> None:
    # The scores of the public MAD code's example: there the discarded experts get .40 each.
    router: Any = Router(4, RoutingConfig(experts=4, top_k=2)).double()
    with torch.no_grad():
        router.weight.copy_(torch.diag(torch.tensor([-1.0, -2.0, -3.0, -4.0])))
    weights = router(torch.ones(1, 1, 4, dtype=torch.float64))[0, 0]
    first = 1 / (1 + math.exp(-1))
    assert weights[2:].eq(0).all()
    torch.testing.assert_close(weights[:2], torch.tensor([first, 1 - first], dtype=torch.float64))

    layer = make("experts=8, top_k=2, activation=swiglu")
    x = noise(1, 1, DIM)
    layer(x).sum().backward()
    chosen = weights_of(layer, x[0, 0])
    for p in (layer.gate, layer.up, layer.down, layer.router.weight):
        for e in range(8):
            assert (p.grad[e].abs().max() > 0) == (e in chosen)


def test_the_loss_is_its_weight_where_loads_and_scores_are_even() -> None:
    layer = make("experts=4, top_k=1, balance_weight=0.3", dim=16)
    with torch.no_grad():
        layer.router.weight.copy_(torch.eye(4, 16) * 5)
    even = torch.eye(4, 16, dtype=torch.float64)[None]  # each token prefers another expert
    ctx = Context()
    layer(even, ctx)
    key = f"{layer.path}/balance"
    assert list(ctx.losses) == [key] and not ctx.updates
    torch.testing.assert_close(ctx.losses[key], torch.tensor(0.3, dtype=torch.float64))
    uneven = Context()
    layer(even[:, [0, 0, 0, 1]], uneven)
    assert uneven.losses[key] > 0.5
    layer(even, ctx)
    torch.testing.assert_close(ctx.losses[key], torch.tensor(0.6, dtype=torch.float64))


@pytest.mark.parametrize("gating", ["softmax", "sigmoid"])
def test_the_losses_are_those_of_the_papers(gating: str) -> None:
    layer = perturbed(make(f"gating={gating}, top_k=3, z_loss=0.1"))
    x, ctx = noise(2, 11, DIM), Context(seed=1)
    layer(x, ctx)
    tokens = x.flatten(0, 1)
    logits = tokens @ layer.router.weight.T
    scores = logits.softmax(-1) if gating == "softmax" else logits.sigmoid()
    p = (scores / scores.sum(-1, keepdim=True)).mean(0)
    f = torch.zeros(8, dtype=torch.float64)
    for token in tokens:
        for e in weights_of(layer, token):
            f[e] += 1 / (3 * len(tokens))
    torch.testing.assert_close(ctx.losses[f"{layer.path}/balance"], 1e-2 * 8 * (f * p).sum())
    torch.testing.assert_close(
        ctx.losses[f"{layer.path}/z"], 0.1 * logits.exp().sum(-1).log().square().mean()
    )
    assert not ctx.updates
    # Only the scores have a slope: f is a count.
    (slope,) = torch.autograd.grad(ctx.losses[f"{layer.path}/balance"], layer.router.weight)
    (expected,) = torch.autograd.grad(1e-2 * 8 * (f * p).sum(), layer.router.weight)
    torch.testing.assert_close(slope, expected)


def test_the_bias_moves_towards_even_loads_in_training_only_and_never_weighs() -> None:
    layer = make("experts=4, top_k=1, balance=bias, bias_rate=0.25")
    with torch.no_grad():
        layer.router.weight.copy_(torch.eye(4, 16) * 0.1)
    x = torch.eye(4, 16, dtype=torch.float64)[None][:, [0, 0, 0, 1, 2, 2]]  # loads 3, 1, 2, 0; mean 1.5
    still, training = Context(), Context(seed=0)
    layer(x, still)
    layer(x, training)
    assert not still.updates and not still.losses and not training.losses
    name = f"{layer.path}.router.bias"
    assert list(training.updates) == [name] and not training.updates[name].requires_grad
    assert training.updates[name].tolist() == [-0.25, 0.25, -0.25, 0.25]
    layer(x, training)  # twice in a call
    assert training.updates[name].tolist() == [-0.5, 0.5, -0.5, 0.5]
    assert layer.router.bias.eq(0).all()
    before = layer.router(x)
    layer.router.bias.copy_(training.updates[name])
    after = layer.router(x)
    assert set(after.argmax(-1).unique().tolist()) <= {1, 3}
    p = (x @ layer.router.weight.T).softmax(-1)
    torch.testing.assert_close(after.amax(-1), p.gather(-1, after.argmax(-1)[..., None])[..., 0])
    even = Context(seed=0)
    layer.router.bias.zero_()
    layer(torch.eye(4, 16, dtype=torch.float64)[None], even)
    assert even.updates[name].eq(0).all() and before.shape == (1, 6, 4)


def test_outside_of_a_model_the_bias_is_named_from_the_layer() -> None:
    layer = make("balance=bias")
    layer.path, ctx = "", Context(seed=0)
    layer(noise(1, 5, DIM), ctx)
    assert set(ctx.updates) == {"router.bias"} <= {n for n, _ in layer.named_buffers()}


@pytest.mark.parametrize("balance", ["loss", "bias"])
def test_each_replica_has_its_own_losses_updates_and_bias(balance: str) -> None:
    layers = [perturbed(make(f"balance={balance}, z_loss=0.1", seed=s)) for s in range(3)]
    base, x = layers[0], noise(2, 9, DIM)
    parameters: dict[str, Any] = {n: p.requires_grad_() for n, p in stacked(layers).items()}
    buffers = {
        n: torch.stack([dict(layer.named_buffers())[n] for layer in layers]) for n, _ in base.named_buffers()
    }

    def call(parameters: Any, buffers: Any, ctx: Context) -> Any:
        y = torch.func.functional_call(base, (parameters, buffers), (x, ctx))
        return y.square().sum() + sum(ctx.losses.values()), ctx.losses, ctx.updates

    loss, losses, updates = torch.vmap(call, in_dims=(0, 0, None), randomness="same")(
        parameters, buffers, Context(seed=3)
    )
    loss.sum().backward()
    for r, layer in enumerate(layers):
        ctx = Context(seed=3)
        y = layer(x, ctx)
        (y.square().sum() + sum(ctx.losses.values())).backward()
        assert set(losses) == set(ctx.losses) and set(updates) == set(ctx.updates)
        for found, expected in ((losses, ctx.losses), (updates, ctx.updates)):
            for key, value in expected.items():
                torch.testing.assert_close(found[key][r], value)
        for n, p in layer.named_parameters():
            torch.testing.assert_close(parameters[n].grad[r], p.grad)
    assert len(updates) == (balance == "bias")


@pytest.mark.parametrize("scale", [1e4, 1e6])
@pytest.mark.parametrize("options", ["", "gating=sigmoid", "top_k=1", "balance=bias, gating=sigmoid"])
def test_extreme_scores_stay_finite(options: str, scale: float) -> None:
    layer = make(options).float()
    with torch.no_grad():
        layer.router.weight.mul_(scale)
    ctx = Context(seed=0)
    loss = layer(noise(2, 9, DIM).float(), ctx).square().sum() + sum(ctx.losses.values())
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert all(bool(torch.isfinite(p.grad).all()) for p in layer.parameters())


def test_autocast_does_not_change_the_choice() -> None:
    layer = make("top_k=1").float()
    x = noise(8, 64, DIM).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer.router(x)
    assert low.dtype == torch.float32 and torch.equal(low, layer.router(x))


def test_the_start_the_sizes_and_the_counts() -> None:
    layer = make(dim=128)
    assert layer.up.shape == layer.down.shape == (8, 64, 128)
    dense = layer_of("mlp", dim=128)
    total = parameters_in(layer)
    assert total == 8 * 128 + parameters_in(dense) == 8 * 128 + 2 * 128 * 512
    assert layer.active_params() == 8 * 128 + 2 * 2 * 64 * 128
    assert 0.019 < layer.router.weight.std() < 0.021
    assert 0.99 * 128**-0.5 < layer.up.abs().max() <= 128**-0.5
    assert 0.99 / 8 < layer.down.abs().max() <= 1 / 8
    assert layer.flops(10) == 10 * (2 * 8 * 128 + 2 * 64 * (4 * 128 + 1))
    gated = make("activation=swiglu, shared=1, experts=4", dim=128)
    assert gated.gate.shape == gated.up.shape == gated.down.shape == (5, 88, 128)
    assert gated.active_params() == 4 * 128 + 3 * 3 * 88 * 128
    assert gated.flops(10) == 10 * (2 * 4 * 128 + 3 * 88 * (6 * 128 + 2))
    assert not list(layer.buffers()) and [n for n, _ in make("balance=bias").named_buffers()] == [
        "router.bias"
    ]
    assert "router.bias" in make("balance=bias").state_dict()
    found = architectures.account("moe-mlp", vocab_size=7, dim=128, seq_len=16)
    assert found.params - found.embedding - found.active == 6 * 2 * 64 * 128


def test_without_balance_there_is_neither_loss_nor_bias() -> None:
    layer, ctx = make("balance=none"), Context(seed=0)
    assert isinstance(layer, Primitive)
    layer(noise(1, 5, DIM), ctx)
    assert not ctx.losses and not ctx.updates and not list(layer.buffers())


@pytest.mark.slow
def test_the_bias_keeps_loads_more_even_than_nothing() -> None:
    def spread(balance: str) -> float:
        """The largest load over the mean one, after training on tokens of which half are nearly the same."""
        layer = make(f"experts=8, top_k=2, balance={balance}, bias_rate=0.01, gating=sigmoid").float()
        teacher = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(0))
        optimizer = torch.optim.AdamW(layer.parameters(), lr=3e-3)
        loads = torch.zeros(8)
        for step in range(400):
            x = noise(8, 32, DIM, seed=step).float()
            x[:, ::2] = x[:, ::2] * 0.2 + 1
            ctx = Context(seed=0, step=step)
            loss = (layer(x, ctx) - torch.tanh(x @ teacher)).square().mean() + sum(ctx.losses.values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for value in ctx.updates.values():
                layer.router.bias.copy_(value)
            if step >= 300:
                loads += (layer.router(x) > 0).float().sum((0, 1))
        return float(loads.max() / loads.mean())

    found = {balance: spread(balance) for balance in ("bias", "none")}
    assert found["bias"] < 0.8 * found["none"], found
