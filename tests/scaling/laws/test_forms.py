"""Forms of the law: exact derivatives, recovery, intervals, refusals, audits, and a form of one's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import scaling
from scaling.laws import forms
from scaling.laws.auditing import audit, influence
from scaling.laws.families import fit_families
from scaling.laws.forms import FORMS, Form, Parameter
from scaling.laws.law import Law
from scaling.laws.objective import SQUARES, Points, Problem
from scaling.laws.penalty import fit_overtraining_law
from scaling.laws.runs.cleaning import NotIdentified, Status
from scaling.laws.solver import descend, starts
from tests.scaling.laws.designs import CHINCHILLA, differences, grid, problem_of

TRUTHS = {
    "standard": CHINCHILLA,
    "over-training": Law(E=1.8, A=480.0, B=1900.0, alpha=0.35, beta=0.35),
    "joint-exponent": Law(E=1.7, A=1300.0, B=4100.0, alpha=0.40, beta=0.39, gamma=0.8),
}
STEEP = Law(E=1.7, A=20.0, B=30.0, alpha=0.2, beta=0.19, gamma=1.9)


def study(form: str, *, noise: float = 0.004, seed: int = 0) -> pd.DataFrame:
    return grid(TRUTHS[form], sizes=9, width=8.0, noise=noise, seed=seed)


def test_every_form_has_a_truth_here() -> None:
    assert list(TRUTHS) == list(FORMS)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("delta", [1e-2, SQUARES])
@pytest.mark.parametrize("form", FORMS)
def test_derivatives_are_those_of_differences(form: str, delta: float, relative: bool) -> None:
    frame = study(form)
    problem = Problem.of([Points.of(frame)], FORMS[form], relative=relative)
    weights = np.random.default_rng(0).integers(0, 4, (1, len(frame))).astype(float)
    theta = problem.unknowns(TRUTHS[form]) + 0.01
    here = problem.system(theta[None], weights, delta)
    slope, bend = differences(problem, theta, weights, delta)
    np.testing.assert_allclose(here.gradient[0], slope, atol=1e-6 * np.abs(slope).max())
    np.testing.assert_allclose(here.newton[0], bend, atol=1e-6 * np.abs(bend).max())
    assert (np.linalg.eigvalsh(here.bound[0]) > 0).all()
    residuals = [
        (problem.residuals((theta + one)[None])[0] - problem.residuals((theta - one)[None])[0])[0] / 2e-6
        for one in 1e-6 * np.eye(len(theta))
    ]
    np.testing.assert_allclose(problem.residuals(theta[None])[1][0], residuals, atol=1e-6)


@pytest.mark.parametrize("objective", ["huber", "lad", "log-mse"])
@pytest.mark.parametrize(("form", "truth"), [*TRUTHS.items(), ("joint-exponent", STEEP)])
def test_exact_losses_give_the_truth_back(form: str, truth: Law, objective: Any) -> None:
    frame = grid(truth, sizes=9, width=8.0)
    law = scaling.fit(frame, form=form, objective=objective, bootstrap=0)
    assert (law.form, law.status) == (form, Status.CONVERGED)
    for name, value in law.values.items():
        assert value == pytest.approx(getattr(truth, name), rel=1e-6), name
    n, d = frame["params"].to_numpy(), frame["tokens"].to_numpy()
    np.testing.assert_allclose(law.loss(n, d), frame["loss"], rtol=1e-9)
    assert law.at(1e23).loss == pytest.approx(truth.loss_opt(1e23), rel=1e-7)


@pytest.mark.parametrize(
    ("form", "truth"), [*list(TRUTHS.items())[1:], ("joint-exponent", STEEP)], ids=["one", "joint", "steep"]
)
def test_no_start_far_away_finds_a_lower_objective(form: str, truth: Law) -> None:
    for seed in range(4):
        frame = grid(truth, sizes=9, width=8.0, noise=0.01, seed=seed)
        law, problem = scaling.fit(frame, form=form, bootstrap=0), problem_of(frame, form)
        far = np.random.default_rng(seed).uniform(
            [0.1, -3, -3, 0.05, 0.05, 0.3], [2.3, 1, 1, 1.2, 1.2, 3], (60, 6)
        )
        found = descend(far[:, : len(problem.low)], problem, np.ones(len(frame)), 1e-3)[1]
        assert law.value <= np.nanmin(found) * (1 + 1e-9)


def test_a_start_is_already_close() -> None:
    problem = problem_of(study("joint-exponent"), "joint-exponent")
    first = starts(problem, np.ones(problem.n))
    values = problem.system(first, np.ones((len(first), problem.n)), SQUARES).value
    assert np.sqrt(2 * values.min() / problem.n) < 0.01, "the root mean square of log residuals"
    assert descend(first, problem, np.ones(problem.n), SQUARES)[1].min() < values.min()


def test_the_over_training_form_is_the_standard_one_with_one_exponent() -> None:
    frame = study("over-training")
    law = scaling.fit(frame, form="over-training", bootstrap=100)
    assert law.alpha == law.beta and law.n_exponent == 0.5
    assert law.intervals["alpha"] == law.intervals["beta"]
    assert law.value >= scaling.fit(frame, bootstrap=0).value
    published = fit_overtraining_law(frame)
    squares = scaling.fit(frame, form="over-training", objective="log-mse", bootstrap=0)
    assert squares.alpha == pytest.approx(-published.b, rel=0.02)
    assert squares.E == pytest.approx(published.E, rel=0.01)


def test_five_runs_are_enough_for_four_parameters_and_too_few_for_more() -> None:
    n, ratio = np.array([1e7, 8e7, 1.5e8, 4e8, 1e7]), np.array([20.0, 20, 20, 20, 320])
    truth = TRUTHS["over-training"]
    frame = pd.DataFrame({"params": n, "tokens": n * ratio, "loss": truth.loss(n, n * ratio)})
    law = scaling.fit(frame, form="over-training", bootstrap=0)
    assert law.alpha == pytest.approx(truth.alpha, rel=1e-5)
    with pytest.raises(NotIdentified, match="E, A, B, alpha and beta are not.*cannot fix five parameters"):
        scaling.fit(frame, bootstrap=0)
    with pytest.raises(NotIdentified, match="beta and gamma are not.*cannot fix six.*at 2 other points"):
        scaling.fit(frame, form="joint-exponent", bootstrap=0)
    with pytest.raises(NotIdentified, match="E, A, B and alpha are not identified.*cannot fix four"):
        scaling.fit(frame.iloc[:4], form="over-training", bootstrap=0)


@pytest.mark.parametrize("form", FORMS)
def test_a_ray_and_losses_without_a_law_are_refused_in_every_form(form: str) -> None:
    frame = study(form)
    with pytest.raises(NotIdentified, match="D = 20 N"):
        scaling.fit(frame.assign(tokens=20 * frame["params"]), form=form, bootstrap=0)
    rising = 1 + (frame["params"] / 1e9) ** 0.1 + (frame["tokens"] / 1e10) ** 0.1
    with pytest.raises(NotIdentified):
        scaling.fit(frame.assign(loss=rising), form=form, bootstrap=0)


def test_an_exponent_gamma_at_its_limit_is_said() -> None:
    truth = Law(E=1.7, A=1e8, B=1e9, alpha=2.0, beta=1.9, gamma=0.1)
    law = scaling.fit(grid(truth, sizes=9, width=8.0), form="joint-exponent", bootstrap=0)
    assert law.status is Status.AT_BOUND
    assert any(words.startswith("gamma is 0.2, at the limit") for words in law.warnings)


def test_an_unknown_form_is_answered_with_the_nearest() -> None:
    frame = study("standard")
    for call in (scaling.fit, fit_families):
        with pytest.raises(ValueError, match="form 'overtraining' is unknown; did you mean 'over-training'"):
            call(frame, form="overtraining")


@pytest.mark.parametrize("form", ["over-training", "joint-exponent"])
@pytest.mark.parametrize("objective", ["huber", "lad"])
def test_influence_is_what_refits_without_each_run_say(form: str, objective: Any) -> None:
    frame = study(form)
    law = scaling.fit(frame, form=form, objective=objective, bootstrap=0)
    table = influence(frame, law, at=1e22)
    assert table["converged"].all()
    for place in table.index[:3]:
        again = scaling.fit(frame.drop(index=place - 1), form=form, objective=objective, bootstrap=0)
        rel = 1e-3 if objective == "lad" else 1e-5
        assert table.loc[place, "tokens_per_param"] == pytest.approx(again.tokens_per_param(1e22), rel=rel)


@pytest.mark.parametrize("form", ["over-training", "joint-exponent"])
def test_of_many_runs_one_newton_step_ranks_as_refits_do(form: str) -> None:
    frame = grid(TRUTHS[form], sizes=130, width=8.0, noise=0.01)
    law = scaling.fit(frame, form=form, bootstrap=0)
    table = influence(frame, law, at=1e22)
    stepped = table[~table["refitted"]]
    assert len(table) == 520 and table["refitted"].sum() == 64
    most = abs(np.log(table["ratio"].iloc[0]))
    for place in [*stepped.index[:2], *stepped.index[-2:]]:
        again = scaling.fit(frame.drop(index=place - 1), form=form, bootstrap=0)
        moved = np.log(again.tokens_per_param(1e22) / law.tokens_per_param(1e22))
        assert np.log(table.loc[place, "ratio"]) == pytest.approx(moved, abs=0.02 * most)


@pytest.mark.parametrize("form", FORMS)
def test_an_audit_refits_the_form_of_the_law(form: str) -> None:
    frame = study(form, noise=0.002)
    law = scaling.fit(frame, form=form, bootstrap=100)
    found = audit(frame, at=1e22, law=law)
    assert found.cuts["tokens_per_param"].iloc[0] == law.tokens_per_param(1e22)
    assert (found.held_out["status"] == "converged").any()
    assert any("predict the loss of the other" in str(finding) for finding in found.findings)
    assert found.allocation.intervals["tokens_per_param"].low <= law.tokens_per_param(1e22)


@pytest.mark.parametrize("form", FORMS)
def test_whole_budgets_are_drawn_for_every_form(form: str) -> None:
    frame = study(form, noise=0.002)
    pairs = scaling.fit(frame, form=form, bootstrap=100)
    budgets = scaling.fit(frame, form=form, resample="budget", bootstrap=100)
    assert budgets.value == pairs.value
    for key in FORMS[form].free:
        found = budgets.intervals[key]
        assert found.low <= getattr(budgets, key) <= found.high and found != pairs.intervals[key]


def test_architectures_share_a_form_and_its_gamma() -> None:
    truth = TRUTHS["joint-exponent"]
    other = Law(E=1.7, A=1600.0, B=3900.0, alpha=0.40, beta=0.39, gamma=0.8)
    frame = pd.concat([grid(truth, sizes=9, width=8.0), grid(other, sizes=9, width=8.0, arch="b")])
    found = fit_families(frame, form="joint-exponent", shared=("alpha", "beta", "gamma"), bootstrap=0)
    for name, law in (("a", truth), ("b", other)):
        for key in FORMS["joint-exponent"].parameters:
            assert getattr(found.laws[name], key) == pytest.approx(getattr(law, key), rel=1e-4)
    row = found.multipliers(1e20, reference="a").set_index("arch").loc["b"]
    assert other.loss_opt(1e20 * row["multiplier"]) == pytest.approx(truth.loss_opt(1e20), rel=1e-6)
    tied = fit_families(frame, form="over-training", shared="beta", bootstrap=100)
    assert tied.shared == ("alpha",), "what beta is tied to"
    assert tied.laws["a"].beta == tied.laws["b"].alpha
    with pytest.raises(ValueError, match="shared 'gama' is unknown; did you mean 'gamma'"):
        fit_families(frame, form="joint-exponent", shared="gama")


def test_a_form_of_ones_own_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kaplan et al. (arXiv 2001.08361, equation 1.5) have no floor: E is held at 0."""
    held = {"E": Parameter(0.0, 0.0, 1.0)}
    kaplan = Form(
        formula="(A N^-alpha + B D^-beta)^gamma",
        source="arXiv 2001.08361",
        parameters=FORMS["joint-exponent"].parameters,
        gammas=(0.2, 0.5),
        limits=held,
    )
    monkeypatch.setitem(forms.FORMS, "kaplan", kaplan)
    truth = Law(E=0.0, A=8.8e13**0.8, B=5.4e13, alpha=0.8, beta=1.0, gamma=0.095)
    monkeypatch.setitem(held, "gamma", Parameter(0.02, 5.0, 0.2))
    frame = grid(truth, sizes=9, width=8.0)
    law = scaling.fit(frame, form="kaplan", bootstrap=0)
    assert law.status is Status.CONVERGED and law.E == 0
    for name in ("A", "B", "alpha", "beta", "gamma"):
        assert getattr(law, name) == pytest.approx(getattr(truth, name), rel=1e-4), name
    noisy = frame.assign(loss=frame["loss"] * (1 + 0.003 * np.random.default_rng(0).standard_normal(36)))
    found = audit(noisy, at=1e22, law=scaling.fit(noisy, form="kaplan", bootstrap=100))
    assert found.law.intervals["gamma"].low <= 0.095 <= found.law.intervals["gamma"].high
    assert found.law.intervals["E"].high == 0


@pytest.mark.slow
@pytest.mark.parametrize("form", ["over-training", "joint-exponent"])
def test_intervals_cover_the_truth_about_as_often_as_they_say(form: str) -> None:
    truth, count = TRUTHS[form], 60
    laws = [
        scaling.fit(study(form, noise=0.006, seed=seed), form=form, bootstrap=200, confidence=0.9)
        for seed in range(count)
    ]
    for name in FORMS[form].parameters:
        inside = sum(
            law.intervals[name].low <= getattr(truth, name) <= law.intervals[name].high for law in laws
        )
        # Of 60 sets 54 should. Fewer than 46 has a chance of 1 in 1,000 at .9.
        assert 46 <= inside <= 60, f"{name}: {inside} of {count}"
    losses = [law.at(1e22).intervals["loss"] for law in laws]
    assert 46 <= sum(found.low <= truth.loss_opt(1e22) <= found.high for found in losses) <= 60
