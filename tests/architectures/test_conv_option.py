"""The option `conv` of the time mixers: none, one and many taps keep the two forms of a layer equal."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import architectures
from architectures.primitive import Context
from architectures.registry import get
from tests.architectures.helpers import in_pieces, layer_of, noise

DIM = 32
MIXERS = [
    name
    for name in architectures.names()
    if get(name).mixes == "time"
    and name != "sparse-attention"  # its convolution is over modules too, and the paper's own
    and get(name).cls.causal
    and any(f.name == "conv" for f in dataclasses.fields(get(name).cls.Config))
]
OWN = [name for name in MIXERS if name != "gated-short-conv"]


def make(name: str, conv: int) -> Any:
    return layer_of(name, f"conv={conv}", dim=DIM, max_len=64, away=0.02)


def tail(name: str, conv: int) -> int:
    """Elements that the taps add to the state."""
    return make(name, conv).measure_state(17)["conv"] - make(name, 1).measure_state(17)["conv"]


def fused(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    batch, heads, length, width = q
    return 4 * batch * heads * length * k[2] * width


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("conv", [0, 1, 2, 6])
def test_the_forms_agree_and_every_tap_acts(name: str, conv: int) -> None:
    if name not in OWN and not conv:
        pytest.skip("its taps are the layer")
    layer = make(name, conv)
    x = noise(2, 19, DIM)
    whole = layer(x)
    pieces, _ = in_pieces(layer, x, 3, *range(11, 19))
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-11)
    ctx = Context(seed=0)  # some parameters learn by a loss of their own
    ((layer(x, ctx) * noise(*whole.shape, seed=2)).sum() + sum(ctx.losses.values())).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())


@pytest.mark.parametrize("name", MIXERS)
def test_the_tail_is_one_input_a_tap_but_the_first(name: str) -> None:
    assert tail(name, 6) == 5 * tail(name, 2) > 0
    if name in OWN:
        assert tail(name, 0) == 0


@pytest.mark.parametrize("name", OWN)
def test_without_taps_no_parameter_of_them_is_left(name: str) -> None:
    without, taps = make(name, 0), make(name, 2)
    kept, all_of_them = dict(without.named_parameters()), dict(taps.named_parameters())
    added = set(all_of_them) - set(kept)
    assert set(kept) < set(all_of_them) and set(without.hints()) <= set(kept)
    assert all(not taps.hints()[n].decay for n in added if all_of_them[n].dim() == 2)
    assert sum(all_of_them[n].numel() for n in added) in (2 * tail(name, 2), 3 * tail(name, 2))


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("conv", [0, 2, 6])
def test_the_taps_are_counted(name: str, conv: int) -> None:
    if name not in OWN and not conv:
        pytest.skip("its taps are the layer")
    layer = make(name, conv).float()
    formulas = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: fused}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        layer(noise(1, 37, DIM).float())
    assert counter.get_total_flops() == layer.executed_flops(37) - layer.uncounted_flops(37)
    assert make(name, conv + 3).flops(37) - layer.flops(37) == 2 * 3 * 37 * tail(name, 2)


@pytest.mark.parametrize("name", ["mamba", "hyena", "mh-hyena", "rg-lru"])
def test_one_tap_of_weight_one_is_none(name: str) -> None:
    one, none = make(name, 1), make(name, 0)
    weights = one.state_dict()
    none.load_state_dict({n: w for n, w in weights.items() if "conv" not in n})
    with torch.no_grad():
        for n, p in one.named_parameters():
            if "conv" in n:
                p.fill_(1.0 if p.dim() == 2 else 0.0)
    x = noise(2, 19, DIM)
    torch.testing.assert_close(one(x), none(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", MIXERS)
def test_fewer_taps_than_none_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="conv=-1 must be at least"):
        make(name, -1)
