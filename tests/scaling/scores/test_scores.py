"""The table of synthetic scores: which columns count, in which unit, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaling.scores.matching import match
from scaling.scores.table import TASKS, read_scores

GOOD = pd.DataFrame(
    {
        "model": ["Hyena", "Striped Hyena", "Mamba"],
        "compression": [45.2, 47.2, 52.7],
        "fuzzy_recall": [7.9, 23.3, 6.7],
        "in_context_recall": [81.8, 100.0, 90.4],
    }
)


def test_short_and_long_names_of_tasks_and_fractions_are_one() -> None:
    short = read_scores(GOOD)
    long = GOOD.rename(columns={"model": "arch", "fuzzy_recall": "fuzzy-in-context-recall"})
    long = long.rename(columns={"in_context_recall": "in-context-recall"})
    numbers = [column for column in long if column != "arch"]
    other = read_scores(long.assign(**(long[numbers] / 100)))
    assert set(short.columns) == {"mean", TASKS[0], TASKS[1], "compression"}
    pd.testing.assert_frame_equal(short.frame, other.frame)
    assert "fractions" in other.notes[0] and "as %" in short.notes[0]


def test_the_mean_is_that_of_the_tasks_unless_it_is_given() -> None:
    assert read_scores(GOOD).frame["mean"]["Hyena"] == pytest.approx((45.2 + 7.9 + 81.8) / 3)
    given = read_scores(GOOD.assign(average=[45.0, 56.8, 60.0]))
    assert given.frame["mean"]["Mamba"] == 60.0
    assert any(note.startswith("Mamba: the mean that was given") for note in given.notes), (
        "50 is the mean of the columns"
    )


def test_a_row_that_lacks_a_task_has_no_mean_of_its_own() -> None:
    holes = GOOD.astype({"compression": float})
    holes.loc[1, "compression"] = np.nan
    assert np.isnan(read_scores(holes).frame["mean"]["Striped Hyena"])


def test_a_leaderboard_is_a_table_of_scores() -> None:
    board = pd.DataFrame(
        {
            "architecture": ["mamba", "hyena", "x"],
            "given": ["mamba", "hyena", "x"],
            "spec": ["4*mamba", "2*(hyena swiglu)", "4*rwkv"],
            "params": pd.array([1000, 2000, None], dtype="Int64"),
            "mad": [0.6, 0.5, 0.55],
            "mad_low": [0.5, 0.4, 0.5],
            "mad_high": [0.7, 0.6, 0.6],
            "compression": [0.6, 0.5, 0.55],
            "compression_low": [0.5, 0.4, 0.5],
            "compression_high": [0.7, 0.6, 0.6],
            "my-task": [0.1, 0.9, 0.2],
            "my-task_low": [0.0, 0.8, 0.1],
            "my-task_high": [0.2, 1.0, 0.3],
            "missing": ["", "", "compression/3"],
        }
    )
    read = read_scores(board)
    assert read.columns == ("mean", "compression", "my-task")
    assert read.frame["mean"].tolist()[:2] == [60.0, 50.0] and np.isnan(read.frame["mean"]["x"])
    assert read.names["mamba"] == ("mamba", "4*mamba")
    assert any("x: runs are missing" in note for note in read.notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"compression": [45.2, 147.2, 50.0]}, "row 2, column 'compression': 147.2"),
        ({"compression": [-1.0, 47.2, 50.0]}, "row 1, column 'compression': -1"),
        ({"compression": [45.2, "good", 50.0]}, "row 2, column 'compression': 'good' is not a number"),
        ({"compression": [0.452, 0.472, 0.5]}, "column 'compression' of the scores holds fractions"),
        ({"model": ["Hyena", "Mamba", "Mamba"]}, "rows 2, 3 of the scores all are 'Mamba'"),
        ({"context-recall": [1.0, 2.0, 3.0]}, "both are in-context-recall"),
    ],
)
def test_what_is_not_a_table_of_scores_is_refused(change: dict[str, list[object]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_scores(GOOD.assign(**change))


def test_one_row_of_fractions_among_percents_is_refused() -> None:
    mixed = GOOD.copy()
    mixed.loc[2, ["compression", "fuzzy_recall", "in_context_recall"]] = [0.527, 0.067, 0.904]
    with pytest.raises(ValueError, match="row 3 of the scores holds fractions"):
        read_scores(mixed)


def test_lacking_columns_are_answered_with_what_is_near() -> None:
    for blank in (None, " ", "nan"):
        with pytest.raises(ValueError, match="row 1 of the scores, column 'arch': no value"):
            read_scores(pd.DataFrame({"arch": [blank, "b", "c"], "mean": [10.0, 20.0, 30.0]}))
    with pytest.raises(ValueError, match="no column 'arch'"):
        read_scores(GOOD.drop(columns="model"))
    with pytest.raises(ValueError, match="'compresion' was not read; if it is a score, call it compression"):
        read_scores(GOOD[["model"]].assign(compresion=1.0))
    with pytest.raises(ValueError, match="there are no scores"):
        read_scores(GOOD.iloc[:0])
    with pytest.raises(ValueError, match="give a pandas.DataFrame"):
        read_scores({"arch": ["a"]})


def named(*names: str) -> dict[str, tuple[str, ...]]:
    return {name: (name,) for name in names}


def test_names_meet_by_text_then_by_spelling_then_by_spec_then_by_pattern() -> None:
    matched, rest = match(named("Gated DeltaNet", "hyena"), ["gated-deltanet", "hyena"])
    assert matched == {"Gated DeltaNet": "gated-deltanet", "hyena": "hyena"} and rest == ()
    matched, _ = match(named("hyena"), ["2*(hyena swiglu)"])
    assert matched == {"hyena": "2*(hyena swiglu)"}, "the preset is that spec"
    matched, _ = match(named("striped-hyena"), ["4*(hyena swiglu mh-attention swiglu)"])
    assert matched == {"striped-hyena": "4*(hyena swiglu mh-attention swiglu)"}


def test_a_label_is_met_by_the_specs_of_its_runs() -> None:
    runs = {
        "attention": ("attention", "mh-attention swiglu", "3*(mh-attention swiglu)"),
        "hyena": ("hyena", "8*(hyena swiglu)"),
    }
    matched, rest = match(named("2*(mh-attention swiglu)", "2*(hyena swiglu)"), runs)
    assert matched == {"2*(mh-attention swiglu)": "attention", "2*(hyena swiglu)": "hyena"} and rest == ()
    twins = {"plain": ("plain", "mh-attention swiglu"), "wide": ("wide", "2*(mh-attention swiglu)")}
    assert match(named("4*(mh-attention swiglu)"), twins)[0] == {}, "either could be meant"
    assert match(named("wide"), twins)[0] == {"wide": "wide"}


def test_a_name_that_could_be_two_is_none() -> None:
    matched, rest = match(named("Deltanet", "DeltaNet"), ["delta-net"])
    assert matched == {}
    assert (
        rest[0] == "Only in the scores: 'Deltanet' (nearest: 'delta-net'), 'DeltaNet' (nearest: 'delta-net')."
    )


def test_what_has_no_partner_is_named_with_the_nearest() -> None:
    matched, rest = match(named("Mamba-2", "RWKV-7", "GLA"), ["GLA", "Mamba"])
    assert matched == {"GLA": "GLA"}
    assert rest == (
        "Only in the scores: 'Mamba-2' (nearest: 'Mamba'), 'RWKV-7'.",
        "Only in the runs: 'Mamba' (nearest: 'Mamba-2').",
    )
    with pytest.raises(ValueError, match="'GLA' is there twice"):
        match(named("GLA"), ["GLA", "GLA"])
