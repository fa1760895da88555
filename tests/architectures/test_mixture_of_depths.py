"""Mixture of depths by its definition: the body runs on the tokens that were chosen, and on nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import architectures
from architectures.functional.packing import pack, ranks
from architectures.primitive import Context
from architectures.sizes.accounting import account
from tests.architectures.helpers import close, decodes_and_learns, in_pieces, noise, rms, wrapper_of

BODIES = [
    "mh-attention mlp",
    "mamba (mlp + delta-net)",
    "sliding-attention[window=3] repeat{attention[conv=3]}",
    "sequence-altup{delta-net mlp} log-linear-mamba2",
    "hca[window=3,stride=2] csa[window=3,top_k=2,stride=3]",
    "value-residual{delta-net delta-net} mixture-of-depths{mh-attention mlp}",
]


def logits_of(wrapper: Any, x: Tensor) -> Tensor:
    found: Tensor = rms(x) @ wrapper.router + wrapper.bias
    return found


def by_definition(wrapper: Any, x: Tensor) -> Tensor:
    """Row by row: the chosen tokens are taken out, and the body is run on them alone."""
    logits, y = logits_of(wrapper, x), x.clone()
    for b in range(x.shape[0]):
        chosen = [t for t in range(x.shape[1]) if logits[b, t] >= 0]
        if not chosen:
            continue
        h = u = x[b, chosen][None]
        for block in wrapper.body:
            h = h + block(h)
        y[b, chosen] = u[0] + logits[b, chosen, None] * (h - u)[0]
    return y


@pytest.mark.parametrize("body", BODIES)
@torch.no_grad()
def test_it_is_its_definition(body: str) -> None:
    wrapper, x = wrapper_of(f"mixture-of-depths{{{body}}}"), noise(3, 17, 32)
    shares = (logits_of(wrapper, x) >= 0).double().mean(1)
    assert 0 < float(shares.min()) < float(shares.max()) < 1
    close(wrapper(x), by_definition(wrapper, x))


@pytest.mark.parametrize("body", BODIES)
@torch.no_grad()
def test_pieces_and_steps_are_the_same_function(body: str) -> None:
    wrapper, x = wrapper_of(f"mixture-of-depths{{{body}}}"), noise(3, 17, 32)
    for cuts in ((1, 2, 9), range(1, 17)):
        close(in_pieces(wrapper, x, *cuts)[0], wrapper(x))


@torch.no_grad()
def test_a_token_that_is_not_chosen_writes_no_key_and_moves_no_state() -> None:
    wrapper = wrapper_of("mixture-of-depths{mh-attention mamba}")
    x = noise(2, 9, 32)
    _, state = in_pieces(wrapper, x, 8)
    skipped = x[:, 0].clone()
    skipped[0] = -3 * wrapper.router * wrapper.router.norm().reciprocal() - 10 * (wrapper.router > 0).double()
    chosen = logits_of(wrapper, skipped) >= 0
    assert not chosen[0]
    y, after = wrapper.step(skipped, state)
    assert torch.equal(y[0], skipped[0])
    sizes, keys, values, count, *rest = state
    for old, new in zip(state, after, strict=True):
        old, new = old[0], new[0]
        if old.shape != new.shape:  # a place more in a growing cache, which stays empty
            assert not new[-1].any()
            new = new[:-1]
        assert torch.equal(old, new)
    written = (logits_of(wrapper, x) >= 0).sum(1)
    assert torch.equal(count, written) and torch.equal(sizes[:, 0], written)
    assert bool(keys[0, : written[0]].any(-1).any(-1).all()) and not keys[0, written[0] :].any()
    assert values.shape[1] == 9


def test_all_tokens_are_a_plain_residual() -> None:
    whole, x = wrapper_of("mixture-of-depths[capacity=1]{delta-net mlp}", away=0), noise(2, 9, 32)
    repeat = wrapper_of("repeat[times=1]{delta-net mlp}", away=0)
    assert [n for n, _ in whole.named_parameters()] == [n for n, _ in repeat.named_parameters()]
    close(whole(x), repeat(x), 1e-12)


def test_the_chosen_come_first_and_all_keep_their_order() -> None:
    chosen = torch.tensor([[0, 1, 1, 0, 1], [0, 0, 0, 0, 0]]).bool()
    rank = ranks(chosen)
    assert rank.tolist() == [[3, 0, 1, 4, 2], [0, 1, 2, 3, 4]]
    assert pack(torch.arange(5).expand(2, 5), rank).tolist() == [[1, 2, 4, 0, 3], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize("capacity", [0.125, 0.5, 0.8])
def test_the_threshold_starts_near_the_capacity_and_its_loss_brings_it_there(capacity: float) -> None:
    wrapper = wrapper_of(f"mixture-of-depths[capacity={capacity}, loss=1]{{mlp}}", dim=128, away=0)
    x = noise(4, 64, 128)

    def share() -> float:
        return float((logits_of(wrapper, x) >= 0).double().mean())

    assert share() == pytest.approx(capacity, abs=0.15)
    with torch.no_grad():
        wrapper.bias += 2 if capacity < 0.5 else -2
    optimizer = torch.optim.Adam([wrapper.router, wrapper.bias], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        wrapper(x, ctx := Context())
        (loss,) = ctx.losses.values()
        loss.backward()
        optimizer.step()
    assert share() == pytest.approx(capacity, abs=0.02)


@torch.no_grad()
def test_the_loss_is_a_cross_entropy_with_the_best_of_each_row_and_adds_up() -> None:
    wrapper, x = wrapper_of("mixture-of-depths[capacity=0.3, loss=0.5]{mlp}"), noise(3, 10, 32)
    logits = logits_of(wrapper, x)
    target = torch.zeros_like(logits)
    for b in range(3):
        target[b, logits[b].argsort()[-3:]] = 1
    expected = 0.5 * F.binary_cross_entropy(logits.sigmoid(), target)
    wrapper(x, ctx := Context())
    wrapper(x, ctx)
    assert list(ctx.losses) == ["blocks.0/depth"]
    close(ctx.losses["blocks.0/depth"], 2 * expected)
    silent = wrapper_of("mixture-of-depths[loss=0]{mlp}")
    silent(x, ctx := Context())
    assert not ctx.losses


def test_the_layers_inside_are_told_the_tokens_that_they_see() -> None:
    wrapper, x = wrapper_of("mixture-of-depths{mlp}"), noise(2, 9, 32)
    seen: list[Any] = []
    wrapper.body[0].register_forward_pre_hook(lambda _, given: seen.append((given[0], given[1].tokens)))
    tokens = torch.arange(18).reshape(2, 9)
    wrapper(x, Context(tokens=tokens))
    ((u, told),) = seen
    assert torch.equal(u, x.flatten(0, 1)[told])
    count = (logits_of(wrapper, x) >= 0).sum(1)
    assert all(bool((told[b, : count[b]].diff() > 0).all()) for b in range(2))


def test_it_counts_the_tokens_that_pass() -> None:
    half, whole = (
        account(f"mixture-of-depths[capacity={c}]{{mh-attention mlp}}", vocab_size=5, dim=32, seq_len=16)
        for c in (0.5, 1)
    )
    body = account("mh-attention mlp", vocab_size=5, dim=32, seq_len=8)
    expected = sum(layer.flops for layer in body.layers) / 2 + 4 * 32
    assert half.layers[0].flops == expected < 0.6 * whole.layers[0].flops
    assert half.state == whole.state and half.params == whole.params + 33


def test_its_state_is_counted_inside_of_other_wrappers() -> None:
    """On a device without numbers, where nothing can be chosen."""
    own, twice = (
        account(spec, vocab_size=10**7, dim=32, seq_len=16)
        for spec in (
            "mixture-of-depths{mh-attention mamba}",
            "loop[times=2]{mixture-of-depths{mh-attention mamba}}",
        )
    )
    assert own.state is not None and twice.state is not None
    assert {kind: 2 * size for kind, size in own.state.items()} == twice.state


@pytest.mark.parametrize(
    "spec",
    [
        "canon[sites=abcd]{mixture-of-depths{mh-attention swiglu}}",
        "mlp mixture-of-depths{mh-attention (mlp + mamba)} mlp",
        "reversible{mixture-of-depths{mamba mlp}}",
    ],
)
def test_it_decodes_and_learns(spec: str) -> None:
    decodes_and_learns(spec, length=19, steps=9)


@pytest.mark.parametrize(
    "spec, message",
    [
        ("mixture-of-depths[capacity=0]{mlp}", "capacity=0 must be above 0"),
        ("mixture-of-depths[capacity=1.5]{mlp}", "capacity"),
        ("mixture-of-depths[loss=-1]{mlp}", "loss=-1.0 must be at least 0"),
        ("mixture-of-depths{encoder-attention}", "use causal layers"),
    ],
)
def test_what_has_no_meaning_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrapper_of(spec)


def test_values_of_every_token_are_not_to_be_had_inside() -> None:
    spec = "value-residual{delta-net mixture-of-depths{delta-net} delta-net}"
    model = architectures.build(spec, vocab_size=5, dim=32, max_len=8, seed=0)
    with pytest.raises(ValueError, match="put value-residual into its body"):
        model(torch.zeros(1, 4, dtype=torch.int64))
    wrapper_of("value-residual{delta-net mixture-of-depths{mlp} delta-net}")(noise(1, 4, 32))


def test_equal_tokens_are_equal_to_the_loss_whatever_their_logits_are_rounded_to() -> None:
    wrapper = wrapper_of("mixture-of-depths[capacity=0.25]{mlp}")
    logits = torch.tensor([[0.7, -1.0, 0.7, 0.2, -0.4, 0.7, 0.1, -2.0]])
    rounded = logits + 1e-7 * torch.tensor([[0, 0, 1, 0, 0, -1, 0, 0]])
    assert len(set(rounded[0, [0, 2, 5]].tolist())) == 3
    torch.testing.assert_close(wrapper._lag(rounded), wrapper._lag(logits), rtol=0, atol=1e-6)
