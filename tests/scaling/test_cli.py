"""`mad scaling` from the command line: what is printed, what is refused, what is left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from mad.store import Store
from mad.store.exchange import read_records
from scaling.cli import app
from scaling.commands.reading import read
from scaling.laws.law import Law
from scaling.study.plan import read as read_plan
from tests.scaling.report.simulated import isoflops
from tests.scaling.study.fake_training import Training

ROOT = Path(__file__).resolve().parents[2]
DATA = os.environ.get("MAD_SCALING_DATA")
LAWS = {
    "transformer": Law(E=1.7, A=400.0, B=900.0, alpha=0.34, beta=0.31),
    "hybrid": Law(E=1.7, A=360.0, B=880.0, alpha=0.34, beta=0.31),
    "recurrent": Law(E=1.7, A=500.0, B=950.0, alpha=0.34, beta=0.31),
}


def table(noise: float = 0.001) -> pd.DataFrame:
    """Isoflop runs of three architectures at four budgets, six sizes each."""
    return isoflops(LAWS, (1e18, 1e19, 1e20, 1e21), factor=3, sizes=6, noise=noise)


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "runs.csv"
    table().to_csv(path, index=False)
    return path


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    path = tmp_path / "scores.csv"
    pd.DataFrame({"arch": list(LAWS), "mean": [70.0, 80.0, 60.0]}).to_csv(path, index=False)
    return path


def run(*words: str | Path) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def data(*words: str | Path) -> Any:
    return json.loads(run(*words, "--format", "json"))


def answers(*words: str | Path) -> dict[tuple[str, str], dict[str, Any]]:
    return {(answer["arch"], answer["approach"]): answer for answer in data("fit", *words)}


def test_fit_prints_three_approaches_of_each_architecture_with_intervals(csv: Path) -> None:
    text = run("fit", csv, "--at", "1e22", "--bootstrap", "200")
    for arch in LAWS:
        assert f"{arch}: L(N, D) = E + A N^-alpha + B D^-beta" in text
        assert f"{arch}: parabolas of loss" in text
        assert f"{arch}, envelope: not identified: the envelope needs training curves" in text
    assert "verdicts:" in text and "extrapolated 10 times in compute" in text


def test_fit_as_json_holds_the_truth_within_its_intervals(csv: Path) -> None:
    found = answers(csv, "--at", "1e22", "--bootstrap", "300", "--confidence", "0.99")
    for arch, truth in LAWS.items():
        law, iso = found[arch, "law"], found[arch, "isoflop"]
        assert law["status"] == "converged" and law["runs"] == iso["runs"] == 24
        for name in ("E", "alpha", "beta"):
            low, high = law["intervals"][name]
            assert low < getattr(truth, name) < high
        low, high = law["at"][0]["intervals"]["params"]
        assert low < truth.n_opt(1e22) < high
        low, high = iso["intervals"]["exponent"]
        assert low < truth.n_exponent < high
        assert found[arch, "envelope"]["status"] == "not identified"


def test_shared_exponents_are_fitted_and_tested(csv: Path) -> None:
    found = answers(csv, "--approach", "law", "--bootstrap", "100", "--shared", "alpha,beta")
    shared = found["all", "shared"]
    alphas = {law["alpha"] for law in shared["laws"]}
    assert len(alphas) == 1 and alphas.pop() == pytest.approx(0.34, abs=0.03)
    assert shared["sharing"]


def test_the_form_of_the_law_is_chosen_and_said(csv: Path) -> None:
    words = (csv, "--approach", "law", "--bootstrap", "100")
    standard = answers(*words)["transformer", "law"]
    assert "gamma" not in standard and "form" not in standard
    joint = answers(*words, "--form", "joint-exponent")["transformer", "law"]
    assert joint["form"] == "joint-exponent" and joint["sum"] <= standard["sum"]
    low, high = joint["intervals"]["gamma"]
    assert low <= 1.0 <= high and low <= joint["gamma"] <= high
    text = run("fit", *words, "--form", "over-training", "--shared", "alpha")
    assert text.count("L(N, D) = E + A N^-alpha + B D^-alpha") == 3 and "with alpha in common" in text


def test_shared_laws_give_compute_multipliers_with_intervals(csv: Path) -> None:
    words = (csv, "--shared", "E,alpha,beta", "--approach", "law", "--bootstrap", "200", "--at", "1e21")
    found = answers(*words)["all", "shared"]
    assert found["reference"] == "transformer"
    for row in found["multipliers"]:
        there, here = LAWS[row["arch"]], LAWS["transformer"]
        c = np.geomspace(1e20, 1e22, 20001)
        truth = c[np.abs(there.loss_opt(c) - here.loss_opt(1e21)).argmin()] / 1e21
        assert row["low"] < row["multiplier"] < row["high"]
        assert row["multiplier"] == pytest.approx(truth, rel=0.05)
    text = run("fit", *words)
    assert "compute for the loss of transformer" in text
    for row in found["multipliers"]:
        assert f"{row['multiplier']:.4g} [{row['low']:.4g}, {row['high']:.4g}]" in text


def test_what_the_bootstrap_draws_is_what_was_asked_or_is_refused(tmp_path: Path) -> None:
    rows = table(0.003).query("arch == 'hybrid'").drop(columns=["budget", "arch"]).reset_index(drop=True)
    ends = rows.assign(run=[f"r{i}" for i in rows.index])
    ends.to_csv(tmp_path / "ends.csv", index=False)
    early = ends.assign(tokens=ends["tokens"] / 2)
    early["loss"] = LAWS["hybrid"].loss(early["params"].to_numpy(), early["tokens"].to_numpy())
    pd.concat([ends, early]).to_csv(tmp_path / "curves.csv", index=False)
    words = ("--approach", "law", "--bootstrap", "100")
    usual = answers(tmp_path / "curves.csv", *words)["all", "law"]
    assert (usual["runs"], usual["resample"]) == (24, "pairs")
    drawn = answers(tmp_path / "curves.csv", *words, "--resample", "run")["all", "law"]
    assert (drawn["runs"], drawn["resample"]) == (48, "run")
    assert "interval (whole runs drawn)" in run("fit", tmp_path / "curves.csv", *words, "--resample", "run")
    with pytest.raises(ValueError, match="resample = 'run' cannot act: each of the 24 labels"):
        run("fit", tmp_path / "ends.csv", *words, "--resample", "run")


def test_rows_can_be_chosen_renamed_and_held_out(csv: Path) -> None:
    frame = pd.read_csv(csv).rename(columns={"arch": "kind"})
    frame.to_csv(csv, index=False)
    words = ("--by", "kind", "--where", "kind == 'hybrid'", "--train", "budget < 5e20")
    found = answers(csv, *words, "--approach", "law", "--bootstrap", "100")
    assert list(found) == [("hybrid", "law")]
    assert found["hybrid", "law"]["runs"] == 18
    held_out = found["hybrid", "law"]["held_out"]
    assert held_out["runs"] == 6 and held_out["mape"] < 0.5
    rows = [i + 1 for i, row in frame.iterrows() if row["kind"] == "hybrid" and row["budget"] > 5e20]
    assert list(held_out["errors"]) == [str(row) for row in rows]


def test_training_curves_serve_the_envelope_and_their_ends_the_other_approaches(tmp_path: Path) -> None:
    law, rows = LAWS["hybrid"], []
    for i, n in enumerate(np.geomspace(3e7, 3e9, 12)):
        for d in np.geomspace(2 * n, 400 * n, 30):
            rows.append((f"r{i}", n, d, float(law.loss(n, d))))
    path = tmp_path / "curves.csv"
    pd.DataFrame(rows, columns=["run", "params", "tokens", "loss"]).to_csv(path, index=False)
    found = answers(path, "--approach", "envelope", "--bootstrap", "100")
    assert found["all", "envelope"]["n_exponent"] == pytest.approx(law.n_exponent, abs=0.02)
    with pytest.raises(ValueError, match="all 12 runs lie on D = 400 N"):
        run("fit", path, "--approach", "law")


def test_optima_and_the_overtraining_law_are_approaches_too(tmp_path: Path) -> None:
    law = LAWS["hybrid"]
    c = np.geomspace(1e18, 1e21, 6)
    optima = pd.DataFrame({"flops": c, "params": law.n_opt(c), "arch": "h"})
    optima.loc[6] = [1e22, np.nan, "h"]
    path = tmp_path / "optima.csv"
    optima.to_csv(path, index=False)
    found = answers(path, "--approach", "optima", "--at", "1e23")["h", "optima"]
    assert found["n_exponent"] == pytest.approx(law.n_exponent, rel=1e-9)
    assert found["at"][0]["params"] == pytest.approx(float(law.n_opt(1e23)), rel=1e-9)
    assert found["warnings"] == ["1 row without an optimum"]
    same = Law(E=1.8, A=100.0, B=300.0, alpha=0.25, beta=0.25)
    n, m = (grid.ravel() for grid in np.meshgrid([1e7, 3e7, 1e8, 3e8], [20.0, 80.0, 320.0]))
    runs = pd.DataFrame({"params": n, "tokens": n * m, "loss": same.loss(n, n * m)})
    runs.to_csv(path, index=False)
    words = ("--approach", "over-training", "--train", "params < 2e8")
    found = answers(path, *words)["all", "over-training"]
    assert found["b"] == pytest.approx(-0.25, abs=1e-6) and found["runs"] == 9
    assert found["held_out"]["runs"] == 3 and found["held_out"]["mape"] < 1e-6


def test_compare_names_the_better_architecture_and_the_penalty_off_the_optimum(csv: Path) -> None:
    found = data("compare", csv, "--baseline", "transformer")
    overall = {row["arch"]: row for row in found["overall"]}
    assert overall["hybrid"]["verdict"] == "lower" and overall["recurrent"]["verdict"] == "higher"
    penalties = [row["penalty"] for row in found["penalties"] if row["arch"] == "hybrid"]
    assert len(penalties) == 5 and min(penalties) > 0 and penalties[-1] == max(penalties)
    text = run("compare", csv, "--at", "1e22")
    assert "hybrid" in text and "extrapolated" in text


DRAWING = {
    "fit": ("--shared", "alpha,beta"),
    "compare": (),
    "relate": ("--scores", "SCORES"),
    "report": ("--scores", "SCORES", "--force", "-o", "PAGE"),
}


@pytest.mark.parametrize("command", DRAWING)
def test_of_few_draws_there_are_no_intervals(command: str, csv: Path, scores: Path, tmp_path: Path) -> None:
    files = {"SCORES": scores, "PAGE": tmp_path / "page.html"}
    table().drop(columns="state").to_csv(csv, index=False)  # the law of the state has Student's interval
    words = [command, csv, *(files.get(word, word) for word in DRAWING[command]), "--bootstrap"]
    for count in ("-1", "1", "99"):
        with pytest.raises(ValueError, match=f"bootstrap = {count} draws make no interval; give 100 or more"):
            run(*words, count)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = run(*words, "0")
    page = files["PAGE"].read_text("utf-8") if command == "report" else text
    # Pearson's is not drawn but Fisher's: of three rows all of -1 to 1.
    assert not re.findall(r"\[-?[0-9].*?\]", page.replace("[-1, 1]", "")) and "nan" not in page
    assert "[" in run(*words, "100") or command == "report"


def test_relate_reads_scores_of_a_csv_and_gives_its_verdict_first(csv: Path, scores: Path) -> None:
    text = run("relate", csv, "--scores", scores)
    assert text.startswith("verdict:")
    found = data("relate", csv, "--scores", scores)
    mean = next(row for row in found["table"] if row["predictor"] == "mean")
    assert mean["n"] == 3 and mean["spearman"] == -1 and mean["p"] == pytest.approx(1 / 6)


def test_the_rows_of_the_mad_figure_give_the_known_correlations(tmp_path: Path) -> None:
    """The five rows of the figure of arXiv:2403.17844 in a table with rows of another paper."""
    path = tmp_path / "published.csv"
    path.write_text(
        "paper,model,memorization,average,ppl\n"
        "mad,Hyena,89.5,66.1,11.04\nmad,MH Hyena,89.45,73.2,9.91\nmad,Striped,89.15,76.6,8.65\n"
        "mad,Striped MoE,89.55,77.4,8.41\nmad,Striped Experts,89.1,78.2,8.23\nother,Hyena,89.5,66.0,17.1\n"
    )
    words = ("relate", path, "--scores", path, "--by", "model", "--where", "paper == 'mad'")
    with pytest.raises(ValueError, match="rows 1, 6 of the scores all are 'Hyena'"):
        run(*words)
    found = data(*words, "--scores-where", "paper == 'mad'")
    rows = {row["predictor"]: row for row in found["table"]}
    assert rows["mean"]["pearson"] == pytest.approx(-0.982, abs=0.005)
    assert rows["mean"]["spearman"] == -1 and rows["mean"]["p"] == pytest.approx(1 / 120)
    assert rows["memorization"]["spearman"] > 0


def test_report_writes_one_page_and_its_figures(csv: Path, tmp_path: Path) -> None:
    out, figures = tmp_path / "page.html", tmp_path / "figures"
    text = run("report", csv, "-o", out, "--figures", figures, "--title", "A <study>", "--bootstrap", "100")
    assert str(out) in text
    page = out.read_text()
    assert "A &lt;study&gt;" in page and "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert {path.suffix for path in figures.iterdir()} == {".png", ".svg"}


def test_report_replaces_no_file_without_leave_and_never_its_input(csv: Path, tmp_path: Path) -> None:
    out, figures, before = tmp_path / "page.html", tmp_path / "figures", csv.read_bytes()
    words = ("report", csv, "--bootstrap", "0")
    with pytest.raises(ValueError, match="is read by this command"):
        run(*words, "-o", csv, "--force")
    figures.mkdir()
    (figures / "isoflop.png").write_text("precious")
    (figures / "allocation.svg").mkdir()
    for leave in ((), ("--force",)):
        with pytest.raises(ValueError, match="exists; choose|is a folder"):
            run(*words, "-o", out, "--figures", figures, *leave)
    assert not out.exists() and len(list(figures.iterdir())) == 2
    out.write_text("precious")
    with pytest.raises(ValueError, match="exists; choose another name"):
        run(*words, "-o", out)
    assert out.read_text() == "precious"
    run(*words, "-o", out, "--force")
    assert out.read_text().lower().startswith("<!doctype") and csv.read_bytes() == before


def test_a_plan_is_made_trained_and_resumed_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaling.study.timing.seconds_per_step", lambda *size, **how: 0.001)
    monkeypatch.setattr("scaling.lm.train.train", Training(tmp_path))
    plan, store = tmp_path / "plan.json", tmp_path / "store.sqlite"
    archs = ["transformer=mh-attention swiglu", "recurrent=rg-lru swiglu"]
    words = [*archs, "--corpus", "grammar[vocab_size=32]", "--budgets", "1e10,3e10,1e11", "--seq-len", "32"]
    text = run("plan", *words, "--lrs", "2e-3,4e-3,8e-3", "--max-hours", "1", "-o", plan)
    assert "30 runs at 1e+10, 3e+10, 1e+11 FLOPs, 12 to tune" in text and "nothing is read twice" in text
    text = run("train", plan, "--store", store)
    calls = len(Training(tmp_path).calls())
    assert calls >= 42 and text.count("transformer") == 15 and "mad scaling fit --study" in text
    assert run("train", plan, "--store", store) == text
    assert len(Training(tmp_path).calls()) == calls
    fitted = data("fit", "--store", store, "--approach", "law", "--bootstrap", "0")
    assert [(answer["arch"], answer["runs"]) for answer in fitted] == [("transformer", 15), ("recurrent", 15)]
    with pytest.raises(ValueError, match=r"envelope: the envelope needs training curves") as caught:
        run("fit", "--store", store, "--by", "depth", "--approach", "envelope")
    assert "there are no runs" not in str(caught.value)
    with pytest.raises(ValueError, match="no runs of study 'other'"):
        run("fit", "--store", store, "--study", "other")
    with pytest.raises(ValueError, match="too long|more than max_hours"):
        run("plan", *words, "--max-hours", "1e-9", "-o", tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()
    with pytest.raises(ValueError, match="not both"):
        run("train", plan, "--store", tmp_path / "new.sqlite", "--workers", "2", "--devices", "2")


def test_a_small_corpus_is_planned_with_a_fraction_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaling.study.timing.seconds_per_step", lambda *size, **how: 0.001)
    book, plan = tmp_path / "book.txt", tmp_path / "plan.json"
    book.write_text("\f".join(f"Chapter {i} " + 400 * f"word{i} " for i in range(12)))
    words = ["plan", "mh-attention swiglu", "--corpus", str(book), "--cache", str(tmp_path / "cache")]
    words += [
        "--lr",
        "1e-3",
        "--budgets",
        "1e12,3e12,1e13",
        "--seq-len",
        "32",
        "--allow-repeats",
        "-o",
        str(plan),
    ]
    with pytest.raises(ValueError, match="0 for validation; .*another fraction"):
        run(*words, "--validation", "0.001")
    run(*words, "--validation", "0.4")
    assert read_plan(plan).corpus.validation == 0.4


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_was_read_set_aside_and_merged_stands_in_every_answer(
    form: str, scores: Path, tmp_path: Path
) -> None:
    """Of a table with names of its own, semicolons, a run that crashed and one in curves."""
    frame = table().rename(columns={"params": "N", "tokens": "D", "loss": "final"})
    frame.loc[5, "run"] = "r5"
    frame = pd.concat([frame, frame.iloc[[5]].assign(D=lambda f: f["D"] / 2)], ignore_index=True)
    frame["run"] = frame["run"].fillna(pd.Series(frame.index.astype(str)))
    frame["state_"] = frame.pop("state")
    frame["status"] = ["failed", *["finished"] * (len(frame) - 1)]
    path, page = tmp_path / "runs.csv", tmp_path / "page.html"
    frame.to_csv(path, sep=";", index=False)
    words = (path, "--columns", "loss=final,state=state_")
    said = (
        "semicolons between its fields",
        "params from 'N', tokens from 'D'",
        "row 1 set aside: status 'failed' is not ok",
        "status 'finished' counts as ok",
        "72 rows are the training curves of 71 runs",
    )
    for command, *more in (
        ["fit", "--approach", "law", "--bootstrap", "0"],
        ["fit", "--approach", "isoflop"],
        ["compare"],
        ["relate", "--scores", str(scores)],
    ):
        output = " ".join(run(command, *words, *more, "--format", form).split())
        assert all(sentence in output for sentence in said), (command, output)
        if form == "text" and command != "relate":
            assert output.startswith("about the table:") and output.count("set aside") == 1
    run("report", *words, "-o", page, "--bootstrap", "100", "--force")
    assert all(sentence.replace("'", "&#x27;") in page.read_text() for sentence in said)


def test_a_report_takes_the_ends_of_curves_whatever_rows_were_chosen(tmp_path: Path) -> None:
    """Rows keep their numbers: two architectures in one table, its rows upside down, one run left out."""
    frame = pd.concat([table().assign(tokens=lambda f, k=k: f["tokens"] * k) for k in (0.5, 1.0)])
    frame["loss"] = [float(LAWS[row.arch].loss(row.params, row.tokens)) for row in frame.itertuples()]
    frame["run"] = [f"r{i % 24}" for i in range(len(frame))]
    path, page = tmp_path / "curves.csv", tmp_path / "page.html"
    frame.iloc[::-1].drop(columns="budget").to_csv(path, index=False)
    run("report", path, "--where", "params > 3e7", "-o", page, "--bootstrap", "100")
    ends = pd.read_csv(path).query("params > 3e7").groupby(["arch", "run"])["tokens"].max()
    assert f"{len(ends)} runs of 3 architectures" in page.read_text()
    runs, curves = read(path, None, where="params > 3e7")
    assert curves is not None and sorted(runs.frame["tokens"]) == sorted(ends)
    for _, row in runs.frame.iterrows():
        assert row["loss"] == pytest.approx(float(LAWS[row["arch"]].loss(row["params"], row["tokens"])))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "CSV", "--columns", "params"], "write NAME=COLUMN, as in params=N,loss=val_loss"),
        (["fit", "CSV", "--columns", "params=N,params=M"], "--columns names params twice"),
        (["compare", "CSV", "--columns", "parms=params"], "did you mean 'params'?"),
        (["relate", "CSV", "--columns", "loss=val_loss"], "there is no column 'val_loss'"),
        (["fit", "none.csv"], "none.csv is not a file"),
        (["fit", "CSV", "--approach", "parabola"], "approach 'parabola' is unknown"),
        (["fit", "CSV", "--objective", "hubert"], "did you mean 'huber'?"),
        (["fit", "CSV", "--approach", "isoflop", "--form", "joint"], "did you mean 'joint-exponent'?"),
        (["fit", "CSV", "--by", "kin"], "there is no column 'kin'"),
        (["fit", "CSV", "--where", "params <"], "cannot be evaluated"),
        (["fit", "CSV", "--where", "params < 0"], "no run satisfies"),
        (["fit", "CSV", "--at", "1e22,often"], "target 'often' is not a number above 0"),
        (["fit", "CSV", "--store", "s.sqlite"], "not both"),
        (["fit", "CSV", "--format", "xml"], "format 'xml' is not one of text, json"),
        (["fit", "CSV", "--where", "budget == 1e18"], "not identified|are not identified"),
        (["compare", "CSV", "--baseline", "hybird"], "did you mean 'hybrid'?"),
        (["relate", "CSV", "--scores", "none.csv"], "none.csv is not a file"),
        (["plan", "transformer++", "--budgets", "1e12", "-o", "CSV"], "exists; choose another name"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(words: list[str], message: str, csv: Path) -> None:
    given = [str(csv) if word == "CSV" else word for word in words]
    with pytest.raises(ValueError, match="|".join(re.escape(part) for part in message.split("|"))):
        run(*given)


def test_an_error_is_no_traceback_and_leaves_nothing(csv: Path, tmp_path: Path) -> None:
    frame = table()
    frame.loc[4, "tokens"] = np.nan
    frame.to_csv(csv, index=False)
    code = (
        "import sys, mad.cli; from scaling.cli import app; mad.cli.app.add_typer(app, name='scaling'); "
        "sys.argv = ['mad', 'scaling', *sys.argv[1:]]; mad.cli.main()"
    )
    words = ["report", str(csv), "-o", str(tmp_path / "page.html")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("mad: row 5, column 'tokens': no value") and done.stderr.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


@pytest.mark.skipif(not DATA, reason="MAD_SCALING_DATA names no folder with the licensed runs")
def test_fit_on_the_licensed_files_gives_the_expected_values() -> None:
    folder = Path(str(DATA))
    want = json.loads((folder / "EXPECTED.json").read_text())
    file = folder / "chinchilla_kyotakano.csv"
    law = answers(file, "--approach", "law", "--at", "5.76e23", "--bootstrap", "100")["transformer", "law"]
    expected, tol = want["P1_chinchilla_licensed"]["huber_1e-3"], want["P1_chinchilla_licensed"]["tol"]
    assert law["sum"] == pytest.approx(expected["objective"], rel=tol["objective_rel"])
    assert law["A"] == pytest.approx(expected["A"], rel=tol["A_rel"])
    assert law["at"][0]["tokens_per_param"] == pytest.approx(expected["DN_5.76e23"], rel=tol["DN_rel"])
    budgets = "6e18,1e19,3e19,6e19,1e20,3e20,6e20,1e21,3e21"
    iso = answers(file, "--approach", "isoflop", "--budgets", budgets)["transformer", "isoflop"]
    second = want["P5_chinchilla_approach2"]
    assert iso["n_exponent"] == pytest.approx(second["N_exponent"], abs=second["tol_same_spec"])
    assert iso["d_exponent"] == pytest.approx(second["D_exponent"], abs=second["tol_same_spec"])
    found = answers(folder / "porian_optimal_rw.csv", "--approach", "optima", "--by", "model")
    porian = want["P2_porian_refinedweb"]
    for name, value in porian["n_exponent"].items():
        assert found[name, "optima"]["n_exponent"] == pytest.approx(value, abs=porian["tol"])
    found = answers(
        folder / "porian_isoflop_rw.csv", "--approach", "isoflop", "--by", "model", "--window", "8"
    )
    for name, value in porian["from_raw_isoflop_points_parabola_within_factor_8_of_best"].items():
        assert found[name, "isoflop"]["n_exponent"] == pytest.approx(value, abs=porian["tol_raw"])
    few = "(cc_mult == 1 and model.str.contains('d=96_|d=512_|d=576_|d=1024_'))"
    words = ["--approach", "over-training", "--by", "train_set", "--train"]
    found = answers(
        folder / "gadre_c4_rpj.csv", *words, f"{few} or (cc_mult == 16 and model.str.contains('d=96_'))"
    )
    gadre = want["P3_gadre_overtraining"]
    for name in ("rpj", "c4_original"):
        answer = found[name, "over-training"]
        assert answer["b"] == pytest.approx(gadre[name]["b"], abs=gadre["tol"]["b_abs"])
        assert answer["E"] == pytest.approx(gadre[name]["E"], abs=gadre["tol"]["E_abs"])
        assert answer["held_out"]["mape"] == pytest.approx(gadre[name]["test_MAPE_pct"], abs=0.1)


def test_curves_of_a_store_follow_the_column_and_the_rows_that_were_chosen(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    with Store(store) as opened:
        opened.merge(read_records(ROOT / "results" / "scaling-two-cores.jsonl"))
    runs, run_curves = read(None, store, by="depth", where="dim > 40")
    assert run_curves is not None
    frame, curves = runs.frame, run_curves.frame
    assert 0 < curves["run"].nunique() == len(frame)
    assert set(frame["arch"]) == {str(depth) for depth in frame["depth"]}
    for run_id, mine in curves.groupby("run"):
        row = frame[frame["id"] == run_id].iloc[0]
        assert set(mine["arch"]) == {row["arch"]} and len(mine) == 3
        assert mine["loss"].iloc[-1] == pytest.approx(row["loss"]) and row["dim"] > 40
