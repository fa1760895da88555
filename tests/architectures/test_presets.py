"""Every preset is an architecture; those of the MAD study are what the study says of them."""

from __future__ import annotations

import pytest
import torch

import architectures
from architectures.grammar.presets import PRESETS, _canon_study, _linear_hybrids, _mad_study, _striped
from architectures.registry import get


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_can_be_built_and_counted(name: str) -> None:
    with torch.device("meta"):
        model = architectures.build(name, vocab_size=7, dim=64, max_len=24, seed=0)
        assert model(torch.zeros(2, 24, dtype=torch.int64, device="meta")).shape == (2, 24, 7)
    counted = architectures.account(name, vocab_size=7, dim=64, seq_len=24)
    assert counted.params == sum(p.numel() for p in model.parameters())
    assert counted.state is not None and counted.flops > 0 and PRESETS[name].about


def test_the_study_has_21_architectures() -> None:
    assert len(_mad_study()) == 21
    assert len({str(architectures.parse(name)) for name in _mad_study()}) == 21


@pytest.mark.parametrize("name", sorted(_mad_study()))
def test_two_fixed_state_mixers_of_the_study_hold_4096_elements(name: str) -> None:
    counted = architectures.account(name, vocab_size=7, dim=128, seq_len=128)
    mixers = [layer for layer in architectures.parse(name).walk() if get(layer.name).mixes == "time"]
    attention = sum(layer.name == "mh-attention" for layer in mixers)
    assert len(mixers) == (4 if name == "mad-mamba" else 3 if "mamba" in name else 2)
    if "linear-attention" in name:
        assert counted.nominal == 2048  # 16 heads of 8 x 8, as published
    else:
        assert counted.nominal == {0: 4096, 1: 2048, 2: 0}[attention]


# The public code's layers at width 128 and length 128 in their proper form; docs/protocol.md has the rest.
@pytest.mark.parametrize(
    "name, params",
    [
        ("mad-hyena", {"hyena": 124_348, "swiglu": 3 * 128 * 512}),
        ("mad-mh-hyena", {"mh-hyena": 30_862 + 8 + 16, "swiglu": 3 * 128 * 512}),
        ("mad-hyena-experts-moe", {"hyena-experts": 57_464 - 8, "moe-mlp": 3 * 8 * 16 * 128 + 8 * 128}),
        ("mad-linear-attention", {"mh-linear-attention": 4 * 128**2 + 8 + 2 * 16 * 8 * 16}),
    ],
)
def test_the_layers_of_the_study_have_the_parameters_of_the_public_code(
    name: str, params: dict[str, int]
) -> None:
    counted = architectures.account(name, vocab_size=7, dim=128, seq_len=128)
    assert {layer.name: layer.params for layer in counted.layers}.items() >= params.items()


@pytest.mark.parametrize("name", sorted(_striped()))
def test_the_share_of_attention_is_that_of_the_name(name: str) -> None:
    layers = list(architectures.parse(name).walk())
    attention = sum(layer.name == "mh-attention" for layer in layers)
    # Two mambas stand for a mixer and a channel mixer.
    share = attention / (len(layers) / 2)
    assert f"-{100 * share:.0f}" in name
    assert ("moe-mlp" in {layer.name for layer in layers}) == name.endswith("-moe")
    deep = architectures.scale(name, depth=48)
    assert len(deep) == 48


def test_the_canon_study_has_four_families_without_and_with_canon() -> None:
    families = "llama", "gla5", "gdn2-lowrank", "mamba2"
    plain = {"mamba2-conv" if family == "mamba2" else family for family in families}
    assert set(_canon_study()) == plain | {f"{family}-canon" for family in families}


@pytest.mark.parametrize("dim", [128, 256, 512])
@pytest.mark.parametrize("name", sorted(_canon_study()))
def test_states_of_the_canon_study_are_equal_at_every_width(name: str, dim: int) -> None:
    counted = architectures.account(name, vocab_size=7, dim=dim, seq_len=128)
    own = {"llama": 0, "gla5": 12 * dim, "gdn2-lowrank": 12 * dim, "mamba2": 3 * (2 * dim + 32)}
    family = name.removesuffix("-canon").removesuffix("-conv")
    recurrent, conv = (0 if family == "llama" else 32 * dim), own[family]
    if name.endswith("-canon"):
        inner = (
            32 * -(-8 * dim // 48) if family == "llama" else 4 * dim
        )  # 8/3 of the width in sixteens, twice
        conv += 3 * dim + 3 * dim + 3 * inner + (9 * dim if family == "llama" else 0)
    assert counted.state is not None
    assert (counted.nominal, counted.state["recurrent"]) == (2 * recurrent, 2 * recurrent)
    assert counted.state["conv"] == 2 * conv
    if dim == 512 and family != "llama":  # mixer and MLP of 6 D^2 each, and what is less than linear in them
        assert 1 < counted.core / (2 * 12 * dim**2) < 1.03


def test_hybrids_of_the_linear_mixers_hold_one_period_and_end_in_attention() -> None:
    assert len(_linear_hybrids()) == 6 * 4
    for name in _linear_hybrids():
        layers = [layer.name for layer in architectures.parse(name).walk()]
        ratio = int(name.split("-")[-2])
        assert layers[-2:] == ["mh-attention", "swiglu"] and len(layers) == 2 * ratio + 2
        assert layers.count("mh-attention") == 1 and len(set(layers)) == 3 and ratio in (24, 12, 6, 3)


def test_the_canon_study_has_the_layers_of_its_public_code() -> None:
    d, heads, rank = 128, 8, 16
    taps = 4 * 4 * d
    gate = rank * d + 2 * d * rank + 2 * d
    mixers = {
        "gla5": 6 * d**2 + taps + gate + 2 * rank * d + d + 32,
        "gdn2-lowrank": 6 * d**2 + taps + gate + 2 * d * heads + 2 * heads + 32,
        "mamba2-conv": d * (4 * d + 2 * 16 + heads) + 2 * d**2 + 5 * (2 * d + 32) + 3 * heads + 2 * d,
    }
    for name, params in mixers.items():
        mixer, channel, *_ = architectures.account(name, vocab_size=7, dim=d, seq_len=128).layers
        assert (mixer.params, channel.params) == (params, 6 * d**2)
    model = architectures.build("llama-canon", vocab_size=7, dim=d, max_len=8, seed=0)
    attention = model.get_submodule("blocks.0.body.0.layer")
    assert (attention.heads, attention.rotated, model.norm.eps) == (8, 4, 1e-5)
