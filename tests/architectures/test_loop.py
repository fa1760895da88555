"""The loop by its definition, pass by pass; with nothing forgotten and nothing shown, `repeat`."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import architectures
from architectures.sizes.accounting import account
from tests.architectures.helpers import close, decodes_and_learns, noise, rms, wrapper_of

BODY = "delta-net mlp (mlp + mamba)"


def by_definition(wrapper: Any, x: Tensor) -> Tensor:
    config = wrapper.config
    e = rms(x) * wrapper.norm.weight
    h = e if config.start == "input" else torch.zeros_like(x)
    for i in range(config.times):
        fresh = i == 0 and config.start == "zero"
        if config.injection == "add":
            h = h + e
        elif config.injection == "linear":
            h = e @ wrapper.inject.weight.T + (0 if fresh else h @ wrapper.carry.weight.T)
        else:
            step = torch.log(1 + torch.exp(wrapper.step_bias))
            kept = 0 if fresh else torch.exp(-step * torch.exp(wrapper.rate)) * h
            h = kept + step * (e @ wrapper.inject.weight.T)
        for block in wrapper.body:
            h = h + block(h)
    return h @ wrapper.out.weight.T


@pytest.mark.parametrize("start", ["zero", "input"])
@pytest.mark.parametrize("injection", ["diagonal", "add", "linear"])
@pytest.mark.parametrize("times", [1, 3])
@torch.no_grad()
def test_it_is_its_definition(times: int, injection: str, start: str) -> None:
    wrapper = wrapper_of(f"loop[times={times}, injection={injection}, start={start}]{{{BODY}}}")
    x = noise(2, 7, 32)
    close(wrapper(x), by_definition(wrapper, x), 1e-10)


@torch.no_grad()
def test_with_nothing_forgotten_and_nothing_shown_it_is_repeat() -> None:
    wrapper = wrapper_of(f"loop[times=3, start=input]{{{BODY}}}", away=0)
    repeat = wrapper_of(f"repeat[times=3]{{{BODY}}}", away=0)
    repeat.load_state_dict({n: p for n, p in wrapper.state_dict().items() if n.startswith("body.")})
    x = rms(noise(2, 7, 32), eps=1e-6)
    wrapper.rate.fill_(-60.0)
    assert not torch.allclose(wrapper(x), repeat(x))
    wrapper.inject.weight.zero_()
    close(wrapper(x), repeat(rms(x)))


@torch.no_grad()
def test_it_starts_with_a_mix_of_state_and_input() -> None:
    wrapper = wrapper_of("loop[times=2]{mlp}", away=0)
    wrapper.body[0].layer.down.weight.zero_()
    x = noise(2, 3, 32)
    kept = math.sqrt(0.2)
    shown = -math.log(kept)
    assert shown == pytest.approx(0.805, abs=1e-3)
    # float32 of the stored bias.
    close(wrapper(x), (1 + kept) * shown * rms(x), 1e-6)


@torch.no_grad()
def test_the_carried_part_fades_whatever_is_learned() -> None:
    wrapper = wrapper_of("loop[times=2]{mlp}", away=3.0)
    wrapper.body[0].layer.down.weight.zero_()
    h = noise(2, 3, 32)
    assert bool((wrapper._carry(h).abs() < h.abs()).all())


def test_passes_cost_work_and_state_and_no_parameters() -> None:
    once, thrice = (
        account(f"loop[times={n}, start=input]{{mamba swiglu}}", vocab_size=5, dim=32, seq_len=16)
        for n in (1, 3)
    )
    assert once.params == thrice.params
    assert once.state and thrice.state and thrice.state["total"] == 3 * once.state["total"] > 0
    body = account("mamba swiglu", vocab_size=5, dim=32, seq_len=16)
    # A carried pass: a factor and a sum; the input is mapped and scaled once.
    assert thrice.layers[0].flops - once.layers[0].flops == 2 * sum(x.flops for x in body.layers) + 2 * 2 * 32
    hints = architectures.build("loop{mlp}", vocab_size=5, dim=32, max_len=8, seed=0).hints()
    own = ("rate", "step_bias", "inject.weight", "out.weight")
    assert not any(hints[f"blocks.0.{name}"].decay for name in own)


@pytest.mark.parametrize("injection", ["diagonal", "add", "linear"])
def test_it_decodes_and_learns(injection: str) -> None:
    spec = f"mlp loop[times=3, injection={injection}]{{mh-attention (mlp + mamba)}} mlp"
    decodes_and_learns(spec, length=19, steps=5)
    nested = f"repeat{{loop[times=2, injection={injection}]{{mamba mlp}}}}"
    decodes_and_learns(nested, length=9, steps=4)


def test_no_pass_is_refused() -> None:
    with pytest.raises(ValueError, match="times=0 must be at least 1"):
        wrapper_of("loop[times=0]{mlp}")
