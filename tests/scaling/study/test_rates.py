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


def rule(*points: tuple[float, float]) -> RateRule:
    return RateRule(optima=tuple(Optimum(params=n, lr=lr, on_edge=False) for n, lr in points))


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
    (flag,) = RateRule(optima=(found, Optimum(params=1e6, lr=1e-3, on_edge=False))).flags
    assert "0.032 at 100,000 parameters lies on the edge" in flag


def test_a_diverged_neighbour_bounds_the_grid_and_has_no_part_in_a_parabola() -> None:
    known = losses(6e-3) | {8e-3: None}
    assert extension(known, GRID) == ()
    assert optimum(known, params=1e5) == Optimum(params=1e5, lr=4e-3, on_edge=False)


def test_where_every_run_diverged_there_is_no_optimum() -> None:
    said = "every run diverged at learning rates 0.001, 0.002.*give smaller ones"
    with pytest.raises(ValueError, match=said):
        optimum({1e-3: None, 2e-3: None}, params=1e5)


def test_between_two_sizes_the_rate_is_a_power_of_the_parameters() -> None:
    found = rule((1e4, 8e-3), (1e6, 2e-3))
    assert found.at(1e5) == pytest.approx(4e-3)
    assert found.exponent == pytest.approx(math.log(4) / math.log(100))
    assert found.at(1e4) == 8e-3 and found.at(1e6) == 2e-3


def test_outside_of_the_tuned_sizes_the_power_law_is_capped() -> None:
    found = rule((1e4, 8e-3), (1e6, 2e-3))
    assert found.at(4e6) == pytest.approx(2e-3 * 4**-0.30103, rel=1e-2)
    assert found.at(1e12) == pytest.approx(2e-3 / CAP)
    assert found.at(1.0) == pytest.approx(8e-3 * CAP)


def test_one_tuned_size_gives_a_constant() -> None:
    constant = rule((1e4, 8e-3))
    assert constant.at(1e9) == 8e-3 and constant.exponent == 0


def test_the_command_and_the_function_tune_over_the_same_rates() -> None:
    group: Any = typer.main.get_command(app)
    (given,) = [parameter.default for parameter in group.commands["plan"].params if parameter.name == "lrs"]
    rates = tuple(float(word) for word in given.split(","))
    assert rates == inspect.signature(plan).parameters["lrs"].default
