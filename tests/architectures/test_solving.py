"""Solving for equal sizes: what is found is measured on models that are really built."""

from __future__ import annotations

import pytest
import torch

import architectures
from architectures import solve
from architectures.accounting import account_model
from architectures.solving import TOLERANCE, _nearest


def measured(solution: architectures.Solution, seq_len: int = 128) -> architectures.Account:
    model = architectures.build(solution.spec, vocab_size=16, dim=solution.dim, max_len=seq_len, seed=0)
    return account_model(model, seq_len)


# The published point: 4,096 elements in all at width 128 (arXiv:2403.17844, section 3.2).
@pytest.mark.parametrize(
    "spec",
    [
        "4*mamba",
        "2*(hyena swiglu)",
        "2*(mh-hyena swiglu)",
        "2*(mh-gated-linear-attention swiglu)",
        "2*(gated-delta-net mlp)",
    ],
)
def test_the_published_settings_have_4096_elements_already(spec: str) -> None:
    solution = solve(spec, state=4096)
    assert solution.spec == architectures.parse(spec) and solution.dim == 128
    assert solution.errors == {"state": 0.0} and measured(solution).nominal == 4096


@pytest.mark.parametrize("state", [1024, 2048, 12_288])
@pytest.mark.parametrize(
    "spec", ["mamba swiglu hyena swiglu", "2*(delta-net mlp)", "(mamba + delta-net) mlp"]
)
def test_state_is_shared_equally(spec: str, state: int) -> None:
    solution = solve(spec, state=state)
    counted = measured(solution)
    assert counted.nominal is not None and abs(counted.nominal / state - 1) <= TOLERANCE
    shares = [layer.nominal for layer in counted.layers if layer.nominal]
    assert max(shares) - min(shares) <= 2 * TOLERANCE * state, "equal shares"


def test_total_state_counts_the_tails_of_convolutions() -> None:
    solution = solve("2*(gated-delta-net swiglu)", total_state=12_000)
    counted = measured(solution)
    assert counted.state is not None and abs(counted.state["total"] / 12_000 - 1) <= TOLERANCE
    assert counted.nominal is not None and counted.nominal < counted.state["total"]


@pytest.mark.parametrize("goal", [20_000, 300_000, 5_000_000])
@pytest.mark.parametrize("spec", ["2*(mh-attention swiglu)", "4*mamba", "hyena mlp mamba relu2-mlp"])
def test_parameters_at_a_free_width(spec: str, goal: int) -> None:
    solution = solve(spec, params=goal)
    with torch.device("meta"):
        model = architectures.build(solution.spec, vocab_size=50, dim=solution.dim, max_len=64, seed=0)
    core = sum(p.numel() for p in model.parameters()) - 2 * 50 * solution.dim
    assert abs(core / goal - 1) <= TOLERANCE
    assert solution.account.core == core


def test_parameters_at_a_fixed_width_turn_inner_widths_only() -> None:
    solution = solve("mh-attention swiglu mamba mlp[inner=100]", params=300_000, dim=128)
    assert solution.dim == 128
    options = {layer.name: dict(layer.options) for layer in solution.spec.walk()}
    assert options["mh-attention"] == options["mamba"] == {}
    # One factor for all: swiglu starts at 352, the mlp where it was put.
    assert options["swiglu"]["inner"] / 352 == pytest.approx(options["mlp"]["inner"] / 100, rel=0.03)
    assert abs(solution.errors["params"]) < 0.005, "factors are far finer than the tolerance"


def test_flops_a_token() -> None:
    solution = solve("2*(mh-attention swiglu)", flops=500_000, seq_len=256, vocab_size=32)
    model = architectures.build(solution.spec, vocab_size=32, dim=solution.dim, max_len=256, seed=0)
    assert abs(account_model(model, 256).flops / 500_000 - 1) <= TOLERANCE


def test_state_and_parameters_together() -> None:
    solution = solve("2*(hyena swiglu)", state=4096, params=400_000)
    counted = measured(solution)
    assert counted.nominal is not None and abs(counted.nominal / 4096 - 1) <= TOLERANCE
    assert abs(counted.core / 400_000 - 1) <= TOLERANCE


def test_a_wrapper_counts_its_body_as_often_as_it_runs() -> None:
    solution = solve("repeat[times=2]{delta-net mlp}", state=8192)
    assert measured(solution).nominal == 8192
    assert str(solution.spec) == "repeat{delta-net[key_dim=32] mlp}"


@pytest.mark.parametrize(
    "spec, goals, message",
    [
        ("2*(mh-attention swiglu)", {"state": 4096}, "the state of mh-attention grows with the sequence"),
        ("2*(hyena swiglu)", {"total_state": 4096}, "the state of hyena grows with the sequence"),
        ("mlp", {"state": 100}, "no layer has an option that sizes state"),
        ("4*mamba", {"params": 100_000, "dim": 128}, "nearest found is 429,696 at width 128"),
        ("2*(delta-net mlp)", {"state": 100_000, "dim": 16}, None),
        ("mlp", {}, "nothing to solve for"),
        ("mlp", {"params": 0}, "params=0 must be at least 1"),
        ("mlp", {"params": 10_000, "flops": 10_000}, "give one of the two"),
        ("mamba", {"state": 100, "total_state": 100}, "give one of the two"),
    ],
)
def test_what_cannot_be_solved_is_said(spec: str, goals: dict[str, int], message: str | None) -> None:
    if message is None:
        # A key wider than the model is allowed: 1 head of 16 values, keys of 3,125.
        assert abs(solve(spec, **goals).errors["state"]) <= TOLERANCE  # type: ignore[arg-type]
        return
    with pytest.raises(ValueError, match=message):
        solve(spec, **goals)  # type: ignore[arg-type]


def test_the_nearest_number_of_a_rising_function() -> None:
    assert _nearest(lambda n: n * n, 26, 1, 100) == 5
    assert _nearest(lambda n: n * n, 31, 1, 100) == 6
    assert _nearest(lambda n: n * n, 1e9, 1, 100) == 100
    assert _nearest(lambda n: n * n, 0, 1, 100) == 1
    # Odd numbers are refused: the nearest even one.
    assert _nearest(lambda n: float(n) if n % 2 == 0 else float("nan"), 7.2, 1, 100) in (6, 8)
