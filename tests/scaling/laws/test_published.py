"""Published runs, where the licensed files are at hand: laws, bootstrap, forecasts, over-training."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import scaling
from scaling.laws.penalty import fit_overtraining_law
from scaling.laws.runs.cleaning import Status
from tests.scaling.laws.designs import problem_of
from tests.scaling.laws.public import CHINCHILLA_RUNS, DATA, needs_data, runs_of

CASE = "P1_chinchilla_licensed"
pytestmark = needs_data


def expected(case: str) -> dict:
    return json.loads((DATA / "EXPECTED.json").read_text())[case]


@pytest.mark.parametrize(
    ("case", "objective", "delta"),
    [
        ("huber_1e-3", "huber", 1e-3),
        ("huber_1e-2", "huber", 1e-2),
        ("lad", "lad", 1e-3),
        ("log_mse", "log-mse", 1),
    ],
)
def test_the_chinchilla_runs_give_the_expected_law(case: str, objective: Any, delta: float) -> None:
    want, tol = expected(CASE)[case], expected(CASE)["tol"]
    law = scaling.fit(runs_of(CHINCHILLA_RUNS), objective=objective, delta=delta, bootstrap=0)
    assert law.status is Status.CONVERGED and law.n == 234
    assert law.value == pytest.approx(want["objective"], rel=tol["objective_rel"])
    for name in ("alpha", "beta"):
        assert getattr(law, name) == pytest.approx(want[name], abs=tol["alpha_beta_abs"])
    assert law.n_exponent == pytest.approx(want["a"], abs=tol["alpha_beta_abs"])
    assert law.E == pytest.approx(want["E"], abs=tol["E_abs"])
    assert law.A == pytest.approx(want["A"], rel=tol["A_rel"])
    assert law.B == pytest.approx(want["B"], rel=tol["B_rel"])
    assert law.at(5.76e23).tokens_per_param == pytest.approx(want["DN_5.76e23"], rel=tol["DN_rel"])
    if objective == "lad":
        assert (law.residuals.abs() < 1e-12).sum() == 5


def test_the_chinchilla_runs_have_the_expected_condition_and_scatter() -> None:
    law, want = scaling.fit(runs_of(CHINCHILLA_RUNS), bootstrap=0), expected(CASE)
    assert law.condition == pytest.approx(want["scaled_cond_J"], rel=want["scaled_cond_J_tol_rel"])
    assert np.sqrt((law.residuals**2).mean()) == pytest.approx(want["rms_log_residual"], rel=1e-3)
    assert law.residuals.abs().median() == pytest.approx(want["median_abs_log_residual"], rel=1e-3)


def test_forecasts_from_the_small_chinchilla_runs_are_good_while_allocations_are_not() -> None:
    runs, want = runs_of(CHINCHILLA_RUNS), expected(CASE)["forward_prediction_huber_1e-3"]
    for i, limit in enumerate(want["train_C_below"]):
        small = runs["flops"] < limit
        law = scaling.fit(runs[small], bootstrap=0)
        rest = runs[~small]
        error = law.loss(rest["params"].to_numpy(), rest["tokens"].to_numpy()) / rest["loss"] - 1
        assert (law.n, len(rest)) == (want["n_train"][i], want["n_test"][i])
        assert 100 * error.abs().mean() == pytest.approx(
            want["test_MAPE_pct"][i], abs=want["tol"]["MAPE_abs_pct"]
        )
        assert law.tokens_per_param(5.76e23) == pytest.approx(
            want["DN_5.76e23"][i], rel=want["tol"]["DN_rel"]
        )


def test_additive_laws_of_the_overtraining_runs_are_as_expected() -> None:
    runs = runs_of("gadre_c4_rpj.csv")
    case = expected("P3_gadre_overtraining")
    want = case["additive_law_huber_1e-3_all_rows"]
    for name in ("c4_original", "rpj"):
        law = scaling.fit(runs[runs["train_set"] == name], bootstrap=0)
        assert law.n == want[name]["n"]
        assert law.alpha == pytest.approx(want[name]["alpha"], abs=want["tol"]["alpha_beta_abs"])
        assert law.beta == pytest.approx(want[name]["beta"], abs=want["tol"]["alpha_beta_abs"])
        assert law.E == pytest.approx(want[name]["E"], abs=want["tol"]["E_abs"])


# With 4,000 resamples a standard error has a relative error of 1.1 % (5 % is asked for), with 1,000 of 2.2 %
# in a normal distribution; B is skewed, so 10 %.
@pytest.mark.parametrize(
    ("resamples", "share"), [(1000, 0.10), pytest.param(4000, 0.05, marks=pytest.mark.slow)]
)
def test_the_bootstrap_of_the_chinchilla_runs_is_as_expected(resamples: int, share: float) -> None:
    want = expected(CASE)["bootstrap_4000_pairs_huber_1e-3"]
    law = scaling.fit(runs_of(CHINCHILLA_RUNS), bootstrap=resamples)
    draws = law.draws.assign(a=law.draws["beta"] / (law.draws["alpha"] + law.draws["beta"]))
    assert len(draws) == resamples
    for name, error in want["SE"].items():
        assert draws[name].std() == pytest.approx(error, rel=share), name
    for name, ends in want["CI95"].items():
        found = law.intervals[{"a": "n_exponent"}.get(name, name)]
        assert (found.low, found.high) == pytest.approx(ends, rel=share), name
    for level in (80, 95):
        ahead = law.at(5.76e23, level / 100).intervals
        ratio, params = ahead["tokens_per_param"], ahead["params"]
        # A ratio in an extrapolation by 44 times has a long tail: the asked 8 %, and twice that.
        ends = want["DN_5.76e23"][f"CI{level}"]
        assert (ratio.low, ratio.high) == pytest.approx(ends, rel=1.6 * share)
        ends = [1e9 * end for end in want["N_opt_5.76e23_billion"][f"CI{level}"]]
        assert (params.low, params.high) == pytest.approx(ends, rel=share)
    assert law.at(5.76e23).beyond == pytest.approx(
        5.76e23 / runs_of(CHINCHILLA_RUNS)["flops"].max(), rel=1e-6
    )


def test_asymptotic_errors_are_about_half_of_those_of_the_bootstrap() -> None:
    runs, law = runs_of(CHINCHILLA_RUNS), scaling.fit(runs_of(CHINCHILLA_RUNS), bootstrap=500)
    problem = problem_of(runs)
    r, jacobian = problem.residuals(problem.unknowns(law)[None])
    covariance = np.linalg.inv(jacobian[0] @ jacobian[0].T) * (r[0] @ r[0]) / (law.n - 5)
    asymptotic = np.sqrt(np.diag(covariance))[3:]
    assert (asymptotic < 0.65 * law.draws[["alpha", "beta"]].std()).all()


@pytest.mark.parametrize("name", ["rpj", "c4_original"])
def test_five_small_runs_forecast_the_overtrained_ones_as_published(name: str) -> None:
    runs, case = runs_of("gadre_c4_rpj.csv"), expected("P3_gadre_overtraining")
    runs, want, tol = runs[runs["train_set"] == name], case[name], case["tol"]
    width = runs["model"].str.extract(r"d=(\d+)_")[0].astype(float)
    five = (runs["cc_mult"] == 1) & width.isin([96, 512, 576, 1024]) | (runs["cc_mult"] == 16) & (width == 96)
    law = fit_overtraining_law(runs[five])
    assert law.n == 5 and law.status is Status.CONVERGED
    assert (law.b, law.eta) == pytest.approx((want["b"], want["eta"]), abs=tol["b_abs"])
    assert law.E == pytest.approx(want["E"], abs=tol["E_abs"])
    rest = runs[~five].assign(M=20 * runs["cc_mult"])
    error = 100 * (law.loss(rest["params"].to_numpy(), rest["M"].to_numpy()) / rest["loss"] - 1)
    assert len(rest) == want["test_n"]
    assert error.abs().mean() == pytest.approx(want["test_MAPE_pct"], abs=tol["relerr_abs_pct"])
    for label, value in want["relerr_pct"].items():
        model, multiple = label.split(" M=")
        one = rest["model"].str.contains(model) & (rest["M"] == float(multiple))
        assert error[one].item() == pytest.approx(value, abs=tol["relerr_abs_pct"]), label
