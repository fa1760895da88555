"""Sizes: exact counts on a ladder of shapes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import architectures
from scaling.lm.config import language_config
from scaling.lm.cost import cost_of
from scaling.lm.records import LanguageCost
from scaling.study.sizes import APART, BAND, FAR, Size, ladder, preferred_aspect
from tests.scaling.study.fake_training import CORPUS

TRANSFORMER = "mh-attention swiglu"
STRIPE = "3*(mh-gated-linear-attention swiglu) mh-attention swiglu"


def recorded(size: Size) -> LanguageCost:
    """What the trainer counts of a run at this size."""
    run: dict[str, Any] = {"seq_len": 32, "batch_size": 1, "steps": 1, "lr": 1e-3, "device": "cpu"}
    return cost_of(language_config(size.spec, dim=size.dim, corpus=CORPUS, **run))


def targets(centre: float, sizes: int = 5, span: float = 4.0) -> list[float]:
    return [centre * span ** (2 * i / (sizes - 1) - 1) for i in range(sizes)]


@pytest.mark.parametrize("spec", [TRANSFORMER, STRIPE, "mamba2 swiglu", "falcon-h1"])
@pytest.mark.parametrize("centre", [1e5, 1e6])
def test_a_ladder_is_near_its_targets_and_increases(spec: str, centre: float) -> None:
    found = ladder(spec, targets(centre), vocab_size=256, seq_len=64)
    assert all(1 / FAR <= size.params / n <= FAR for size, n in zip(found, targets(centre), strict=True))
    assert all(a.params * APART <= b.params for a, b in zip(found, found[1:], strict=False))
    assert abs(math.log(math.prod(size.params / centre for size in found))) / 5 < math.log(1.25)


def test_depth_is_whole_repetitions_and_width_a_multiple_of_sixteen() -> None:
    pattern = architectures.parse(STRIPE)
    for size in ladder(STRIPE, targets(3e5), vocab_size=256, seq_len=64):
        assert size.layers == size.repeats * len(pattern)
        assert architectures.parse(size.spec) == architectures.scale(pattern, depth=size.layers)
        assert size.dim % 16 == 0


def test_shapes_stay_in_the_stated_band_and_grow_wider_slowly() -> None:
    for n in (3e4, 1e6, 1e8):
        (size,) = ladder(TRANSFORMER, [n], vocab_size=256, seq_len=64)
        assert abs(math.log(size.dim / size.layers / preferred_aspect(n))) <= math.log(min(BAND, 3))
    assert preferred_aspect(64e5) == pytest.approx(16.0)


@pytest.mark.parametrize("spec", [TRANSFORMER, "terraformer"])
def test_counts_are_those_of_the_model_that_is_trained(spec: str) -> None:
    (size,) = ladder(spec, [2e5], vocab_size=CORPUS.vocab_size, seq_len=32)
    model = architectures.build(
        size.spec,
        vocab_size=CORPUS.vocab_size,
        dim=size.dim,
        max_len=32,
        seed=0,
        options=architectures.ModelOptions(readout_sparsity=4) if spec == "terraformer" else None,
    )
    assert size.total == sum(p.numel() for p in model.parameters())
    assert size.params == size.total - model.embedding.weight.numel()


def test_flops_are_three_times_the_forward_pass_and_the_count_of_the_trainer() -> None:
    (size,) = ladder(TRANSFORMER, [1e5], vocab_size=CORPUS.vocab_size, seq_len=32)
    cost = recorded(size)
    assert (size.flops, size.params, size.core) == (cost.flops_per_token, cost.params_counted, cost.core)


@pytest.mark.parametrize("draw, share", [("uniform", 0.527), ("joint", 2.106), ("w0-0-0-1", 1.0)])
def test_a_nested_model_is_planned_and_recorded_at_what_its_steps_do(draw: str, share: float) -> None:
    spec = f"4*(matformer-attention[draw={draw}] matformer-swiglu[draw={draw}])"
    size = ladder(spec, [8e5], vocab_size=CORPUS.vocab_size, seq_len=32)[0]
    whole = architectures.account(size.spec, vocab_size=CORPUS.vocab_size, dim=size.dim, seq_len=32)
    assert size.flops == recorded(size).flops_per_token == whole.training_flops
    assert size.flops / (3 * whole.flops) == pytest.approx(share, abs=0.001)


def test_layers_that_no_step_trains_are_not_planned() -> None:
    with pytest.raises(ValueError, match="give every nested layer the same"):
        ladder("matformer-mlp matformer-mlp[draw=joint]", [5e4], vocab_size=CORPUS.vocab_size, seq_len=32)


def test_a_target_below_the_smallest_shape_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="no size of its own for about 2,000 parameters.*larger budgets"):
        ladder(STRIPE, [2e3, 1e5], vocab_size=256, seq_len=64)


def test_a_pattern_too_coarse_for_two_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="no size of its own.*shorter pattern"):
        ladder(STRIPE, [19_000, 19_500, 20_000, 20_500], vocab_size=256, seq_len=64)


def test_finer_widths_serve_where_sixteens_are_too_coarse_and_the_layers_allow_them() -> None:
    (size,) = ladder("8*mamba", [38_000], vocab_size=64, seq_len=32)
    assert size.dim % 16 and size.dim % 4 == 0
    assert size.params == pytest.approx(38_000, rel=0.2)


def test_counting_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    ladder("hyena swiglu", [1e5], vocab_size=64, seq_len=16)
    assert torch.equal(before, torch.get_rng_state())
