"""Attention residuals by their definition, token by token; as they start, the plain residual."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import architectures
from architectures.sizes.accounting import account
from tests.architectures.helpers import close, decodes_and_learns, noise, rms, wrapper_of

BODY = "delta-net mlp mh-attention swiglu mlp"


def by_definition(wrapper: Any, x: Tensor) -> Tensor:
    """Every source of every mixture, summed up anew from the outputs of its group."""
    group = wrapper.config.block
    outputs: list[Tensor] = []

    def mixture(i: int) -> Tensor:
        starts = range(0, len(outputs), group)
        sources = [x, *(torch.stack(outputs[a : a + group]).sum(0) for a in starts)]
        mixed = torch.zeros_like(x)
        for b in range(x.shape[0]):
            for t in range(x.shape[1]):
                norms = [rms(r[b, t]) * wrapper.scale[i] for r in sources]
                scores = torch.stack([(wrapper.query[i] * norm).sum() for norm in norms])
                p = torch.exp(scores) / torch.exp(scores).sum()
                mixed[b, t] = len(sources) * sum(p[j] * r[b, t] for j, r in enumerate(sources))
        return mixed

    for i, block in enumerate(wrapper.body):
        outputs.append(block(mixture(i - 1) if i else x))
    return mixture(len(wrapper.body) - 1)


@pytest.mark.parametrize("group", [1, 2, 3, 7])
@torch.no_grad()
def test_it_is_its_definition(group: int) -> None:
    wrapper = wrapper_of(f"attn-res[block={group}]{{{BODY}}}")
    x = noise(2, 5, 32)
    close(wrapper(x), by_definition(wrapper, x))


@pytest.mark.parametrize("body", [BODY, "mlp", "repeat{mlp} (mamba + mlp) hyper-connections{mlp mlp}"])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_it_starts_as_the_plain_residual(group: int, body: str) -> None:
    wrapper = wrapper_of(f"attn-res[block={group}]{{{body}}}", away=0)
    x = expected = noise(2, 11, 32)
    for block in wrapper.body:
        expected = expected + block(expected)
    close(wrapper(x), expected)


def test_a_large_query_picks_one_source() -> None:
    wrapper = wrapper_of("attn-res{mlp mlp}", away=0)
    x = noise(1, 1, 32)
    with torch.no_grad():
        wrapper.query[0] = 1e3 * rms(x)[0, 0]  # far more like x than like what the first block wrote
        close(wrapper.body[1](2 * x), wrapper.body[1](x), 1e-6)
        seen: list[Tensor] = []
        wrapper.body[1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        wrapper(x)
    close(seen[0], 2 * x)


def test_a_source_that_is_silent_or_loud_stays_finite() -> None:
    wrapper = wrapper_of("attn-res{mlp mlp}")
    x = torch.cat([torch.zeros(1, 1, 32), 1e4 * torch.ones(1, 1, 32)], dim=1).double().requires_grad_()
    (gradient,) = torch.autograd.grad(wrapper(x).square().sum(), x)
    assert bool(gradient.isfinite().all())


def test_it_has_two_vectors_for_each_block_and_no_state_of_its_own() -> None:
    plain, mixed = (
        account(spec, vocab_size=5, dim=32, seq_len=16)
        for spec in ("mamba mlp swiglu", "attn-res{mamba mlp swiglu}")
    )
    assert mixed.params == plain.params + 3 * 2 * 32
    assert mixed.state == plain.state
    own = mixed.flops - plain.flops
    # 2 + 3 + 4 sources, a product and a weighted sum each; sums of no group.
    assert own == 9 * 4 * 32
    model = architectures.build("attn-res{mlp mlp}", vocab_size=5, dim=32, max_len=8, seed=0)
    assert not any(model.hints()[f"blocks.0.{name}"].decay for name in ("query", "scale"))


def test_it_decodes_and_learns() -> None:
    decodes_and_learns("attn-res[block=2]{mh-attention mlp delta-net swiglu} mlp", length=23, steps=9)


def test_a_group_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="block=0 must be at least 1"):
        wrapper_of("attn-res[block=0]{mlp}")
