"""The table of runs: what is refused, and in which words."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

import scaling
from scaling.laws.runs import cleaning as runs

PACKAGE = Path(scaling.__file__).parent
GOOD = pd.DataFrame(
    {
        "arch": ["a", "a", "b"],
        "params": [1_000_000, 2_000_000, 1_000_000],
        "tokens": [20_000_000, 40_000_000, 20_000_000],
        "loss": [3.5, 3.2, 3.4],
    }
)


def changed(row: int, column: str, value: object) -> pd.DataFrame:
    frame = GOOD.astype({column: object}) if column in GOOD else GOOD.copy()
    frame.loc[row - 1, column] = value
    return frame


def test_counts_become_float64_and_flops_do_not_overflow() -> None:
    huge = GOOD.assign(params=10**11, tokens=[10**13, 2 * 10**13, 3 * 10**13])
    clean = runs.clean(huge)
    assert clean.frame["flops"].tolist() == [6e24, 1.2e25, 1.8e25]
    assert clean.convention == "C = 6 N D"


def test_perplexity_serves_as_loss_and_further_columns_are_kept() -> None:
    frame = GOOD.drop(columns="loss").assign(ppl=np.exp([3.5, 3.2, 3.4]), seed=[1, 2, 3])
    clean = runs.clean(frame).frame
    np.testing.assert_allclose(clean["loss"], [3.5, 3.2, 3.4], rtol=1e-15)
    assert clean["seed"].tolist() == [1, 2, 3]
    assert "loss" not in frame


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (GOOD.drop(columns="tokens"), "column 'tokens' is missing; add it, or say"),
        (GOOD.rename(columns={"tokens": "Token"}), r"rename 'Token' or add it, .*--columns tokens=Token"),
        (GOOD[["arch"]], r"columns 'params', 'tokens' and 'loss' \(or 'ppl'\) are missing"),
        (GOOD.drop(columns="loss"), r"column 'loss' \(or 'ppl'\) is missing"),
        (changed(2, "params", np.nan), "row 2, column 'params': no value"),
        (changed(3, "loss", -1.0), "row 3, column 'loss': -1.0 is not a finite number above 0"),
        (changed(1, "tokens", 0), "row 1, column 'tokens': 0 is not"),
        (changed(1, "tokens", np.inf), "row 1, column 'tokens': inf"),
        (changed(1, "tokens", "20B"), "row 1, column 'tokens': '20B' is not a number"),
        (
            changed(1, "tokens", 20.0),
            "row 1: 2e-05 tokens per parameter, where the median is 20: units are mixed",
        ),
        (GOOD.assign(flops=[1.2e14, 4.8e14, 1.2e5]), "row 3: flops are 6e-09 params x tokens.*units"),
        (changed(1, "loss", 33.0), "row 1, column 'loss'.*perplexities"),
        (pd.concat([GOOD, GOOD.iloc[[1]]]), "rows 2, 4 are the same run"),
        (GOOD.iloc[:0], "there are no runs"),
        (GOOD.assign(status="diverged"), "there are no runs whose status is ok"),
        (pd.concat([GOOD, GOOD[["loss"]]], axis=1), "column 'loss' is there twice"),
    ],
)
def test_a_bad_table_is_named_by_row_and_column(frame: pd.DataFrame, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        runs.clean(frame)


def test_a_loss_below_the_entropy_is_refused() -> None:
    with pytest.raises(ValueError, match="row 2, column 'loss': 3.2 lies below the entropy of the text, 3.3"):
        runs.clean(GOOD.assign(floor=3.3))
    with pytest.raises(ValueError, match="row 3"):
        runs.clean(GOOD.assign(floor=[np.nan, 3.0, 3.41]))
    runs.clean(GOOD.assign(floor=[np.nan, 3.0, 3.41], slack=[np.nan, 0.0, 0.2]))


def test_mixed_units_of_tokens_are_found_without_flops() -> None:
    frame = pd.concat([GOOD.assign(tokens=2e13 + GOOD.index), GOOD.assign(tokens=200.0)])
    with pytest.raises(ValueError, match="rows 4, 5, 6.*units are mixed"):
        runs.clean(frame)


def test_two_seeds_of_one_size_are_not_duplicates() -> None:
    assert len(runs.clean(pd.concat([GOOD, GOOD.assign(loss=GOOD["loss"] + 0.01)]))) == 6
    assert len(runs.clean(pd.concat([GOOD, GOOD]), duplicates=True)) == 6


def test_runs_that_are_not_ok_are_set_aside_and_listed() -> None:
    frame = GOOD.assign(status=["ok", "diverged", "ok"], loss=[3.5, np.nan, 3.4])
    clean = runs.clean(frame)
    assert clean.frame.index.tolist() == [1, 3]
    assert clean.notes == ("row 2 set aside: status 'diverged' is not ok",)


def test_budgets_are_taken_found_or_snapped() -> None:
    flops = [1.00e12, 1.04e12, 3.0e12, 2.9e12, 9.9e12]
    frame = runs.clean(
        pd.DataFrame(
            {"params": 1e5, "tokens": np.array(flops) / 6e5, "flops": flops, "loss": [3, 2, 1, 4, 5]}
        )
    ).frame
    found = runs.budgets(frame)
    assert found.nunique() == 3
    assert found.iloc[0] == found.iloc[1] == pytest.approx((1.00e12 * 1.04e12) ** 0.5)
    snapped = runs.budgets(frame, given=[1e12, 1e13], within=0.03)
    np.testing.assert_array_equal(snapped, [1e12, np.nan, np.nan, np.nan, 1e13])
    named = runs.budgets(frame.assign(budget=[1e12, 1e12, 3e12, 3e12, 1e13]))
    assert named.tolist() == [1e12, 1e12, 3e12, 3e12, 1e13]


@pytest.mark.parametrize(
    "names", [[1, 1, 2, 2, 3], [3, 3, 1, 1, 2], [1e-6, 1e-6, 3e-6, 3e-6, 1e-5], [*"ssmml"]]
)
def test_a_budget_that_is_a_name_counts_as_the_flops_of_its_runs(names: list[object]) -> None:
    flops = np.array([1.00e12, 1.04e12, 3.0e12, 2.9e12, 9.9e12])
    table = pd.DataFrame({"params": 1e5, "tokens": flops / 6e5, "flops": flops, "loss": [3, 2, 1, 4, 5]})
    found = runs.budgets(runs.clean(table.assign(budget=names)).frame)
    means = [(1.00 * 1.04) ** 0.5 * 1e12] * 2 + [(3.0 * 2.9) ** 0.5 * 1e12] * 2 + [9.9e12]
    np.testing.assert_allclose(found, means, rtol=1e-12)


def test_no_module_is_named_like_a_public_function() -> None:
    files = {path.stem for room in ("laws", "scores", "report") for path in PACKAGE.glob(f"{room}/**/*.py")}
    assert not files & set(scaling.__all__)
    for path in PACKAGE.glob("laws/**/*.py"):
        assert path.stem not in re.findall(r"^def (\w+)", path.read_text(), re.MULTILINE), path
    for name in scaling.__all__:
        assert not isinstance(getattr(scaling, name), ModuleType), name


def test_the_package_loads_nothing_until_it_is_asked() -> None:
    code = "import sys, scaling; print(sorted({'torch', 'pandas', 'scipy', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rows_of_a_part_of_a_table_keep_their_numbers() -> None:
    whole = runs.tidy(changed(3, "tokens", np.nan))
    with pytest.raises(ValueError, match="row 3, column 'tokens'"):
        runs.clean(whole.only(whole.frame.iloc[1:]))
