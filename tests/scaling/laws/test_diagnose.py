"""What a design can identify: the scale of condition numbers, refusals with their cures, screening."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.laws import diagnose
from scaling.laws.diagnose import REFUSE, WARN, check_design, condition
from scaling.laws.law import Law
from scaling.laws.runs import cleaning as runs
from scaling.laws.runs.cleaning import NotIdentified
from tests.scaling.laws.designs import LAW
from tests.scaling.laws.public import CHINCHILLA_RUNS, needs_data, runs_of

SETTINGS = settings(deadline=None, max_examples=60, derandomize=True)

Array = npt.NDArray[np.float64]


def runs_at(n: npt.ArrayLike, d: npt.ArrayLike, noise: float = 0.0, law: Law = LAW) -> pd.DataFrame:
    n, d = np.broadcast_arrays(np.asarray(n, float), np.asarray(d, float))
    loss = law.loss(n, d) * np.exp(noise * np.random.default_rng(0).standard_normal(len(n)))
    return runs.clean(pd.DataFrame({"params": n, "tokens": d, "loss": loss}), duplicates=True).frame


def design(n: npt.ArrayLike, d: npt.ArrayLike) -> pd.DataFrame:
    """Runs of which only the places matter."""
    n, d = np.broadcast_arrays(np.asarray(n, float), np.asarray(d, float))
    return runs.clean(pd.DataFrame({"params": n, "tokens": d, "loss": 3.0}), duplicates=True).frame


def isoflop_grid(budgets: npt.ArrayLike, sizes: int, width: float) -> tuple[Array, Array]:
    c = np.repeat(np.asarray(budgets, float), sizes)
    n = LAW.n_opt(c) * np.tile(np.geomspace(1 / width, width, sizes), len(np.atleast_1d(budgets)))
    return n, c / (6 * n)


@needs_data
def test_condition_numbers_of_the_public_designs() -> None:
    frame = runs.clean(runs_of(CHINCHILLA_RUNS)).frame
    law = Law(E=1.783894, A=442.1641, B=1271.808, alpha=0.342626, beta=0.342002)
    assert condition(law, frame["params"], frame["tokens"]) == pytest.approx(39.55, rel=0.02)
    assert check_design(frame) == ()
    gadre = runs_of("gadre_c4_rpj.csv")
    frame = runs.clean(gadre[gadre["train_set"] == "c4_original"]).frame
    law = Law(E=1.62, A=122.55, B=242.61, alpha=0.2526, beta=0.2622)
    assert condition(law, frame["params"], frame["tokens"]) == pytest.approx(29.3, rel=0.02)
    assert check_design(frame) == ()


def test_the_scale_of_condition_numbers() -> None:
    n, d = isoflop_grid(np.geomspace(1e18, 1e22, 9), 7, 8)
    assert 15 < condition(LAW, n, d) < 60
    assert condition(LAW, *isoflop_grid([1e20], 30, 3)) > REFUSE
    sizes = np.geomspace(1e8, 1e10, 12)
    twin = Law(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.35)
    assert condition(twin, sizes, 20 * sizes) > 1e7
    assert condition(LAW, sizes[:4], [1e9, 1e10, 3e9, 1e11]) == np.inf


def test_condition_is_free_of_units() -> None:
    n, d = isoflop_grid(np.geomspace(1e18, 1e21, 4), 5, 4)
    none = Law(E=0.0, A=480.0, B=2100.0, alpha=0.35, beta=0.37)
    assert 1 < condition(none, n, d) < 1e3
    millions = Law(E=1.8, A=480.0 * 1e6**-0.35, B=2100.0 * 1e9**-0.37, alpha=0.35, beta=0.37)
    assert condition(millions, n / 1e6, d / 1e9) == pytest.approx(condition(LAW, n, d), rel=1e-9)


def test_condition_is_that_of_numerical_derivatives() -> None:
    n, d = isoflop_grid([1e18, 1e19, 1e20], 5, 4)
    x, y = np.log(n) - np.log(n).mean(), np.log(d) - np.log(d).mean()

    def predicted(p: Array) -> Array:
        return np.log(np.exp(p[0] - p[3] * x) + np.exp(p[1] - p[4] * y) + np.exp(p[2]))

    a = np.log(LAW.A) - LAW.alpha * np.log(n).mean()
    b = np.log(LAW.B) - LAW.beta * np.log(d).mean()
    at = np.array([a, b, np.log(LAW.E), LAW.alpha, LAW.beta])
    steps = 1e-5 * np.eye(5)
    jacobian = np.stack([(predicted(at + s) - predicted(at - s)) / 2e-5 for s in steps], axis=1)
    scaled = jacobian / np.linalg.norm(jacobian, axis=0)
    assert condition(LAW, n, d) == pytest.approx(np.linalg.cond(scaled), rel=1e-5)


SIZES = np.geomspace(1e8, 1e10, 12)
WAVE = np.sin(np.arange(12.0))


@pytest.mark.parametrize(
    ("n", "d", "words"),
    [
        (
            SIZES,
            20 * SIZES,
            r"all 12 runs lie on D = 20 N.*add runs at D/N below 10 and above 40 at two or more budgets",
        ),
        (SIZES, 20 * SIZES * np.exp(0.1 * WAVE), "lie nearly on D = 20.1 N"),
        (SIZES, 1e20 / 6 / SIZES, r"at one budget, 6 N D = 1\.00e\+20.*of 3\.3e\+19 or below and 3e\+20 or"),
        (SIZES, 1e20 / 6 / SIZES * np.exp(0.1 * WAVE), "lie nearly at one budget"),
        (SIZES, 1e3 * SIZES**0.7, r"on one line, D ~ N\^0\.7"),
        (1e3 * SIZES**0.7, SIZES, r"on one line, D ~ N\^1\.4"),
        (SIZES, 1e10, r"D takes 1 value \(1e\+10\).*below 5e\+09 and above 2e\+10"),
        (np.tile([1e8, 1e9], 6), SIZES, r"N takes 2 values \(1e\+08 and 1e\+09\)"),
        (SIZES, 1e10 * np.exp(0.1 * WAVE), r"have nearly one D, 9e\+09 and 1\.1e\+10.*above 2\.2e\+10"),
        (1e9 * np.exp(0.1 * WAVE), SIZES, "have nearly one N"),
        ((SIZES / 1e8) ** 0.25 * 1e9 * np.exp(0.1 * WAVE), SIZES, r"lie nearly on one line, D ~ N\^4"),
        ([1e8], [1e9], "1 run at 1 distinct"),
        (np.repeat([1e8, 1e9, 1e10, 3e8], 5), np.repeat([1e10, 1e9, 3e9, 1e8], 5), "20 runs at 4 distinct"),
    ],
)
def test_a_degenerate_design_is_refused_with_its_cure(n: npt.ArrayLike, d: npt.ArrayLike, words: str) -> None:
    with pytest.raises(NotIdentified, match=words):
        check_design(design(n, d))


@SETTINGS
@given(
    slope=st.floats(-2, 2).filter(lambda k: abs(k) > 0.05),
    count=st.integers(1, 40),
    decades=st.floats(0.5, 3),
    scatter=st.floats(0, 0.1),
    seed=st.integers(0, 1000),
)
def test_runs_along_any_line_are_refused(
    slope: float, count: int, decades: float, scatter: float, seed: int
) -> None:
    noise = np.random.default_rng(seed).uniform(-1, 1, count)
    n = 1e9 * 10 ** np.linspace(-decades / 2, decades / 2, count)
    d = 1e12 * (n / 1e9) ** slope * np.exp(scatter * noise)
    with pytest.raises(NotIdentified, match="add runs at"):
        check_design(design(n, d))


@SETTINGS
@given(
    budgets=st.integers(3, 9),
    sizes=st.integers(4, 12),
    decades=st.floats(1, 5),
    width=st.floats(2.5, 30),
    start=st.floats(12, 20),
)
def test_a_healthy_isoflop_grid_is_never_refused(
    budgets: int, sizes: int, decades: float, width: float, start: float
) -> None:
    n, d = isoflop_grid(np.geomspace(10**start, 10 ** (start + decades), budgets), sizes, width)
    check_design(design(n, d))


@SETTINGS
@given(count=st.integers(12, 60), seed=st.integers(0, 10_000))
def test_scattered_runs_are_never_refused(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    check_design(design(10 ** rng.uniform(6, 9, count), 10 ** rng.uniform(8, 11, count)))


def test_weak_designs_are_warned_of() -> None:
    close = check_design(design(*isoflop_grid([1e19, 2e19], 6, 1.5)))
    assert any(words.startswith("C spans only a factor 2;") for words in close)
    assert any(words.startswith("N spans only a factor 3.2;") for words in close)
    assert any(words.startswith("the number of budgets is 2;") for words in close)
    wide = check_design(design(*isoflop_grid([1e19, 2e19], 6, 16)))
    assert any(words.startswith("ln N and ln D have correlation -0.9") for words in wide)
    one_off = check_design(design(SIZES, np.r_[20 * SIZES[:11], 60 * SIZES[11]]))
    assert any(words.startswith("D/N spans only a factor 3;") for words in one_off)
    assert any(f"above {WARN:.0f}" in words for words in one_off)


def test_a_healthy_design_is_not_warned_of() -> None:
    assert check_design(design(*isoflop_grid([1e12, 3e12, 9.9e12], 5, 4))) == ()


def test_screening_lists_all_runs_and_flags_the_outliers() -> None:
    frame = runs_at(*isoflop_grid([1e18, 1e19, 1e20], 9, 4), noise=0.003)
    frame.loc[5, "loss"] *= 1.1
    frame.loc[12, "loss"] *= 0.93
    table = diagnose.screen(frame, diagnose.log_residuals(LAW, frame))
    assert sorted(table.index) == list(frame.index)
    assert table.index[:2].tolist() == [5, 12]
    assert table["flag"].tolist() == ["high", "low", *["ok"] * 25]
    assert table["z"].abs().is_monotonic_decreasing
    assert table.loc[5, "residual"] == pytest.approx(-np.log(1.1), abs=0.01)


def test_screening_of_exact_losses_flags_nothing() -> None:
    frame = runs_at(*isoflop_grid([1e18, 1e19, 1e20], 9, 4))
    assert set(diagnose.screen(frame, diagnose.log_residuals(LAW, frame))["flag"]) == {"ok"}


@pytest.mark.parametrize(
    ("law", "words"),
    [
        (LAW, []),
        (Law(E=1e-9, A=480.0, B=2100.0, alpha=0.35, beta=0.37), ["E is 1e-09: the runs show no irred"]),
        (Law(E=2.6, A=480.0, B=2100.0, alpha=0.35, beta=0.37), ["E is 2.6, the least loss"]),
        (Law(E=1.8, A=0.7, B=2100.0, alpha=1e-4, beta=0.37), ["alpha is 0.0001, at the limit"]),
        (Law(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=1.5), ["the term in D is at most"]),
    ],
)
def test_parameters_at_their_limits_are_named(law: Law, words: list[str]) -> None:
    frame = runs_at(*isoflop_grid([1e18, 1e19, 1e20], 5, 4))
    frame["loss"] *= 2.6 / frame["loss"].min()
    found = diagnose.at_bounds(law, frame)
    assert len(found) == len(words)
    assert all(sentence.startswith(word) for sentence, word in zip(found, words, strict=True))


def test_the_diagnosis_loads_no_torch() -> None:
    code = "import sys, scaling.laws.diagnose; print('torch' in sys.modules, 'scaling.fit' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
