"""Sequence-AltUp by its definition, token by token, and in pieces of any length."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import architectures
from architectures.sizes.accounting import account
from tests.architectures.helpers import close, decodes_and_learns, in_pieces, noise, unroll, wrapper_of

BODY = "mh-attention mlp gated-delta-net swiglu"


def by_definition(wrapper: Any, x: Tensor) -> Tensor:
    stride = wrapper.config.stride
    for n, block in enumerate(wrapper.body):
        (a1, a2), b = wrapper.a[n], wrapper.b[n]
        chosen = [t for t in range(x.shape[1]) if t % stride == 0]
        short = torch.stack([x[:, t] for t in chosen], dim=1)
        computed = short + block(short)
        predicted = torch.zeros_like(x)
        for t in range(x.shape[1]):
            predicted[:, t] = a1 * x[:, t] + a2 * x[:, stride * (t // stride)]
        new = torch.zeros_like(x)
        for t in range(x.shape[1]):
            anchor = stride * (t // stride)
            new[:, t] = predicted[:, t] + b * (computed[:, t // stride] - predicted[:, anchor])
        x = new
    return x


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17])
@torch.no_grad()
def test_it_is_its_definition(stride: int, length: int) -> None:
    wrapper = wrapper_of(f"sequence-altup[stride={stride}]{{{BODY}}}")
    x = noise(2, length, 32)
    close(wrapper(x), by_definition(wrapper, x))


@pytest.mark.parametrize("own", [1.0, 0.25])
def test_stride_1_is_the_base(own: float) -> None:
    base = architectures.build(BODY, vocab_size=5, dim=32, max_len=64, seed=0).double()
    wrapper = wrapper_of(f"sequence-altup[stride=1]{{{BODY}}}", away=0.0)
    wrapper.body.load_state_dict(base.blocks.state_dict())
    with torch.no_grad():
        wrapper.a.copy_(torch.tensor([own, 1 - own]))
    x = expected = noise(2, 19, 32)
    for block in base.blocks:
        expected = expected + block(expected)
    close(wrapper(x), expected, atol=0.0 if own == 1 else 1e-12)


def test_at_the_start_every_token_adds_what_its_anchor_adds() -> None:
    wrapper = wrapper_of("sequence-altup[stride=3]{mlp}", away=0.0)
    x = noise(2, 8, 32)
    added = wrapper.body[0](x)
    close(wrapper(x) - x, added[:, [0, 0, 0, 3, 3, 3, 6, 6]])


@pytest.mark.parametrize("stride", [2, 3, 5])
def test_the_future_never_reaches_the_past(stride: int) -> None:
    wrapper = wrapper_of(f"sequence-altup[stride={stride}]{{{BODY}}}")
    x = noise(1, 13, 32)
    before = wrapper(x).detach()
    for t in range(13):
        changed = x.clone()
        changed[:, t] += 1
        after = wrapper(changed).detach()
        assert torch.equal(after[:, :t], before[:, :t])
        assert (after[:, t] != before[:, t]).all(), "the token itself is heard"
        # A token that is not an anchor is heard by no other one.
        assert torch.equal(after[:, t + 1 :], before[:, t + 1 :]) == (t % stride != 0 or t == 12)


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@torch.no_grad()
def test_pieces_of_any_length_are_the_whole(stride: int) -> None:
    wrapper = wrapper_of(f"sequence-altup[stride={stride}]{{{BODY}}}")
    x = noise(2, 23, 32)
    whole = wrapper(x)
    for pieces in ([1] * 23, [2] * 11 + [1], [3, 1, 7, 1, 1, 10], [4, 4, 4, 11], [5, 18], [23]):
        close(in_pieces(wrapper, x, *accumulate(pieces[:-1]))[0], whole)


@torch.no_grad()
def test_the_body_runs_on_anchors_only_and_its_cache_holds_them_only() -> None:
    wrapper = wrapper_of(f"sequence-altup[stride=3]{{{BODY}}}")
    calls: list[int] = []
    layer = wrapper.body[0].layer
    plain = layer.prefill
    layer.prefill = lambda x, *rest: calls.append(x.shape[1]) or plain(x, *rest)  # type: ignore[func-returns-value]
    state = wrapper.init_state(1)
    for t in range(10):
        before = state
        _, state = wrapper.step(noise(1, 32, seed=t), state)
        moved = [a is not b for a, b in zip(before, state, strict=True)]
        assert state[-1].shape == (1, (t + 1) % 3, 0)
        assert any(moved[:-5]) == (t % 3 == 0), "only the states of the body"
        assert state[0].shape[1] == t // 3 + 1
    assert calls == [1, 1, 1, 1]
    del layer.prefill
    seen: list[int] = []
    layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    wrapper(noise(1, 10, 32))
    assert seen == [4]


@pytest.mark.parametrize("how", ["vmap", "compile"])
@pytest.mark.filterwarnings("default")
def test_steps_are_batched_and_compiled(how: str) -> None:
    wrapper = wrapper_of(f"sequence-altup[stride=2]{{{'delta-net mlp' if how == 'vmap' else 'mlp'}}}")
    x = noise(4, 3, 32)

    def three(rows: Tensor) -> Tensor:
        return unroll(wrapper, rows)[0]

    if how == "vmap":
        found = torch.vmap(three)(x.view(2, 2, 3, 32)).view(4, 3, 32)
    else:
        torch._dynamo.reset()
        found = torch.compile(three, backend="aot_eager", fullgraph=True)(x)
    close(found, wrapper(x))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_its_cost(stride: int) -> None:
    spec = f"sequence-altup[stride={stride}]{{{BODY}}}"
    base = account(BODY, vocab_size=5, dim=32, seq_len=21)
    short = account(BODY, vocab_size=5, dim=32, seq_len=-(-21 // stride))
    found = account(spec, vocab_size=5, dim=32, seq_len=21)
    assert found.params == base.params + 3 * 4
    assert found.state is not None and short.state is not None
    assert found.state["growing"] == short.state["growing"]
    assert found.state["recurrent"] == short.state["recurrent"] + 4 * 32
    assert found.nominal == short.nominal + 4 * 32  # type: ignore[operator]
    grown = "log-linear-gated-delta-net"  # its parameters and its state depend on the most tokens
    wrapped = account(f"sequence-altup[stride={stride}]{{{grown}}}", vocab_size=5, dim=32, seq_len=21)
    bare = account(grown, vocab_size=5, dim=32, seq_len=-(-21 // stride))
    assert wrapped.nominal == bare.nominal + 32  # type: ignore[operator]
    assert wrapped.params == bare.params + 3
    layer = found.layers[0]
    inside = sum(a.flops for a in short.layers) * -(-21 // stride)
    assert layer.flops * 21 == inside + 4 * 2 * 32 * (2 * -(-21 // stride) + 21)
    wrapper = wrapper_of(spec).float()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        wrapper.body[0](noise(1, wrapper.anchors(21), 32).float())
    attention = counter.get_total_flops()
    wrapper = wrapper_of(f"sequence-altup[stride={stride}]{{mlp swiglu}}").float()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        wrapper(noise(1, 21, 32).float())
    assert attention > 0 and counter.get_total_flops() == wrapper.executed_flops(
        21
    ) - wrapper.uncounted_flops(21)


def test_the_coefficients_learn_and_are_not_decayed() -> None:
    model = architectures.build("sequence-altup{mlp mlp}", vocab_size=5, dim=32, max_len=64, seed=0)
    hints = model.hints()
    assert not hints["blocks.0.a"].decay and not hints["blocks.0.b"].decay
    wrapper = wrapper_of("sequence-altup{mlp mlp}")
    (wrapper(noise(2, 5, 32)) * noise(2, 5, 32, seed=3)).sum().backward()
    assert bool((wrapper.a.grad != 0).all()) and bool((wrapper.b.grad != 0).all())
    assert wrapper_of("sequence-altup{mlp}", away=0.0).a.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(
    "spec",
    [
        "sequence-altup{mh-attention moe-mlp} swiglu",
        "mlp 2*sequence-altup[stride=3]{repeat{delta-net} (mlp + mamba)}",
        "sequence-altup{sequence-altup[stride=3]{mh-attention} altup[recycled=true]{mlp}}",
        "altup{sequence-altup{mh-attention mlp} mlp}",
        "(sequence-altup{hyena} + mlp) mlp",
    ],
)
def test_it_composes(spec: str) -> None:
    decodes_and_learns(spec)


def test_a_stride_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="stride=0 must be at least 1"):
        wrapper_of("sequence-altup[stride=0]{mlp}")
