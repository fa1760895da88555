"""Reversible streams: the inverse, gradients against stored activations, replayed choices, flat memory."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from peak_memory import PeakMemory
from torch import Tensor, nn

import architectures
from architectures.blocks import Block
from architectures.families.wrapper import Wrapper
from architectures.parts import routing
from architectures.parts.norms import RMSNorm
from architectures.primitive import Context, Primitive, choose, option
from architectures.primitives.reversible import Reversible
from tests.architectures.helpers import moved, noise, random_tokens, stacked

BODIES = [
    "mh-attention mlp mh-attention mlp mlp",
    "2*(mh-attention moe-mlp[z_loss=0.1])",
    "2*(lsh-attention moe-mlp[balance=bias])",
    "rwkv7 rwkv7-channel-mix mlp rwkv7",
    "value-residual{delta-net delta-net} repeat{mlp} reversible{mamba moe-mlp}",
    "(mlp + mamba) hyper-connections{mlp product-key-memory}",
]


def model(spec: str, *, dim: int = 32, seed: int = 0) -> Any:
    return moved(architectures.build(spec, vocab_size=7, dim=dim, max_len=64, seed=seed).double(), 0.05)


def tokens(*shape: int) -> Tensor:
    return random_tokens(*shape, vocab=7)


def slopes(
    module: nn.Module, *inputs: Any, seed: int | None = 3
) -> tuple[Tensor, dict[str, Tensor], Context]:
    """Output, gradients of the output and the losses, and the context that was filled."""
    ctx = Context(seed=seed)
    call: Any = module.call if isinstance(module, architectures.SequenceModel) else module
    y = call(*inputs, ctx)
    y = y[0] if isinstance(y, tuple) else y
    module.zero_grad()
    ((y * noise(*y.shape, dtype=y.dtype)).sum() + 10 * sum(ctx.losses.values())).backward()
    return y.detach(), {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}, ctx


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a function with every wrapper keeping its activations."""

    def run(f: Any, *args: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(Reversible, "forward", Wrapper.forward)
            return f(*args)

    return run


def worst(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert set(a) == set(b)
    return max(float((a[n] - b[n]).abs().max() / b[n].abs().max().clamp(min=1e-6)) for n in a)


def test_the_streams_by_their_definition() -> None:
    wrapper = model("reversible{mh-attention mlp mamba}").blocks[0]
    x = noise(2, 9, 32)
    f, g, h = wrapper.body
    a, b = x, x
    a = a + f(b)
    b = b + g(a)
    a = a + h(b)
    torch.testing.assert_close(wrapper(x), (a + b) / 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("body", BODIES)
def test_gradients_are_those_of_stored_activations(body: str, stored: Any) -> None:
    net = model(f"mlp reversible{{{body}}} mlp")
    y, grads, ctx = slopes(net, tokens(2, 19))
    y_, grads_, ctx_ = stored(slopes, net, tokens(2, 19))
    assert torch.equal(y, y_)
    assert len(grads) == len(list(net.parameters())) and worst(grads, grads_) < 1e-9
    assert ctx.losses.keys() == ctx_.losses.keys() and ctx.updates.keys() == ctx_.updates.keys()
    for key, loss in ctx.losses.items():
        torch.testing.assert_close(loss, ctx_.losses[key], rtol=0, atol=0)
    for key, value in ctx.updates.items():
        assert torch.equal(value, ctx_.updates[key])


def test_values_pass_through_to_and_from_the_wrapper(stored: Any) -> None:
    net = model("value-residual{delta-net reversible{mlp delta-net mlp delta-net} delta-net}")
    _, grads, ctx = slopes(net, tokens(2, 19))
    assert worst(grads, stored(slopes, net, tokens(2, 19))[1]) < 1e-9 and ctx.shared == {}
    net = model("reversible{rwkv7 rwkv7-channel-mix} rwkv7 reversible{rwkv7 mlp}")
    assert worst(slopes(net, tokens(2, 19))[1], stored(slopes, net, tokens(2, 19))[1]) < 1e-9


def test_the_loss_of_the_router_is_counted_once_and_trains_it(stored: Any) -> None:
    net = model("reversible{2*(mlp moe-mlp)}")
    ctx = Context()
    net.call(tokens(2, 19), ctx)
    assert sorted(ctx.losses) == [f"blocks.0.body.{i}.layer/balance" for i in (1, 3)]
    grads = torch.autograd.grad(
        torch.stack([*ctx.losses.values()]).sum(), list(net.parameters()), allow_unused=True
    )
    by_name = dict(zip((n for n, _ in net.named_parameters()), grads, strict=True))
    router = by_name["blocks.0.body.3.layer.router.weight"]
    assert router is not None and router.abs().max() > 0


@pytest.mark.parametrize("dtype, drift", [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_the_inverse_recovers_the_input_of_every_block(dtype: torch.dtype, drift: float) -> None:
    net = model("reversible{8*(mh-attention mlp)}").to(dtype)
    seen: list[list[Tensor]] = [[] for _ in net.blocks[0].body]
    for inputs, block in zip(seen, net.blocks[0].body, strict=True):
        block.register_forward_pre_hook(lambda _, args, kept=inputs: kept.append(args[0].detach()))
    slopes(net, tokens(2, 19))
    for first, second in seen:
        assert float((first - second).abs().max() / first.abs().max()) < drift


class Noisy(Primitive):
    """Dropout from the context's noise."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: int = option(0)

    def __init__(self, dim: int, path: str) -> None:
        super().__init__(self.Config(), dim=dim, max_len=64)
        self.path = path
        self.map = nn.Linear(dim, dim)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        y = self.map(x)
        drawn = None if ctx is None else ctx.noise(self.path, tuple(y.shape), y)
        return y if drawn is None else y * (drawn > 0.5) * 2


class Knife(Noisy):
    """A choice that the last bit of x decides."""

    kept = True

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        y = self.map(x)
        mask = (y.detach() * 2.0**60).remainder(2.0**12) > 2.0**11
        return y * (choose(mask, ctx) if self.kept else mask)


class Dropping(Noisy):
    """A user's module, which draws from the global random state."""

    draws = True

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        return nn.functional.dropout(self.map(x), 0.5)


def wrapped(kind: type[Noisy], count: int = 6) -> Reversible:
    torch.manual_seed(0)
    body = [Block(kind(32, f"layer{i}"), RMSNorm(32)) for i in range(count)]
    return Reversible(Reversible.Config(), body=body, dim=32, max_len=64).double()


@pytest.mark.parametrize("kind", [Noisy, Knife, Dropping])
def test_noise_and_choices_are_replayed(kind: type[Noisy], stored: Any) -> None:
    def run() -> tuple[Tensor, dict[str, Tensor], Context]:
        torch.manual_seed(5)
        return slopes(wrapper, x)

    wrapper, x = wrapped(kind), noise(2, 50, 32)
    (y, grads, _), (y_, grads_, _) = run(), stored(run)
    assert torch.equal(y, y_) and worst(grads, grads_) < 1e-9
    y = wrapper(x, Context(seed=3))
    state = torch.get_rng_state()
    y.sum().backward()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_choice_that_is_not_kept_would_turn(stored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of this file can tell."""
    wrapper, x = wrapped(Knife), noise(2, 50, 32)
    truth = stored(slopes, wrapper, x)[1]
    monkeypatch.setattr(Knife, "kept", False)
    assert worst(slopes(wrapper, x)[1], truth) > 1e-3


@pytest.mark.parametrize("kept", [True, False])
def test_experts_near_a_tie_are_chosen_again(
    kept: bool, stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = model("reversible{3*(moe-mlp mlp)}")
    with torch.no_grad():
        for _, layer in net.layers():
            if hasattr(layer, "router"):
                weight = layer.router.weight
                weight.copy_(weight[:1] + 1e-15 * noise(*weight.shape))
    many = tokens(8, 60)
    truth = stored(slopes, net, many)[1]
    if not kept:
        monkeypatch.setattr(routing, "choose", lambda choice, ctx: choice)
    error = worst(slopes(net, many)[1], truth)
    assert error < 1e-9 if kept else error > 1e-3


@pytest.mark.parametrize("outer", ["vmap", "twice"])
def test_replicas_with_their_losses_and_updates(outer: str) -> None:
    """Under one vmap, and under one inside another, against the loop."""
    spec = "reversible{rwkv7 moe-mlp[balance=bias, z_loss=0.1] reversible{mamba mlp} rwkv7}"
    nets = [model(spec, seed=s) for s in range(4)]
    stack = stacked(nets)
    if outer == "twice":
        stack = {n: p.unflatten(0, (2, 2)) for n, p in stack.items()}
    for p in stack.values():
        p.requires_grad_()
    base, rows, weight = copy.deepcopy(nets[0]), tokens(2, 11), noise(2, 11, 7)

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = base

        def forward(self, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            ctx = Context(seed=3)
            y, losses, updates = self.model.call(rows, ctx)
            return (y * weight).sum() + 10 * sum(losses.values()), updates

    objective = Loss()

    def loss(parameters: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        named = {f"model.{n}": p for n, p in parameters.items()}
        return torch.func.functional_call(objective, named, (rows,))

    f = torch.vmap(torch.vmap(loss)) if outer == "twice" else torch.vmap(loss)
    losses, updates = f(stack)
    losses.sum().backward()
    assert updates
    for r, net in enumerate(nets):
        _, grads, ctx = slopes(net, rows)
        found = {n: p.grad.reshape(4, *grads[n].shape)[r] for n, p in stack.items()}  # type: ignore[union-attr]
        assert worst(found, grads) < 1e-9
        for key, value in ctx.updates.items():
            assert torch.equal(updates[key].reshape(4, -1)[r], value)


def test_autocast_is_replayed(stored: Any) -> None:
    def run() -> dict[str, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = wrapper(x)
        wrapper.zero_grad()
        y.square().sum().backward()  # outside, as the trainer does
        return {n: p.grad.clone() for n, p in wrapper.named_parameters()}

    wrapper, x = model("reversible{2*(mh-attention moe-mlp)}").float().blocks[0], noise(2, 19, 32).float()
    truth, seen = stored(run), []
    wrapper.body[0].layer.query.register_forward_hook(lambda _, args, y: seen.append(y.dtype))
    # The recovered input is off by a rounding of float32, which turns a rounding to bfloat16 here and there.
    assert worst(run(), truth) < 0.02
    assert seen == 2 * [torch.bfloat16]


def peak(spec: str) -> int:
    """Bytes beyond the gradients of the parameters."""
    net = architectures.build(spec, vocab_size=7, dim=32, max_len=256, seed=0)
    ids = torch.zeros(1, 256, dtype=torch.int64)
    with PeakMemory() as memory:
        net(ids).square().sum().backward()
    return memory.peak - sum(p.numel() * p.element_size() for p in net.parameters())


def test_activation_memory_is_flat_in_depth() -> None:
    shallow, deep = (peak(f"reversible{{{n}*(mh-attention swiglu)}}") for n in (2, 8))
    assert deep < 1.02 * shallow
    plain = [peak(f"{n}*(mh-attention swiglu)") for n in (2, 8)]
    assert plain[1] > 2.5 * plain[0]
    # A mask of 8 experts per token is kept for each layer, and nothing else.
    shallow, deep = (peak(f"reversible{{{n}*(mlp moe-mlp)}}") for n in (2, 8))
    assert deep - shallow < 1.5 * 6 * 256 * 8


def test_a_slope_of_the_slope_is_refused() -> None:
    wrapper = model("reversible{mlp mlp}").blocks[0]
    (g,) = torch.autograd.grad(
        wrapper(x := noise(1, 3, 32).requires_grad_()).square().sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("body", [BODIES[1], BODIES[3], "mlp reversible{mlp mh-attention}"])
def test_compiled_with_losses_shared_values_and_wrappers_inside(body: str) -> None:
    net = model(f"reversible{{{body}}}")
    rows = tokens(2, 11)

    def run(call: Any) -> dict[str, Tensor]:
        y, losses, _ = call(rows, Context())
        net.zero_grad()
        ((y * noise(*y.shape)).sum() + 10 * sum(losses.values())).backward()
        return {n: p.grad.clone() for n, p in net.named_parameters()}

    torch._dynamo.reset()
    compiled = torch.compile(net.call, backend="aot_eager", fullgraph=True)
    assert worst(run(compiled), run(net.call)) < 1e-9


def test_an_input_that_replicas_share_gets_all_their_gradients() -> None:
    wrappers = [model("reversible{mlp mamba}", seed=s).blocks[0] for s in range(2)]
    x = noise(2, 5, 32).requires_grad_()
    y = torch.vmap(lambda named: torch.func.functional_call(wrappers[0], named, (x,)))(stacked(wrappers))
    (found,) = torch.autograd.grad(y.square().sum(), x)
    expected = sum(torch.autograd.grad(w(x).square().sum(), x)[0] for w in wrappers)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
