import math
from pathlib import Path

import pandas as pd
import pytest

from mad.store import Store
from scaling.commands.reading import read
from scaling.laws.fitting import repeated
from scaling.laws.runs.cleaning import clean, tidy
from scaling.lm.frames import curves_frame, language_frame
from tests.mad.language_records import CORPUS, language


@pytest.fixture
def path(tmp_path: Path) -> Path:
    runs = [
        language(2.5, seed=0, created="2026-01-01"),
        language(2.0, seed=1, created="2026-01-02", study="second", role="single", budget=None),
        language(2.2, seed=2, created="2026-01-03", role="tuning"),
        language(status="diverged", seed=3, created="2026-01-04"),
        language(status="failed", seed=4, created="2026-01-05"),
    ]
    with Store(tmp_path / "store.sqlite") as store:
        store.commit(runs)
    return tmp_path / "store.sqlite"


def test_a_row_says_what_the_fits_read(path: Path) -> None:
    row = language_frame(path).iloc[0]
    expected = {
        "arch": "mamba",
        "params": 280_000,
        "tokens": 204_800,
        "flops": 1.5e6 * 204_800,
        "loss": 2.5,
        "ppl": math.exp(2.5),
        "state": 4096,
        "budget": 1e12,
        "status": "ok",
        "spec": "2*(mamba swiglu)",
        "dim": 64,
        "depth": 4,
        "lr": 1e-3,
        "batch_tokens": 2048,
        "seed": 0,
        "unique_tokens": 100_000,
        "epochs": 2.048,
        "params_total": 300_000,
        "params_core": 260_000,
        "seconds": 12.5,
    }
    assert {name: row[name] for name in expected} == expected
    assert math.isnan(row["floor"])


def test_tuning_and_failures_are_left_out_and_divergence_is_said(path: Path) -> None:
    assert list(language_frame(path)["seed"]) == [0, 1, 3]
    assert list(language_frame(path)["status"]) == ["ok", "ok", "diverged"]
    assert list(language_frame(path, roles=("tuning",))["seed"]) == [2]
    assert list(language_frame(path, study="second")["seed"]) == [1]


def test_the_table_is_one_that_the_fits_accept(path: Path) -> None:
    table = clean(tidy(language_frame(path), ids=True))
    assert list(table.frame["loss"]) == [2.5, 2.0]
    diverged = language(status="diverged", seed=3).id[:10]
    assert table.notes[0] == f"run {diverged} set aside: status 'diverged' is not ok"


def test_what_is_said_of_stored_runs_names_them_by_their_ids(path: Path) -> None:
    ids = [language(seed=seed).id[:10] for seed in (0, 1)]
    frame = language_frame(path)
    with pytest.raises(ValueError, match=f"runs {ids[0]}, {ids[1]}: tokens exceed 4 times unique_tokens"):
        repeated(clean(tidy(frame.assign(unique_tokens=1e4), ids=True)), "refuse", 15.4)
    both = pd.concat([frame, frame.assign(seed=9)])  # Ids that are not of one run each name none.
    assert tidy(both, ids=True).notes[0].startswith("rows 3, 6 set aside")


def test_a_stored_count_of_unique_tokens_that_cannot_be_costs_its_run_and_no_other(tmp_path: Path) -> None:
    runs = [language(2.5 - 0.1 * seed, seed=seed) for seed in range(3)]
    assert runs[1].metrics is not None
    metrics = runs[1].metrics.model_copy(update={"unique_tokens": 1, "epochs": 204_800.0})
    runs[1] = runs[1].model_copy(update={"metrics": metrics})
    with Store(tmp_path / "store.sqlite") as store:
        store.commit(runs)
    frame, _ = read(None, tmp_path / "store.sqlite")
    assert sorted(frame.frame["seed"]) == [0, 2]
    assert f"set aside: run {runs[1].id} (1.0 is not a count of the text" in frame.notes[0]


def test_an_open_store_serves_as_well(path: Path) -> None:
    with Store(path) as store:
        assert language_frame(store).equals(language_frame(path))


def test_the_entropy_of_the_text_is_its_floor(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite") as store:
        store.commit([language(corpus=CORPUS.model_copy(update={"entropy": 1.5}))])
        assert list(language_frame(store)["floor"]) == [1.5]


def test_a_store_without_runs_gives_an_empty_table(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite") as store:
        assert language_frame(store).empty and curves_frame(store).empty
        assert {"params", "tokens", "loss"} <= set(language_frame(store))


def test_curves_have_the_flops_spent_so_far(path: Path) -> None:
    curves = curves_frame(path)
    first = curves[curves["run"] == language(seed=0).id]
    assert list(first["step"]) == [50, 100]
    assert list(first["tokens"]) == [50 * 2048, 100 * 2048]
    assert list(first["flops"]) == [1.5e6 * 50 * 2048, 1.5e6 * 100 * 2048]
    assert list(first["loss"]) == pytest.approx([2.52, 2.5])
