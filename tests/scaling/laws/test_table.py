"""Tables as people have them: one reading for every form of file, and no row lost in silence."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import scaling
from scaling.laws.law import Law
from scaling.laws.runs.files import read_table
from scaling.laws.runs.rows import ends, tidy
from scaling.report.results.allocation import side_by_side

LAW = Law(E=1.8, A=480.0, B=2080.0, alpha=0.35, beta=0.37)


def design(*, sizes: int = 5, budgets: int = 4) -> pd.DataFrame:
    """Runs of a known law, without noise, as counts."""
    c = np.repeat(np.geomspace(1e18, 3e20, budgets), sizes)
    n = np.round(LAW.n_opt(c) * np.tile(np.geomspace(1 / 4, 4, sizes), budgets))
    d = np.round(c / (6 * n))
    return pd.DataFrame({"params": n, "tokens": d, "loss": LAW.loss(n, d)})


def written(folder: Path, text: str | bytes, name: str = "runs.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


PLAIN = design().to_csv(index=False)
FORMS: dict[str, tuple[str, Callable[[], str | bytes]]] = {
    "semicolons": ("runs.csv", lambda: design().to_csv(index=False, sep=";")),
    "bars": ("runs.csv", lambda: design().to_csv(index=False, sep="|")),
    "tabs": ("runs.tsv", lambda: design().to_csv(index=False, sep="\t")),
    "decimal commas": ("runs.csv", lambda: design().to_csv(index=False, sep=";", decimal=",")),
    "excel": ("runs.csv", lambda: "sep=;\r\n" + design().to_csv(index=False, sep=";")),
    "mark": ("runs.csv", lambda: "\ufeff" + PLAIN),
    "utf-16": ("runs.txt", lambda: design().to_csv(index=False, sep="\t").encode("utf-16")),
    "quotes": ("runs.csv", lambda: PLAIN.replace("params,tokens,loss", '"params", "tokens", "loss"')),
    "spaces": ("runs.csv", lambda: PLAIN.replace(",", " , ")),
    "blank lines": ("runs.csv", lambda: "\n" + PLAIN.replace("\n", "\n\n", 3) + ",,\n,,\n"),
    "an index": ("runs.csv", lambda: design().to_csv()),
    "gzip": ("runs.csv.gz", lambda: gzip.compress(PLAIN.encode())),
    "json": ("runs.json", lambda: design().to_json(orient="records", double_precision=15)),
    "runs in json": ("runs.json", lambda: json.dumps({"runs": design().to_dict("records")})),
    "columns in json": ("runs.json", lambda: design().to_json(double_precision=15)),
    "json lines": ("runs.jsonl", lambda: design().to_json(orient="records", lines=True, double_precision=15)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_table_is_the_same_table(form: str, tmp_path: Path) -> None:
    name, text = FORMS[form]
    found = scaling.read(written(tmp_path, text(), name))
    # pandas writes JSON with 15 digits.
    pd.testing.assert_frame_equal(
        found.frame[["params", "tokens", "loss"]].reset_index(drop=True),
        design(),
        check_dtype=False,
        rtol=1e-14,
    )
    assert found.frame.index.tolist() == list(range(1, 21))
    said = form not in ("mark", "quotes", "spaces", "gzip", "an index")
    assert bool(found.notes) == said, found.notes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is empty"),
        ("params\n\xff", "cannot be read as CSV"),
        ("params,tokens,loss\n1,2,3,\n1,2,3,\n", r"lines 2, 3 have 4 fields, the header has 3; take the sep"),
        ("params,tokens,loss\n1,2,3\n\n1,2\n", r"line 4 has 2 fields, the header has 3; give each row"),
        ("sep=;\nparams;tokens;loss\n1;2\n", r"line 3 has 2 fields"),
        ("params,tokens,loss,loss\n1,2,3,4\n", "column 'loss' is there twice"),
        ('params,tokens\n"1,2\n', "cannot be read as CSV"),
        ('[{"params": 1}, 7]', "element 2 is not an object"),
        ('{"params": 1}\n{"params": \n', "line 2 is not JSON"),
        ('[{"params": 1, "params": 2}]', "'params' is there twice in one object"),
        ("[" * 100_000, "cannot be read as JSON"),
    ],
)
def test_a_file_that_is_not_a_table_is_named_with_the_line(text: str, words: str, tmp_path: Path) -> None:
    content = text.encode("latin-1")
    with pytest.raises(ValueError, match=words):
        scaling.read(written(tmp_path, content))
    with pytest.raises(ValueError, match=r"none\.csv is not a file"):
        scaling.read(tmp_path / "none.csv")
    with open(written(tmp_path, "params"), "r+b") as sparse:
        sparse.truncate(2**30 + 1)
    with pytest.raises(ValueError, match=r"runs\.csv has more than 1,073,741,824 bytes"):
        scaling.read(tmp_path / "runs.csv")


def test_cells_become_numbers_truths_or_words_and_blanks_stay_blank(tmp_path: Path) -> None:
    text = "a,b,c,d,e\n1,1.5,true,x,1\n2,nan,False,,1e3\n3,,TRUE,nan,oops\n"
    frame = read_table(written(tmp_path, text))
    assert frame["a"].tolist() == [1, 2, 3] and frame["a"].dtype == np.int64
    assert frame["b"][0] == 1.5 and frame["b"].isna().tolist() == [False, True, True]
    assert frame["c"].tolist() == [True, False, True]
    assert frame["d"].isna().tolist() == [False, True, False] and frame["e"].tolist() == ["1", "1e3", "oops"]


def test_a_thousands_comma_is_not_a_decimal_comma(tmp_path: Path) -> None:
    path = written(tmp_path, "params;tokens;loss\n1,234;2e7;3.1\n")
    with pytest.raises(ValueError, match="row 1, column 'params': '1,234' is not a number"):
        scaling.fit(scaling.read(path))
    path = written(tmp_path, "params;tokens;loss\n1,234,567;2e7;3.1\n")
    with pytest.raises(ValueError, match="row 1, column 'params': '1,234,567' is not a number"):
        scaling.fit(scaling.read(path))


@pytest.mark.parametrize(
    "names",
    [
        {"params": "N", "tokens": "D", "loss": "val_loss"},
        {"params": "n_params", "tokens": "training_tokens", "loss": "valid/loss"},
        {"params": "Model Size", "tokens": "num_tokens", "loss": "eval_loss"},
        {"params": "Parameters", "tokens": " tokens ", "loss": "Loss"},
    ],
)
def test_well_known_names_are_recognised_and_said(names: dict[str, str]) -> None:
    found = tidy(design().rename(columns=names))
    pd.testing.assert_frame_equal(found.frame[["params", "tokens", "loss"]].reset_index(drop=True), design())
    [note] = found.notes
    assert all(repr(theirs.strip()) in note for theirs in names.values() if theirs.strip() != "tokens")


def test_an_index_with_names_holds_columns_and_tensors_hold_numbers() -> None:
    both = pd.concat([design().assign(arch=name) for name in ("a", "b")], ignore_index=True)
    for index in ("arch", ["params", "arch"]):
        found = tidy(both.set_index(index))
        pd.testing.assert_frame_equal(found.frame[list(both)].reset_index(drop=True), both)
    tensors = design().assign(loss=lambda frame: [np.array(loss) for loss in frame["loss"]])
    pd.testing.assert_frame_equal(tidy(tensors).frame[list(design())].reset_index(drop=True), design())
    for other in (design().to_numpy(), design().to_dict("list"), design()["loss"]):
        with pytest.raises(ValueError, match="runs are a .*; give a pandas.DataFrame"):
            scaling.read(other)


@pytest.mark.parametrize("tokens", [200, 1024])
def test_losses_that_are_sums_are_refused_in_a_line(tokens: int) -> None:
    with pytest.raises(ValueError, match="no fitted model is above 7.5 nats .* if they are sums") as caught:
        tidy(design().assign(loss=lambda frame: tokens * frame["loss"]))
    assert len(str(caught.value)) < 300


def test_a_condition_reaches_columns_only() -> None:
    for where, words in (
        ("@pd.notna(tokens)", "local variable 'pd' is not defined"),
        ("1", "'1' is not a condition on each row"),
    ):
        with pytest.raises(ValueError, match=words):
            scaling.read(design(), where=where)


def test_json_may_hold_anything_in_a_cell(tmp_path: Path) -> None:
    rows = design().to_dict("records")
    for name in ("seed", "model", "budget", "notes"):
        text = json.dumps([row | {name: [1, {"a": None}]} for row in rows])
        assert len(tidy(scaling.read(written(tmp_path, text, "runs.json")))) == 20
    for digits in (400, 5000):
        text = json.dumps(rows).replace('"loss": ', f'"loss": {"9" * digits}, "was": ')
        with pytest.raises(ValueError, match="column 'loss': inf is not a finite number"):
            scaling.fit(scaling.read(written(tmp_path, text, "runs.json")))


def test_columns_are_read_as_the_user_says() -> None:
    frame = design().rename(columns={"params": "size", "tokens": "seen"}).assign(train=9.0)
    found = scaling.read(frame, columns={"params": "size", "tokens": "seen"}, where="size > 1e8")
    assert found.frame["params"].min() > 1e8 and found.frame.index[0] > 1
    swapped = scaling.read(design().assign(ppl=lambda f: np.exp(f["loss"]), loss=3.0), columns={"ppl": "ppl"})
    assert "ppl" in swapped.frame
    law = scaling.fit(
        scaling.read(design().assign(loss=lambda f: np.exp(f["loss"])), columns={"ppl": "loss"})
    )
    assert law.E == pytest.approx(LAW.E, rel=1e-3)
    for columns, words in (
        ({"param": "size"}, "'param' is not one of our columns; did you mean 'params'"),
        ({"params": "sizes"}, "no column 'sizes'; did you mean 'size'"),
    ):
        with pytest.raises(ValueError, match=words):
            scaling.read(frame, columns=columns)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"val_loss": 2.0}, "columns 'loss' and 'val_loss' may all be loss; choose one with --columns"),
        ({"Loss": 2.0}, "columns 'loss' and 'Loss' may all be loss"),
        ({"loss.1": 2.0}, "column 'loss' is there twice"),
        ({"ppl": 7.0}, "column 'loss' is .* and ln of column 'ppl' 1.946"),
    ],
)
def test_two_columns_for_one_quantity_are_refused(extra: dict[str, float], words: str) -> None:
    frame = design().assign(**extra)
    with pytest.raises(ValueError, match=words):
        scaling.fit(frame)
    [other] = extra
    scaling.read(frame.rename(columns={"loss.1": "other"}), columns={"loss": "loss"})
    if other in ("val_loss", "Loss"):
        assert scaling.read(frame, columns={"loss": other}).frame["loss"].eq(2.0).all()


def test_losses_in_bits_are_named_where_the_perplexity_shows_them() -> None:
    frame = design().assign(ppl=lambda f: np.exp(f["loss"]), loss=lambda f: f["loss"] / np.log(2))
    with pytest.raises(ValueError, match=r"loss looks like bits: divide it by 1\.4427"):
        scaling.fit(frame)


BAD_UNITS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "params in millions": lambda f: f.assign(params=f["params"] / 1e6),
    "tokens in millions": lambda f: f.assign(tokens=f["tokens"] / 1e6),
    "both in millions": lambda f: f.assign(params=f["params"] / 1e6, tokens=f["tokens"] / 1e6),
    "tokens in billions": lambda f: f.assign(tokens=f["tokens"] / 1e9),
    "both in billions": lambda f: f.assign(params=f["params"] / 1e9, tokens=f["tokens"] / 1e9),
    "steps": lambda f: f.assign(tokens=np.round(f["tokens"] / 2**19)),
    "one row in millions": lambda f: f.assign(params=f["params"].where(f.index != 3, f["params"] / 1e6)),
    "perplexities": lambda f: f.assign(loss=np.exp(f["loss"])),
    "perplexities from 8 to 24": lambda f: f.assign(loss=np.interp(f["loss"], [2.3, 3.6], [8, 24])),
}


@pytest.mark.parametrize("unit", BAD_UNITS)
@pytest.mark.parametrize("call", ["fit", "isoflop", "overtraining"])
def test_wrong_units_are_refused_by_every_function(unit: str, call: str) -> None:
    with pytest.raises(ValueError, match="count|perplexities|units are mixed"):
        getattr(scaling, call)(BAD_UNITS[unit](design()))


def test_flops_of_its_own_let_an_odd_table_pass_with_a_serious_note() -> None:
    frame = BAD_UNITS["params in millions"](design()).assign(params=lambda f: f["params"] * 5)
    frame["flops"] = 6 * frame["params"] * frame["tokens"]
    law = scaling.fit(frame.iloc[:, :], bootstrap=0)
    assert law.warnings[0].startswith("serious: tokens per parameter are") and law.n == 20


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda loss: loss, None),
        (lambda loss: 2.6 * loss, "the least loss is 6.137 nats per token"),
        (lambda loss: np.exp(loss) / 3, "rows 1, 5: the loss is above ln 50,000"),
    ],
)
def test_losses_that_are_hardly_nats_are_a_serious_note(
    change: Callable[[Any], Any], words: str | None
) -> None:
    """Perplexities of 4 to 12 look like losses of models that have learned little."""
    notes = tidy(design().assign(loss=lambda f: change(f["loss"]))).notes
    assert notes[0].startswith(f"serious: {words}") if words else not notes
    assert not tidy(design().assign(ppl=lambda f: np.exp(2 * f["loss"]))[["params", "tokens", "ppl"]]).notes


@pytest.mark.parametrize("blank", [None, np.nan, "", "  ", "nan", "NaN", pd.NA])
def test_a_blank_architecture_is_refused_by_every_function(blank: Any) -> None:
    frame = pd.concat([design().assign(arch=name) for name in "ab"], ignore_index=True)
    frame["arch"] = frame["arch"].astype(object)
    frame.loc[[0, 9], "arch"] = blank
    scores = pd.DataFrame({"arch": list("abc"), "mean": [10, 20, 30]})
    for call in (scaling.fit, scaling.isoflop, scaling.compare, scaling.overtraining, scaling.state_law):
        with pytest.raises(ValueError, match="rows 1, 10, column 'arch': no value"):
            call(frame)
    with pytest.raises(ValueError, match="rows 1, 10, column 'arch': no value"):
        scaling.relate(scores, frame)


def test_names_are_words_whatever_type_they_came_in() -> None:
    frame = design().assign(arch=pd.Categorical(["x "] * 10 + ["x"] * 10, categories=["x", "x ", "unused"]))
    found = tidy(frame)
    assert found.frame["arch"].unique().tolist() == ["x"] and "only by spaces" in found.notes[0]
    assert tidy(design().assign(arch=[1, "1"] * 10)).frame["arch"].unique().tolist() == ["1"]


@pytest.mark.parametrize("word", ["finished", "OK", "Completed", " success ", "done", "", None])
def test_a_status_that_is_a_good_end_counts_and_is_said(word: str | None) -> None:
    frame = design().assign(status=["ok"] * 19 + [word])
    found = tidy(frame)
    assert len(found) == 20
    assert any("counts as ok" in note for note in found.notes) == (word != "OK")


@pytest.mark.parametrize("word", ["crashed", "killed", "running", "diverged", "what?"])
def test_any_other_status_sets_the_row_aside_by_name(word: str) -> None:
    law = scaling.fit(design().assign(status=["ok"] * 19 + [word]), bootstrap=0)
    assert law.n == 19 and f"row 20 set aside: status {word!r} is not ok" in law.warnings
    with pytest.raises(ValueError, match=f"no runs whose status is ok.*{word.rstrip('?')}"):
        scaling.fit(design().assign(status=word))


@pytest.mark.parametrize(
    ("name", "bad", "well"),
    [
        ("converged", False, True),
        ("Is Finished", "no", "yes"),
        ("exit_code", 137, 0),
        ("ExitCode", "0:9", "0:0"),
        ("preempted", 1, 0),
    ],
)
def test_columns_that_say_how_a_run_ended_are_read(name: str, bad: object, well: object) -> None:
    frame = design().assign(**{name: well})
    assert tidy(frame).notes == ()
    frame[name] = [well] * 4 + [bad] + [well] * 14 + [None]
    found = tidy(frame)
    assert found.frame.index.tolist() == [*range(1, 5), *range(6, 21)]
    assert found.notes == (f"row 5 set aside: column {name!r} says so",)
    with pytest.raises(ValueError, match="no runs whose status is ok .*or take the column out"):
        tidy(frame.assign(**{name: bad}))


@pytest.mark.parametrize("yes", [1, True, "yes", "True", 1.0])
@pytest.mark.parametrize("name", ["diverged", "Failed", "crashed"])
def test_a_column_that_says_yes_sets_the_row_aside(name: str, yes: Any) -> None:
    frame = design().assign(**{name: pd.Series([0] * 20, dtype=object)})
    assert tidy(frame).notes == ()
    frame.loc[4, name] = yes
    assert tidy(frame).notes == (f"row 5 set aside: column {name!r} says so",)
    assert "was not read" in tidy(frame.assign(**{name: 3500})).notes[0]


def curves(copies: int = 3) -> pd.DataFrame:
    parts = [
        design().assign(run=[f"r{i}" for i in range(20)], tokens=lambda f, k=k: f["tokens"] * k / copies)
        for k in range(1, copies + 1)
    ]
    frame = pd.concat(parts, ignore_index=True)
    return frame.assign(loss=LAW.loss(frame["params"], frame["tokens"]))


def test_a_run_is_its_last_row_and_what_was_merged_is_said() -> None:
    found = ends(tidy(curves()))
    np.testing.assert_allclose(found.frame["tokens"], design()["tokens"])
    assert "60 rows are the training curves of 20 runs" in found.notes[0]
    two = pd.concat([curves().assign(arch="a"), curves().assign(arch="b")], ignore_index=True)
    assert len(ends(tidy(two))) == 40


@pytest.mark.parametrize("blank", [None, "", " ", "nan"])
def test_a_run_without_a_label_is_refused_beside_curves_and_single_without(blank: str | None) -> None:
    frame = curves()
    frame.loc[[1, 21, 41], "run"] = blank
    with pytest.raises(ValueError, match="rows 2, 22, 42, column 'run': no value"):
        ends(tidy(frame))
    single = design().assign(run=[blank, blank, *map(str, range(18))])
    assert len(ends(tidy(single))) == 20


def test_a_run_that_ended_badly_goes_with_its_curve() -> None:
    frame = curves().assign(status="ok")
    frame.loc[45, "status"] = "crashed"
    found = ends(tidy(frame))
    assert len(found) == 19 and "rows 6, 26 set aside with the rest of their run" in found.notes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.assign(run="0"), "run '0' has 20 sizes"),
        (lambda f: f.assign(tokens=f["tokens"].where(f["run"] != "r0")), "rows 1, 21, 41, column 'tokens'"),
        (lambda f: f.assign(tokens=f["tokens"].where(f["run"] != "r0", 9e9)), "a run ends twice"),
        (lambda f: f.drop(columns="tokens"), "column 'tokens' is missing"),
    ],
)
def test_rows_that_are_not_a_curve_are_not_merged(change: Callable[[pd.DataFrame], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ends(tidy(change(curves())))


def test_a_history_of_wandb_names_the_option_that_cures_it() -> None:
    frame = curves().rename(columns={"run": "Name"}).assign(_step=lambda f: np.round(f["tokens"] / 5e5))
    with pytest.raises(ValueError, match="say --columns run=Name"):
        scaling.fit(frame)
    assert len(ends(scaling.read(frame, columns={"run": "Name"}))) == 20
    [note] = tidy(frame.rename(columns={"_step": "step"})).notes
    assert (
        note.startswith("serious:")
        and "if these are training curves" in note
        and "--columns run=Name" in note
    )


def test_two_models_that_are_named_with_their_sizes_are_seen() -> None:
    sizes = [f"{n / 1e6:.0f}M" for n in design()["params"]]
    both = pd.concat([design().assign(model=[f"{name}-{n}" for n in sizes]) for name in ("tf", "mamba2")])
    [note] = tidy(both.reset_index(drop=True)).notes
    assert note.startswith("serious: column 'model' names 2 models by their sizes (tf, mamba2)")
    for names in ([f"tf-{n}" for n in sizes], [f"{i}-{n}" for i, n in enumerate(sizes)]):
        assert tidy(design().assign(model=names)).notes == ()


def test_architectures_that_are_spelled_nearly_alike_are_named() -> None:
    both = pd.concat([design().assign(arch=name) for name in ("tf-x", "TF_X", "λ", "Ω")], ignore_index=True)
    [note] = tidy(both).notes
    assert note == "'tf-x' and 'TF_X' are architectures of their own, alike but for case and hyphens"


def test_two_models_in_one_table_name_the_option_that_parts_them() -> None:
    frame = pd.concat([design().assign(model=name) for name in ("one", "two")], ignore_index=True)
    frame.loc[20:, "loss"] *= 1.01
    [note] = tidy(frame).notes
    assert note.startswith("serious:") and note.endswith("say --by model")
    apart = tidy(frame.assign(params=frame["params"].where(frame["model"] == "one", 1.3 * frame["params"])))
    assert "--by model fits each by itself" in apart.notes[0]
    assert scaling.read(frame, by="model").notes == ()
    assert tidy(frame.rename(columns={"model": "seed"})).notes == ()


def test_a_sweep_of_rates_that_is_read_as_runs_of_one_law_is_named() -> None:
    rates = (1e-3, 3e-3, 1e-2)
    sweep = pd.concat([design().assign(lr=rate) for rate in rates], ignore_index=True)
    sweep["loss"] *= 1 + 3 * sweep["lr"]
    [note] = tidy(sweep).notes
    assert note.startswith("serious:") and note.endswith("say --by lr")
    assert scaling.read(sweep, where="lr == 0.001").notes == ()
    two = pd.concat([sweep.assign(arch=name) for name in ("one", "two")], ignore_index=True)
    assert (
        tidy(two)
        .notes[0]
        .endswith("column 'lr', and are fitted as one architecture; choose one value with --where")
    )
    # A number that is measured, here in replicas, is not a setting.
    hours = np.random.default_rng(0).integers(1, 9, len(sweep))
    assert tidy(sweep.rename(columns={"lr": "seed"}).assign(hours=hours)).notes == ()


def test_no_column_of_another_unit_is_advised() -> None:
    frame = design().rename(columns={"loss": "loss_bits", "tokens": "tokens_per_param"})
    with pytest.raises(ValueError, match=r"--columns tokens=NAME,loss=NAME"):
        scaling.fit(frame)


@pytest.mark.parametrize("budget", ["index", "from 0", "words", "exaflops", "thrice", "half"])
def test_a_column_budget_groups_runs_whatever_it_counts(budget: str) -> None:
    frame = design()
    flops, index = 6 * frame["params"] * frame["tokens"], np.repeat(np.arange(4), 5)
    units = {
        "index": index + 1,
        "from 0": index,
        "words": [f"budget {i}" for i in index],
        "exaflops": flops.round(-16) / 1e18,
        "thrice": 3 * np.repeat(np.geomspace(1e18, 3e20, 4), 5),
        "half": 0.5 * np.repeat(np.geomspace(1e18, 3e20, 4), 5),
    }
    named = frame.assign(budget=units[budget])
    found, plain = scaling.isoflop(named, bootstrap=100), scaling.isoflop(frame, bootstrap=100)
    assert found.exponent == pytest.approx(plain.exponent, abs=1e-9)
    assert any("column 'budget' is" in note for note in found.warnings)
    assert scaling.fit(named, bootstrap=0).E == pytest.approx(LAW.E, rel=1e-3)


def test_budgets_that_group_nothing_are_found_anew() -> None:
    frame = design()
    own = frame.assign(budget=6 * frame["params"] * frame["tokens"])
    found = scaling.isoflop(own, bootstrap=100)
    assert found.exponent == pytest.approx(scaling.isoflop(frame, bootstrap=100).exponent, rel=1e-9)
    assert any("every run has a budget of its own" in words for words in found.warnings)


def test_a_run_far_from_the_flops_of_its_budget_is_named() -> None:
    frame = design().assign(budget=np.repeat(np.geomspace(1e18, 3e20, 4), 5))
    assert tidy(frame).notes == ()
    frame.loc[2, "budget"] = frame.loc[12, "budget"]
    [note] = tidy(frame).notes
    assert note.startswith("row 3: 1e+18 FLOPs in the budget 4.48140") and "check its budget" in note
    frame.loc[2, "budget"] = np.nan
    assert "row 3: no budget, so groups are found" in tidy(frame).notes[0]


def test_a_frame_whose_rows_had_a_field_too_many_is_refused() -> None:
    frame = design().assign(note=np.nan).set_index("params").rename_axis(None)
    with pytest.raises(ValueError, match="the last column, 'note', is empty.*shifted"):
        scaling.fit(frame)
    part = pd.concat([design().assign(note=np.nan)]).iloc[::-1]
    assert scaling.fit(part, bootstrap=0).n == 20


def test_a_clean_table_is_not_judged_again_in_parts() -> None:
    frame = tidy(design())
    assert tidy(frame) is frame and tidy(frame.only(frame.frame.iloc[3:5])).frame.index.tolist() == [4, 5]


SEPARATORS = st.sampled_from([",", ";", "\t"])
NAMES = st.sampled_from(
    [{}, {"params": "N", "tokens": "D"}, {"loss": "val_loss"}, {"loss": " Loss"}, {"params": "Model size"}]
)
CELLS = st.sampled_from(["", " ", "nan", "NA", "x", "0", "-1", "inf", "1e400", "1,5"])


@settings(deadline=None, max_examples=80, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data(), order=st.permutations(range(20)), separator=SEPARATORS, names=NAMES)
def test_a_table_gives_the_law_of_its_rows_or_says_why_not(
    data: st.DataObject, order: list[int], separator: str, names: dict[str, str], tmp_path: Path
) -> None:
    """Whatever is done to a good table: its law, that of the rows that no note names, or a refusal."""
    frame = design().iloc[order].assign(arch="a", status="ok").astype(object)
    for _ in range(data.draw(st.integers(0, 2))):
        column = data.draw(st.sampled_from(list(frame)))
        frame.iloc[data.draw(st.integers(0, 19)), frame.columns.get_loc(column)] = data.draw(CELLS)
    if data.draw(st.booleans()):
        frame.insert(0, data.draw(st.sampled_from(["loss ", "Tokens", "note", "loss_train"])), 7.0)
    text = frame.rename(columns=names).to_csv(index=False, sep=separator)
    if data.draw(st.integers(0, 9)) == 0:
        text = text.replace("\n", separator + "\n").replace(separator, "", 0)
    path = written(tmp_path, text)
    try:
        table = scaling.read(path)
        law = scaling.fit(table, bootstrap=0)
    except ValueError as error:
        assert str(error) and "Traceback" not in str(error)
        return
    named = [note.partition(" set aside")[0] for note in table.notes if "set aside" in note]
    aside = [row for words in named for row in re.findall(r"\d+", words)]
    assert law.n == 20 - len(aside) and law.E == pytest.approx(LAW.E, rel=2e-3), json.dumps(table.notes)


def test_a_run_table_of_wandb_has_its_status_in_state() -> None:
    frame = design().assign(
        State=["finished"] * 18 + ["crashed", "running"], Name=[f"r{i}" for i in range(20)]
    )
    law = scaling.fit(frame, bootstrap=0)
    assert law.n == 18 and law.warnings[0] == "columns were recognised: status from 'State'"
    assert "row 20 set aside: status 'running' is not ok" in law.warnings
    assert (
        "state" in tidy(design().assign(State=100.0)).frame
        and "status" not in tidy(design().assign(State=100.0)).frame
    )


@pytest.mark.parametrize("state", [0.0, "none", None])
def test_what_a_fit_does_not_need_does_not_stop_it(state: Any, tmp_path: Path) -> None:
    frame = design().assign(state=pd.Series([state] * 20, dtype=object), floor=np.nan)
    assert scaling.fit(frame, bootstrap=0).n == 20
    frame.to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(ValueError, match="column 'state'"):
        scaling.state_law(frame)


def test_words_are_not_candidates_for_a_quantity() -> None:
    frame = design().rename(columns={"params": "n_params"}).assign(model_size="small")
    assert scaling.fit(frame, bootstrap=0).n == 20
    with pytest.raises(ValueError, match="columns 'n_params' and 'model_size' may all be params"):
        scaling.fit(frame.assign(model_size=1e9))


def test_the_choice_between_loss_and_perplexity_is_kept() -> None:
    frame = design().assign(ppl=lambda f: np.exp(f["loss"] + 0.2))
    with pytest.raises(ValueError, match="choose with --columns loss=loss or ppl=ppl"):
        scaling.fit(frame)
    for column, shift in (("loss", 0.0), ("ppl", 0.2)):
        law = scaling.fit(scaling.read(frame, columns={column: column}), bootstrap=0)
        assert law.E == pytest.approx(LAW.E + shift, rel=1e-3)


def test_tables_put_together_are_counted_anew() -> None:
    half = tidy(design()).frame
    both = tidy(pd.concat([half, half.assign(loss=half["loss"] + 1e-6)]))
    assert both.frame.index.tolist() == list(range(1, 41))


def test_optima_in_millions_are_serious_though_they_have_no_tokens() -> None:
    c = np.geomspace(1e18, 1e21, 6)
    frame = pd.DataFrame({"flops": c, "params": np.asarray(LAW.n_opt(c)) / 1e6})
    with pytest.raises(ValueError, match="column 'params' is not a count"):
        tidy(frame)
    assert not tidy(frame.assign(params=LAW.n_opt(c))).notes


def test_fields_that_nothing_separates_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN.replace(",", " "))
    with pytest.raises(ValueError, match="the header 'params tokens loss' has neither comma nor"):
        scaling.read(path)


def test_the_approaches_take_the_end_of_each_curve() -> None:
    """Checkpoints before the decay of the learning rate are too high, and no runs of their own."""
    frame = curves().iloc[::-1].reset_index(drop=True)
    frame.loc[frame.index >= 20, "loss"] += 0.02 * np.log(frame["params"])
    found = side_by_side(frame, bootstrap=100).set_index("approach")
    assert found.loc["law", "n_exponent"] == pytest.approx(LAW.n_exponent, abs=1e-3)


def test_objects_around_the_runs_are_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    rows = [{"params": 1e6, "tokens": 2e7, "loss": 3.0}, {"params": 2e6, "tokens": 2e7, "loss": 2.9}]
    wrapped = read_table(written(tmp_path, json.dumps({"made": {"by": "us"}, "tags": ["x"], "runs": rows})))
    assert wrapped.to_dict("records") == rows
    split = {"columns": ["params", "loss"], "index": [0, 1, 2], "data": [[1e6, 3.0]] * 3}
    for odd in (split, {"params": {"0": 1e6}, "loss": [3.0]}):
        with pytest.raises(ValueError, match="neither a run nor columns of one length; give an array"):
            read_table(written(tmp_path, json.dumps(odd)))


def test_what_is_another_column_is_not_offered_for_one_that_is_missing() -> None:
    frame = pd.DataFrame({"params": [1e6], "tokens": [2e7], "flops": [1.2e14], "bpb": [1.1]})
    with pytest.raises(ValueError, match="--columns loss=NAME"):
        scaling.fit(frame)
