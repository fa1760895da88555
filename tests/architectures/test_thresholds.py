"""Thresholds on what maps read: which inputs count as zero, how many, and where the share is put."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.elastic import speculate
from architectures.thresholds import balance, calibrate, decode, maps, thresholded
from tests.architectures.helpers import close, model_of

SPEC = "mh-attention swiglu moe-mlp"
EVERY = ["query", "key", "value", "out"]


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(7, shape, generator=torch.Generator().manual_seed(seed))


def inputs_of(model: Any, name: str, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, given: found.append(given[0]))
    model(x)
    handle.remove()
    return torch.cat(found)


def test_the_maps_inside_of_layers_have_thresholds_and_nothing_else() -> None:
    model = model_of(SPEC)
    attention = [f"blocks.0.layer.{name}" for name in EVERY]
    assert list(maps(model)) == attention + [f"blocks.1.layer.{name}" for name in ("gate", "up", "down")]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 1.0])
@torch.no_grad()
def test_the_share_is_left_out_where_it_was_calibrated(share: float) -> None:
    model, x = model_of(SPEC), tokens(4, 24)
    thresholds = calibrate(model, x, share)
    assert set(thresholds) == set(maps(model))
    for name, threshold in thresholds.items():
        sizes = inputs_of(model, name, x).abs()
        assert float((sizes <= threshold).double().mean()) == pytest.approx(share, abs=0.02)
    first = {name: t for name, t in thresholds.items() if name.endswith(("query", "key", "value"))}
    with thresholded(model, first) as tally:
        model(x)
    assert tally.share == pytest.approx(share, abs=0.02)


@torch.no_grad()
def test_what_is_small_counts_as_zero_and_what_is_large_as_it_is() -> None:
    model, x = model_of("swiglu"), tokens(2, 9)
    layer = model.blocks[0].layer
    u = model.blocks[0].norm(model.embedding(x))
    names = {"gate": 0.4, "up": 0.8, "down": 0.1}

    def cut(z: Tensor, name: str) -> Tensor:
        return z * (z.abs() > names[name])

    inner = torch.nn.functional.silu(cut(u, "gate") @ layer.gate.weight.T) * (
        cut(u, "up") @ layer.up.weight.T
    )
    expected = model.embedding(x) + cut(inner, "down") @ layer.down.weight.T
    with thresholded(model, {f"blocks.0.layer.{name}": t for name, t in names.items()}):
        close(model(x), model._read(expected))
    assert not any(module._forward_pre_hooks for module in model.modules())


@torch.no_grad()
def test_a_threshold_of_zero_changes_nothing_and_the_model_is_left_as_it_was() -> None:
    model, x = model_of(SPEC), tokens(2, 9)
    before = model(x)
    with thresholded(model, calibrate(model, x, 0.0)):
        assert torch.equal(model(x), before)
    with pytest.raises(RuntimeError), thresholded(model, calibrate(model, x, 0.7)):
        assert not torch.equal(model(x), before)
        raise RuntimeError
    assert torch.equal(model(x), before)


@torch.no_grad()
def test_the_thresholds_hold_in_steps_as_in_whole_rows() -> None:
    model, x = model_of("mh-attention mlp mamba"), tokens(2, 12)
    with thresholded(model, calibrate(model, x, 0.5)):
        whole, state = model(x), model.init_state(2)
        for t in range(12):
            logits, state = model.step(x[:, t], state)
            close(logits, whole[:, t])


@torch.no_grad()
def test_balance_gives_every_layer_its_share_and_errs_less_than_one_share_for_all() -> None:
    model, x = model_of("mh-attention swiglu"), tokens(8, 24)
    # Half of the inner units say next to nothing: what the last map reads of them can be left out.
    model.blocks[1].layer.gate.weight[::2] *= 1e-3
    shares = balance(model, x, 0.2)
    for i in range(2):
        inside = {n: m.weight.numel() for n, m in maps(model).items() if n.startswith(f"blocks.{i}")}
        left_out = sum(shares[n] * size for n, size in inside.items())
        assert left_out == pytest.approx(0.2 * sum(inside.values()))
    assert all(0 <= share <= 1 for share in shares.values())
    assert shares["blocks.1.layer.down"] > 0.4 > shares["blocks.1.layer.gate"]

    def error(shares: Any) -> float:
        with thresholded(model, calibrate(model, x, shares)) as tally:
            moved = float((model(x) - whole).norm())
        assert tally.share == pytest.approx(0.2, abs=0.03)
        return moved

    model = model_of("swiglu")
    model.blocks[0].layer.gate.weight[::2] *= 1e-3
    whole = model(x)
    assert error(balance(model, x, 0.2)) < 0.7 * error(0.2)


@torch.no_grad()
def test_balance_takes_the_map_that_matters_least_first() -> None:
    model, x = model_of("mh-attention"), tokens(4, 16)
    model.blocks[0].layer.query.weight.zero_()
    shares = balance(model, x, 0.25)
    assert shares["blocks.0.layer.query"] == 1.0 and sum(shares.values()) == pytest.approx(1.0)
    assert not any(balance(model, x, 0.0).values())


@torch.no_grad()
def test_decoding_reads_the_prompt_whole_and_then_by_thresholds() -> None:
    model, x = model_of("mh-attention mlp", max_len=24), tokens(2, 8)
    logits, state = model.prefill(x, model.init_state(2))
    expected = [logits[:, -1].argmax(-1)]
    thresholds = calibrate(model, x, 0.6)
    with thresholded(model, thresholds):
        for _ in range(9):
            logits, state = model.step(expected[-1], state)
            expected.append(logits.argmax(-1))
    assert torch.equal(decode(model, x, 10, thresholds), torch.stack(expected, dim=1))
    plain = decode(model, x, 10)
    assert torch.equal(plain, decode(model, x, 10, calibrate(model, x, 0.0)))
    for layers in ("mh-attention mlp", "matformer-attention mlp"):
        model = model_of(layers, max_len=24)
        found = speculate(model, x, 10, thresholds=calibrate(model, x, 0.5))
        assert torch.equal(found.tokens, decode(model, x, 10)) and found.drafted
    model = model_of("mh-attention mlp", max_len=24)
    rough = speculate(model, x, 10, thresholds=calibrate(model, x, 0.95))
    assert rough.accepted < rough.drafted and torch.equal(rough.tokens, decode(model, x, 10))
    same = speculate(model_of("mamba", max_len=24), x, 10, thresholds={"blocks.0.layer.out": 0.0})
    assert same.accepted == same.drafted


def test_what_has_no_meaning_is_refused() -> None:
    model, x = model_of(SPEC), tokens(2, 9)
    with pytest.raises(ValueError, match="a share of 1.5 is not between 0"):
        calibrate(model, x, 1.5)
    with pytest.raises(ValueError, match="a share of -1 is not between 0"):
        balance(model, x, -1)
    with pytest.raises(ValueError, match="step=0 must be above 0"):
        balance(model, x, 0.5, step=0)
    with pytest.raises(ValueError, match="unknown map 'blocks.0.layer.qery'; did you mean 'blocks.0.layer"):
        calibrate(model, x, {"blocks.0.layer.qery": 0.5})
    with pytest.raises(ValueError, match="count=0 must be at least 1"):
        decode(model, x, 0)
    with pytest.raises(ValueError, match="moe-mlp has no map to set a threshold for"):
        calibrate(model_of("moe-mlp"), x, 0.5)
    with pytest.raises(ValueError, match="thresholds takes a SequenceModel"):
        maps(torch.nn.Linear(3, 3))  # type: ignore[arg-type]


@torch.no_grad()
def test_layers_that_run_several_times_have_one_threshold_for_all_passes() -> None:
    model, x = model_of("repeat[times=3]{mlp}"), tokens(3, 16)
    (name, threshold), *_ = calibrate(model, x, 0.5).items()
    assert float((inputs_of(model, name, x).abs() <= threshold).double().mean()) == pytest.approx(
        0.5, abs=1e-2
    )
    assert balance(model, x, 0.5)[name] <= 1
