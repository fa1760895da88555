"""The learning-rate rule: the parabola, the edge, the power law."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import typer

from scaling.cli import app
from scaling.study.layout import plan
from scaling.study.rates import CAP, Optimum, RateRule, extension, optimum

GRID = (1e-3, 2e-3, 4e-3, 8e-3)


def losses(best: float, rates: tuple[float, ...] = GRID) -> dict[float, float | None]:
    return {lr: 2 + 0.1 * math.log(lr / best) ** 2 for lr in rates}


@pytest.mark.parametrize("best", [1.5e-3, 2e-3, 3.1e-3, 5.5e-3])
def test_the_vertex_of_a_parabola_in_the_logarithm_is_found_exactly(best: float) -> None:
    found = optimum(losses(best), params=1e5)
    assert found.lr == pytest.approx(best, rel=1e-12)
    assert not found.on_edge


@pytest.mark.parametrize(
    ("best", "more"),
    [(3e-3, ()), (3e-2, (16e-3, 32e-3)), (3e-4, (0.25e-3, 0.5e-3)), (7.9e-3, (16e-3, 32e-3))],
)
def test_a_best_point_on_the_edge_extends_the_grid_on_that_side(best: float, more: tuple[float, ...]) -> None:
    assert extension(losses(best), GRID) == pytest.approx(more)


def test_an_optimum_beyond_the_extended_grid_is_its_edge_and_flagged() -> None:
    rates = (*GRID, *extension(losses(1.0), GRID))
    found = optimum(losses(1.0, rates), params=1e5)
    assert (found.lr, found.on_edge) == (32e-3, True)
    rule = RateRule(optima=(found, Optimum(params=1e6, lr=1e-3, on_edge=False)))
    assert len(rule.flags) == 1 and "0.032 at 100,000 parameters lies on the edge" in rule.flags[0]


def test_a_diverged_neighbour_bounds_the_grid_and_has_no_part_in_a_parabola() -> None:
    known = losses(6e-3) | {8e-3: None}
    assert extension(known, GRID) == ()
    assert optimum(known, params=1e5) == Optimum(params=1e5, lr=4e-3, on_edge=False)


def test_where_every_run_diverged_there_is_no_optimum() -> None:
    with pytest.raises(
        ValueError, match="every run diverged at learning rates 0.001, 0.002.*give smaller ones"
    ):
        optimum({1e-3: None, 2e-3: None}, params=1e5)


def test_between_two_sizes_the_rate_is_a_power_of_the_parameters() -> None:
    rule = RateRule(
        optima=(Optimum(params=1e4, lr=8e-3, on_edge=False), Optimum(params=1e6, lr=2e-3, on_edge=False))
    )
    assert rule.at(1e5) == pytest.approx(4e-3)
    assert rule.exponent == pytest.approx(math.log(4) / math.log(100))
    assert rule.at(1e4) == 8e-3 and rule.at(1e6) == 2e-3


def test_outside_of_the_tuned_sizes_the_power_law_is_capped() -> None:
    rule = RateRule(
        optima=(Optimum(params=1e4, lr=8e-3, on_edge=False), Optimum(params=1e6, lr=2e-3, on_edge=False))
    )
    assert rule.at(4e6) == pytest.approx(2e-3 * 4**-0.30103, rel=1e-2)
    assert rule.at(1e12) == pytest.approx(2e-3 / CAP)
    assert rule.at(1.0) == pytest.approx(8e-3 * CAP)


def test_one_tuned_size_gives_a_constant() -> None:
    rule = RateRule(optima=(Optimum(params=1e4, lr=8e-3, on_edge=False),))
    assert rule.at(1e9) == 8e-3 and rule.exponent == 0


def test_the_command_and_the_function_tune_over_the_same_rates() -> None:
    group: Any = typer.main.get_command(app)
    (given,) = [parameter.default for parameter in group.commands["plan"].params if parameter.name == "lrs"]
    assert (
        tuple(float(word) for word in given.split(",")) == inspect.signature(plan).parameters["lrs"].default
    )
