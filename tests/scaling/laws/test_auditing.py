"""What an answer rests on: influence by refits, cuts, held-out budgets, and the verdicts."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scaling.laws.auditing import (
    REFITTED,
    Audit,
    audit,
    hold_out,
    influence,
    influential_set,
    minimum_ratio_cuts,
)
from scaling.laws.findings import of_cuts, of_hold_out, of_influence
from scaling.laws.fitting import Allocation, fit
from scaling.laws.law import Interval
from scaling.laws.runs.cleaning import NotIdentified, Status
from tests.scaling.laws.designs import LAW, isoflops
from tests.scaling.laws.public import CHINCHILLA_RUNS, needs_data, runs_of

TARGET = 5.76e23


def study(**design: Any) -> pd.DataFrame:
    """An isoFLOP study of a known law, 1e18 to 1e21 FLOPs."""
    return isoflops(LAW, **{"budgets": 7, "sizes": 9, "width": 5.0, "span": 1e3, "noise": 0.003} | design)


BAD = {64, 65, 66, 67, 68}


def with_five_outliers() -> pd.DataFrame:
    """A study with five more runs of few tokens per parameter, and worse the fewer they are."""
    n = np.geomspace(5e8, 3e9, 5)
    d = n * np.array([0.04, 0.1, 0.2, 0.3, 0.4])
    bad = pd.DataFrame({"params": n, "tokens": d, "loss": LAW.loss(n, d) * (n / d) ** 0.1})
    return pd.concat([study(), bad], ignore_index=True)


def audited(frame: pd.DataFrame, *, at: float, bootstrap: int) -> Audit:
    return audit(frame, at=at, law=fit(frame, bootstrap=bootstrap))


@needs_data
def test_held_out_budgets_of_the_public_runs() -> None:
    table = hold_out(runs_of(CHINCHILLA_RUNS), below=[3e19, 1e20, 3e20, 1e21], at=TARGET)
    assert table["n_train"].tolist() == [77, 131, 172, 211]
    assert table["n_test"].tolist() == [157, 103, 62, 23]
    np.testing.assert_allclose(table["mape"], [0.662, 0.750, 0.755, 1.019], atol=0.01)
    np.testing.assert_allclose(table["bias"], [-0.373, 0.041, 0.229, -0.170], atol=0.01)
    np.testing.assert_allclose(table["tokens_per_param"], [2.23, 3.19, 6.65, 8.99], rtol=0.01)


@needs_data
def test_cuts_of_the_public_runs() -> None:
    table = minimum_ratio_cuts(runs_of(CHINCHILLA_RUNS), at=TARGET, cuts=[1, 1.5, 2, 3, 5])
    assert table["n"].tolist() == [234, 229, 224, 218, 205]
    np.testing.assert_allclose(table["n_exponent"], [0.4995, 0.5072, 0.5118, 0.4968, 0.5118], atol=5e-4)
    np.testing.assert_allclose(table["tokens_per_param"], [22.86, 19.29, 17.36, 22.78, 16.77], rtol=0.01)


@needs_data
def test_the_audit_of_the_public_runs_distrusts_the_allocation_not_the_loss() -> None:
    found = audited(runs_of(CHINCHILLA_RUNS), at=TARGET, bootstrap=100)
    assert found.law.condition == pytest.approx(39.55, rel=0.02)
    assert found.allocation.beyond == pytest.approx(44.5, rel=0.01)
    assert found.held_out["mape"].max() < 1.1
    assert "do not extrapolate the allocation" in str(found.findings[0])


@pytest.mark.parametrize("objective", ["huber", "log-mse", "lad"])
def test_influence_is_what_refits_without_each_run_say(objective: Any) -> None:
    frame = study()
    law = fit(frame, objective=objective, bootstrap=0)
    table = influence(frame, law, at=TARGET)
    assert table["converged"].all()
    for row in [*table.index[:4], *table.index[-3:]]:
        again = fit(frame.drop(index=row - 1), objective=objective, bootstrap=0)
        one = table.loc[row]
        # At a vertex of least absolute deviations the optimum is flat within the solver's tolerance.
        rel = 1e-3 if objective == "lad" else 1e-5
        assert one["tokens_per_param"] == pytest.approx(again.tokens_per_param(TARGET), rel=rel)
        assert one["ratio"] == pytest.approx(
            again.tokens_per_param(TARGET) / law.tokens_per_param(TARGET), rel=rel
        )
        assert one["n_exponent"] == pytest.approx(again.n_exponent - law.n_exponent, abs=rel)
        assert one["alpha"] == pytest.approx(again.alpha - law.alpha, abs=rel)
        assert one["beta"] == pytest.approx(again.beta - law.beta, abs=rel)
        assert one["E"] == pytest.approx(again.E - law.E, abs=rel)


@pytest.mark.parametrize("objective", ["huber", "log-mse"])
def test_of_many_runs_those_that_move_the_answer_are_refitted(objective: Any) -> None:
    """The others have one Newton step, which ranks them as refits do."""
    frame = study(budgets=10, sizes=60, noise=0.004)
    law = fit(frame, objective=objective, bootstrap=0)
    table = influence(frame, law, at=TARGET)
    assert (table["refitted"].sum(), len(table)) == (REFITTED, 600) and table["refitted"][:20].all()
    assert table["converged"].sum() == REFITTED
    stepped = table[~table["refitted"]]
    for row in [*table.index[:3], *stepped.index[:3], *stepped.index[-3:]]:
        again = fit(frame.drop(index=row - 1), objective=objective, bootstrap=0)
        moved = np.log(again.tokens_per_param(TARGET) / law.tokens_per_param(TARGET))
        most = abs(np.log(table["ratio"].iloc[0]))
        rel = 1e-5 if table.loc[row, "refitted"] else 0.02 * most
        assert np.log(table.loc[row, "ratio"]) == pytest.approx(moved, abs=rel)
    together = influential_set(frame, law, at=TARGET, size=2)
    again = fit(frame.drop(index=together.index - 1), objective=objective, bootstrap=0)
    assert together["tokens_per_param"].iloc[-1] == pytest.approx(again.tokens_per_param(TARGET), rel=1e-5)


def test_thousands_of_runs_are_audited_in_little_memory() -> None:
    """A table of runs by runs would take 72 MB here, and 4.6 GB of 24,000."""
    frame = study(budgets=10, sizes=300)
    tracemalloc.start()
    try:
        law = fit(frame, bootstrap=100)
        audit(frame, at=TARGET, law=law)
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


# A process of its own, small itself: a child's peak is at least that of the process that started it.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.slow
def test_the_whole_command_fits_24000_runs_within_2_gb_and_2400_within_400_mb(tmp_path: Path) -> None:
    for sizes, most in ((240, 4e8), (2400, 2e9)):
        path = tmp_path / "runs.csv"
        study(budgets=10, sizes=sizes).to_csv(path, index=False)
        words = [sys.executable, "-m", "mad.cli", "scaling", "fit", str(path)]
        found = subprocess.run(
            [sys.executable, "-c", PEAK, *words], capture_output=True, text=True, check=True
        )
        assert 0 < int(found.stdout) < most


def test_five_outlying_runs_move_the_allocation_and_are_found() -> None:
    clean = fit(study(), bootstrap=0).tokens_per_param(TARGET)
    frame = with_five_outliers()
    law = fit(frame, bootstrap=0)
    assert clean / law.tokens_per_param(TARGET) > 2.5
    assert influence(frame, law, at=TARGET).index[0] in BAD
    # Three of them carry it all: without those, the objective shrugs the other two off.
    together = influential_set(frame, law, at=TARGET, size=3)
    assert set(together.index) < BAD
    assert together["tokens_per_param"].iloc[-1] == pytest.approx(clean, rel=0.05)
    cuts = minimum_ratio_cuts(frame, at=TARGET, cuts=[0, 0.5])
    assert cuts["n"].tolist() == [68, 63]
    assert cuts["tokens_per_param"].iloc[1] == pytest.approx(clean)


def test_the_audit_names_the_five_outlying_runs() -> None:
    found = audited(with_five_outliers(), at=TARGET, bootstrap=100)
    # The furthest of them bends the law to itself, so its residual is small; the influential set names it.
    assert set(found.screened.index[found.screened["flag"] == "high"]) == BAD - {64}
    assert found.together.index[0] == 64
    grave = " ".join(finding.what for finding in found.findings if finding.severity != "ok")
    assert "off the law" in grave
    assert "the most influential run, row 64" in grave
    assert "leaving out rows 64, 65, 66," in grave


@pytest.mark.parametrize(
    ("ratio", "severity"), [(1.05, "ok"), (0.95, "ok"), (1.2, "warning"), (0.8, "warning"), (0.6, "serious")]
)
def test_a_verdict_is_as_grave_as_its_number(ratio: float, severity: str) -> None:
    finding = of_influence(pd.DataFrame({"ratio": [ratio, 1.01]}, index=[7, 3]))
    assert (finding.severity, finding.number) == (severity, pytest.approx(max(ratio, 1 / ratio)))
    assert "row 7" in finding.what
    assert bool(finding.remedy) == (severity != "ok")


@pytest.mark.parametrize(
    ("ratios", "severity", "words"),
    [
        ([19.0, 25.0], "ok", "19 to 25, inside the interval"),
        ([19.0, 31.0], "warning", "outside the interval"),
    ],
)
def test_cuts_are_held_against_the_interval(ratios: list[float], severity: str, words: str) -> None:
    interval = {"tokens_per_param": Interval(15.0, 30.0)}
    allocation = Allocation(
        flops=1e24, params=1e10, tokens=2e11, tokens_per_param=20.0, loss=2.0, beyond=1.0, intervals=interval
    )
    (finding,) = of_cuts(pd.DataFrame({"tokens_per_param": ratios}), allocation)
    assert finding.severity == severity
    assert words in str(finding)


def test_an_influential_set_is_what_refits_without_it_say() -> None:
    frame = study()
    law = fit(frame, bootstrap=0)
    table = influential_set(frame, law, at=TARGET, size=4)
    for count in (1, 4):
        again = fit(frame.drop(index=[row - 1 for row in table.index[:count]]), bootstrap=0)
        assert table["tokens_per_param"].iloc[count - 1] == pytest.approx(
            again.tokens_per_param(TARGET), rel=1e-5
        )
    assert table.index[0] == influence(frame, law, at=TARGET).index[0]
    assert np.abs(np.log(table["ratio"])).is_monotonic_increasing
    with pytest.raises(ValueError, match="size = 59 of 63 runs; choose from 1 to 58"):
        influential_set(frame, law, at=TARGET, size=59)


def test_a_small_error_of_loss_does_not_make_a_small_error_of_allocation() -> None:
    """Small runs that are some tenths of a percent off: their loss extrapolates, their D/N does not."""
    frame = study(noise=0.0)
    few = np.log(frame["params"] / frame["tokens"] * 20)
    small = 6 * frame["params"] * frame["tokens"] < 9e19
    table = hold_out(
        frame.assign(loss=frame["loss"] * np.where(small, 1 - 0.006 * few, 1.0)), below=[9e19], at=TARGET
    )
    assert table["mape"].iloc[0] < 1.0
    assert abs(np.log(table["tokens_per_param"].iloc[0] / LAW.tokens_per_param(TARGET))) > np.log(2)


@pytest.mark.parametrize("unit", [1e-18, 3.0, 0.5])
def test_budgets_are_left_out_as_groups_whatever_their_column_counts_in(unit: float) -> None:
    """An index, exaFLOPs, or another convention: the column says which runs belong together, and no more."""
    nominal = np.repeat(np.geomspace(1e18, 1e21, 7), 9)
    named = hold_out(study().assign(budget=nominal), at=TARGET)
    other = hold_out(study().assign(budget=nominal * unit), at=TARGET)
    pd.testing.assert_frame_equal(named, other)
    pd.testing.assert_frame_equal(
        named, hold_out(study().assign(budget=np.repeat(range(1, 8), 9)), at=TARGET)
    )
    assert named["n_test"].tolist() == [27, 18, 9]


def test_a_law_that_holds_is_predicted_without_error() -> None:
    table = hold_out(study(noise=0.0), at=TARGET)
    assert table["n_test"].tolist() == [27, 18, 9]
    assert (table["mape"] < 1e-3).all()
    np.testing.assert_allclose(table["tokens_per_param"], LAW.tokens_per_param(TARGET), rtol=1e-3)
    np.testing.assert_allclose(table["reach"], 10 ** np.array([1.5, 1.0, 0.5]))


def test_the_sign_of_the_bias_says_which_way_a_prediction_errs() -> None:
    frame = study(noise=0.0)
    large = 6 * frame["params"] * frame["tokens"] > 5e20
    worse = frame.assign(loss=frame["loss"] * np.where(large, 1.02, 1.0))
    table = hold_out(worse, below=[5e20])
    assert table["bias"].iloc[0] == pytest.approx(100 * (1 / 1.02 - 1), abs=0.01)
    assert table["mape"].iloc[0] == pytest.approx(-table["bias"].iloc[0])


@pytest.mark.parametrize(("off", "severity"), [(1.0, "ok"), (0.99, "warning"), (0.91, "serious")])
def test_losses_that_smaller_budgets_do_not_predict_are_a_verdict(off: float, severity: str) -> None:
    frame = study(noise=0.001)
    largest = 6 * frame["params"] * frame["tokens"] > 9e20
    found = audited(frame.assign(loss=frame["loss"] * np.where(largest, off, 1.0)), at=2e21, bootstrap=100)
    [verdict] = [finding for finding in found.findings if "predict the loss of the other" in finding.what]
    assert verdict.severity == severity and bool(verdict.remedy) == (severity != "ok")
    assert verdict.number == pytest.approx(100 * (1 / off - 1), abs=0.3)
    assert "; those below" in verdict.what and ("more than half the interval" in verdict.what) == (off < 1)


def test_a_bias_that_chance_explains_is_not_a_warning() -> None:
    warned = 0
    for seed in range(20):
        law = fit(frame := study(noise=0.003, seed=seed), bootstrap=100)
        findings = of_hold_out(hold_out(frame, at=2e21), law.at(2e21))
        warned += findings[0].severity != "ok"
    assert warned <= 3


def test_what_training_budgets_cannot_identify_is_said_and_not_numbered() -> None:
    table = hold_out(study(budgets=3), at=TARGET)
    assert table["status"].str.startswith("not identified").tolist() == [True, False]
    assert table["mape"].isna().tolist() == [True, False]
    cuts = minimum_ratio_cuts(study(), at=TARGET, cuts=[0, 1e6])
    assert cuts["status"].tolist() == ["converged", "not identified: no runs are left"]


def test_a_limit_that_divides_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1e\+30: all 63 runs are below it; choose .* 1e\+18 and 1e\+21"):
        hold_out(study(), below=[1e30])
    with pytest.raises(ValueError, match="all 63 runs are at or above it"):
        hold_out(study(), below=[1.0])
    with pytest.raises(NotIdentified, match="one budget"):
        hold_out(study(budgets=1))


def test_influence_needs_the_table_of_the_fit() -> None:
    law = fit(study(), bootstrap=0)
    with pytest.raises(ValueError, match="the table has 60 runs, the law was fitted to 63"):
        influence(study().iloc[3:], law, at=TARGET)


def test_rows_are_those_of_the_table_where_some_are_set_aside() -> None:
    frame = with_five_outliers().assign(status="ok")
    frame.loc[[0, 30], "status"] = "diverged"
    found = audited(frame, at=TARGET, bootstrap=0)
    assert set(found.influence.index) == set(found.screened.index) == set(range(1, 69)) - {1, 31}
    assert set(found.together.index[:3]) < BAD


def test_a_sound_study_passes_its_audit() -> None:
    found = audited(study(noise=0.001), at=2e21, bootstrap=100)
    assert {finding.severity for finding in found.findings} == {"ok"}
    assert "63 runs, huber(0.001) on log loss, C = 6 N D" in str(found)
    assert found.law.status is Status.CONVERGED


@pytest.mark.parametrize(("entropy", "severity"), [(1.8, "ok"), (1.7, "serious"), (1.9, "serious")])
def test_a_known_entropy_is_held_against_the_interval_of_e(entropy: float, severity: str) -> None:
    frame = study(noise=0.001)
    found = audited(frame.assign(floor=entropy), at=2e21, bootstrap=200)
    [verdict] = [finding for finding in found.findings if "entropy of the text" in finding.what]
    low, high = found.law.intervals["E"].low, found.law.intervals["E"].high
    assert (low <= entropy <= high) == (severity == "ok")
    assert verdict.severity == severity and verdict.number == pytest.approx(found.law.E - entropy)
    assert f"{low:.4g} to {high:.4g}" in verdict.what and ("outside" in verdict.what) == (severity != "ok")
    assert (severity == "ok") == (verdict.remedy == "")


@pytest.mark.parametrize(
    "floors", [{}, {"floor": np.nan}, {"floor": [1.5, *[1.6] * 62]}, {"floor": [np.nan, *[1.6] * 62]}]
)
def test_an_entropy_that_is_not_known_of_all_runs_is_held_against_nothing(floors: dict[str, Any]) -> None:
    found = audited(study(noise=0.001).assign(**floors), at=2e21, bootstrap=100)
    assert not any("entropy" in finding.what for finding in found.findings)


def test_the_gravest_verdict_stands_first() -> None:
    found = audited(study(noise=0.02, sizes=4), at=1e26, bootstrap=100)
    order = [("serious", "warning", "ok").index(finding.severity) for finding in found.findings]
    assert order == sorted(order)
    assert found.findings[0].severity == "serious"
    far = next(finding for finding in found.findings if "the target is 1e+26" in finding.what)
    assert (far.severity, far.number) == ("serious", pytest.approx(1e5))
    assert far.remedy == "add runs at larger compute"


def test_counts_by_two_conventions_are_warned_of() -> None:
    frame = study()
    flops = 6 * frame["params"] * frame["tokens"] * np.where(frame.index % 2, 1.0, 1 / 3)
    found = audited(frame.assign(flops=flops), at=TARGET, bootstrap=0)
    assert any("one convention" in finding.what for finding in found.findings)
    assert found.law.convention == "C as given"


def test_an_audit_takes_the_objective_of_the_law() -> None:
    frame = study()
    law = fit(frame, objective="log-mse", bootstrap=0)
    found = audit(frame, at=TARGET, law=law)
    assert found.law is law
    assert found.cuts["tokens_per_param"].iloc[0] == law.tokens_per_param(TARGET)
    assert found.cuts["tokens_per_param"].iloc[0] != fit(frame, bootstrap=0).tokens_per_param(TARGET)
    assert "63 runs, log-mse on log loss" in str(found)


def test_an_audit_without_a_law_fits_one() -> None:
    frame = study()
    assert audit(frame, at=TARGET).law.value == fit(frame, bootstrap=0).value


def test_an_audit_follows_repeated_data() -> None:
    frame = study().assign(unique_tokens=lambda f: f["tokens"] / 5)
    law = fit(frame, repeats="effective", bootstrap=0)
    found = audit(frame, at=TARGET, law=law, repeats="effective")
    assert found.cuts["tokens_per_param"].iloc[0] == pytest.approx(law.tokens_per_param(TARGET))
    with pytest.raises(ValueError, match="repeats='effective'"):
        audit(frame, at=TARGET, law=law)
