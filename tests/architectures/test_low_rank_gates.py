"""Low-rank gates of gated linear attention and the gated delta net: products that may span the full maps."""

from __future__ import annotations

import pytest
import torch

from tests.architectures.helpers import close, layer_of, noise, parameters_in

DIM = 32
LAYERS = ["mh-gated-linear-attention", "gated-delta-net"]


@pytest.mark.parametrize("name", LAYERS)
def test_an_output_gate_of_full_rank_is_the_full_gate_and_its_bias(name: str) -> None:
    low, full = layer_of(name, f"output_rank={DIM}", away=0.1), layer_of(name)
    weights = low.state_dict()
    product = weights.pop("gate.outer.weight") @ weights.pop("gate.inner.weight")
    bias = weights.pop("gate.outer.bias")
    full.load_state_dict(weights | {"gate.weight": product})
    x = noise(2, 19, DIM)
    assert float((low(x) - full(x)).detach().abs().max()) > 1e-3
    with torch.no_grad():
        low.gate.outer.bias.zero_()
    close(low(x), full(x))
    assert bias.shape == (DIM,)


def test_a_decay_of_full_rank_is_one_map() -> None:
    low, full = layer_of(LAYERS[0], "gate_rank=16", away=0.1), layer_of(LAYERS[0], "gate_rank=0")
    weights = low.state_dict()
    weights["decay_out.weight"] @= weights.pop("decay_in.weight")
    full.load_state_dict(weights)
    close(low(noise(2, 19, DIM)), full(noise(2, 19, DIM)))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("rank", [1, 4])
def test_the_rank_sets_the_parameters_and_the_work(name: str, rank: int) -> None:
    low, full = layer_of(name, f"output_rank={rank}, value_dim=24"), layer_of(name, "value_dim=24")
    values = 24 * low.heads
    saved = DIM * values - rank * (DIM + values)
    assert parameters_in(full) - parameters_in(low) == saved - values
    assert full.flops(7) - low.flops(7) == 2 * 7 * saved


@pytest.mark.parametrize("name", LAYERS)
def test_a_negative_rank_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="output_rank=-1 must be at least 0"):
        layer_of(name, "output_rank=-1")
