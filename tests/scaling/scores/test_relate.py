"""Scores against perplexity: the published tables, what few rows can bear, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

import scaling
from scaling.laws.comparison import compare
from scaling.laws.law import Law
from scaling.laws.runs.cleaning import NotIdentified
from scaling.report.results.relation import relation_section
from scaling.report.section import writer
from scaling.scores.relation import COEFFICIENTS, Relation, relate
from tests.scaling.laws.designs import grid
from tests.scaling.report.simulated import isoflops

TASKS = {
    "in_context_recall": "in-context-recall",
    "fuzzy_recall": "fuzzy-in-context-recall",
    "noisy_recall": "noisy-in-context-recall",
    "selective_copying": "selective-copying",
    "compression": "compression",
    "memorization": "memorization",
    "average": "mean",
}
# Overview figure of arXiv:2403.17844, digitised from athms/mad-lab: errors of about .2 points and .03 of ppl.
MAD = pd.DataFrame(
    [
        ("Hyena", 81.8, 7.9, 78.8, 93.2, 45.2, 89.5, 66.1, 11.04),
        ("Multi-Head Hyena", 99.1, 14.4, 98.6, 93.0, 44.9, 89.45, 73.2, 9.91),
        ("Striped Hyena", 100, 23.4, 100, 100, 47.2, 89.15, 76.6, 8.65),
        ("Striped Hyena + MoE", 100, 24.9, 100, 100, 50.2, 89.55, 77.4, 8.41),
        ("Striped Hyena Experts + MoE", 100, 28.3, 100, 100, 52.3, 89.1, 78.2, 8.23),
    ],
    columns=["model", *TASKS, "ppl"],
)
# Tables of arXiv:2506.05233: five columns of tasks, perplexity and recall of 1B language models.
MESANET = pd.DataFrame(
    [
        ("Mamba-2", 51.2, 42.0, 95.4, 41.3, 66.0, 14.58),
        ("GLA", 39.0, 82.5, 96.1, 42.3, 72.0, 14.03),
        ("xLSTM", 47.6, 79.8, 95.4, 43.4, 73.2, 14.03),
        ("DeltaNet", 55.5, 40.8, 98.8, 43.3, 67.7, 14.05),
        ("Gated DeltaNet", 32.7, 81.7, 95.7, 45.0, 71.0, 13.87),
        ("Hawk", 13.6, 91.3, 77.0, 47.7, 64.5, 14.43),
        ("MesaNet", 58.5, 77.2, 99.2, 45.4, 76.1, 13.79),
        ("Hawk-MesaNet", 30.2, 85.6, 99.6, 52.3, 73.5, 13.75),
        ("Transformer", 48.6, 84.7, 96.0, 49.5, 75.8, 13.79),
    ],
    columns=["arch", "fuzzy_recall", "memorization", "selective_copying", "compression", "average", "ppl"],
)


def given(table: pd.DataFrame, **settings: object) -> Relation:
    name = "model" if "model" in table else "arch"
    scores = table.drop(columns="ppl")
    return relate(scores, table[[name, "ppl"]], target="given", bootstrap=100, **settings)  # type: ignore[arg-type]


def cell(relation: Relation, predictor: str, column: str, group: str = "all") -> float:
    table = relation.table
    return table[(table["group"] == group) & (table["predictor"] == predictor)][column].item()


def test_the_mad_figure_gives_what_it_gave() -> None:
    found = given(MAD)
    assert cell(found, "mean", "pearson") == pytest.approx(-0.981, abs=0.005)
    assert cell(found, "mean", "spearman") == pytest.approx(-1, abs=1e-12)
    assert cell(found, "mean", "p") == pytest.approx(1 / 120)
    assert cell(found, "mean", "smallest_p") == pytest.approx(1 / 120)
    expected = {
        "fuzzy_recall": (-0.993, -1.0),
        "in_context_recall": (-0.861, -0.89),
        "noisy_recall": (-0.868, -0.89),
        "selective_copying": (-0.932, -0.78),
        "compression": (-0.828, -0.90),
    }
    for task, (pearson, spearman) in expected.items():
        assert cell(found, TASKS[task], "pearson") == pytest.approx(pearson, abs=0.005), task
        assert cell(found, TASKS[task], "spearman") == pytest.approx(spearman, abs=0.006), task
    # Memorisation spans .4 points, twice the error of digitising: its coefficient moves with the last digit.
    assert cell(found, "memorization", "pearson") == pytest.approx(0.528, abs=0.015)
    assert cell(found, "memorization", "spearman") == pytest.approx(0.40, abs=0.005)
    assert any("wrong sign" in text and "memorization" in text for text in found.verdict)


def test_the_mad_figure_predicts_a_row_that_was_left_out_as_well_as_it_did() -> None:
    found = given(MAD)
    errors = {
        "average": 0.63,
        "fuzzy_recall": 0.25,
        "in_context_recall": 12.3,
        "noisy_recall": 9.3,
        "selective_copying": 0.76,
        "compression": 0.96,
        "memorization": 1.51,
    }
    for task, error in errors.items():
        # Three rows lie at 100: the line through the others hangs on the digits of the digitised figure.
        assert cell(found, TASKS[task], "loo_rmse") == pytest.approx(error, rel=0.05), task
    assert cell(found, "predict the mean", "loo_rmse") == pytest.approx(1.34, abs=0.005)


def test_the_mesanet_table_gives_what_it_gave() -> None:
    found = given(MESANET)
    expected = {
        "mean": -0.87,
        "compression": -0.71,
        "selective-copying": -0.70,
        "memorization": -0.34,
        "fuzzy-in-context-recall": 0.05,
    }
    for task, value in expected.items():
        assert cell(found, task, "spearman") == pytest.approx(value, abs=0.005), task
    without = given(MESANET[MESANET["arch"] != "Transformer"])
    expected = {"mean": -0.87, "selective-copying": -0.75, "compression": -0.60, "memorization": -0.26}
    for task, value in expected.items():
        assert cell(without, task, "spearman") == pytest.approx(value, abs=0.005), task
    assert cell(without, "mean", "p_two_sided") < 0.01
    assert cell(without, "selective-copying", "p_two_sided") == pytest.approx(0.036, abs=0.0005)


def test_the_verdict_says_how_little_few_rows_bear() -> None:
    text = " ".join(given(MAD).verdict)
    assert "n = 5 is too small for a calibrated map" in text
    assert "not resolvable between laboratories; 3 of the 10 pairs" in text
    assert "At the ceiling in half of the rows or more" in text and "selective-copying" in text
    three = given(MAD.iloc[:3]).verdict[0]
    assert three == "n is too small to conclude: no order of 3 architectures could reach p = 0.05."


def test_agreement_that_is_not_shown_is_said_with_the_rows_it_needs() -> None:
    rng = np.random.default_rng(2)
    noise = pd.DataFrame(
        {"arch": list("abcdefgh"), "average": rng.uniform(40, 80, 8), "ppl": rng.uniform(9, 11, 8)}
    )
    first = given(noise).verdict[0]
    assert first.startswith("No agreement is shown") and "architectures would tell a correlation" in first


def test_tasks_are_adjusted_for_their_number_and_the_mean_is_not() -> None:
    found = given(MESANET.iloc[1:8])
    tasks = found.table[(found.table["kind"] == "score") & (found.table["predictor"] != "mean")]
    assert tasks["p_holm"].min() == pytest.approx(4 * tasks["p"].min())
    assert cell(found, "mean", "p_holm") == cell(found, "mean", "p")


def test_classes_are_related_each_alone_and_together() -> None:
    classes = dict(zip(MAD["model"], ["plain", "plain", "striped", "striped", "striped"], strict=True))
    found = given(MAD, classes=classes)
    assert set(found.table["group"]) == {"all", "striped"}
    assert cell(found, "mean", "n", "striped") == 3
    text = " ".join(found.verdict)
    assert "Class plain: 2 architectures, too few to relate." in text
    assert "Within class striped, n = 3" in text and "no order of 3 could reach 0.05" in text
    column = relate(
        MAD.drop(columns="ppl").assign(**{"class": list(classes.values())}),
        MAD[["model", "ppl"]],
        bootstrap=100,
    )
    pd.testing.assert_frame_equal(column.table, found.table)


def test_leaving_a_family_out_leaves_all_its_rows_out() -> None:
    families = dict(zip(MAD["model"], ["h", "h", "s", "s", "s"], strict=True))
    found = given(MAD, families=families)
    x, y, errors = MAD["average"], MAD["ppl"], []
    for own, others in ((slice(2), slice(2, None)), (slice(2, None), slice(2))):
        errors += [*(np.polyval(np.polyfit(x[others], y[others], 1), x[own]) - y[own])]
    assert cell(found, "mean", "lofo_rmse") == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-9)
    assert "other families" in " ".join(given(MAD).verdict)


def test_baselines_stand_beside_the_scores() -> None:
    params = [1e6, 2e6, 4e6, 5e6, 6e6]
    found = given(MAD.assign(params=params))
    assert cell(found, "parameters only", "n") == 5
    assert cell(found, "parameters only", "spearman") == pytest.approx(-1)
    # In ln N the perplexity of this example is nearly a line: parameters alone do what the suite does.
    assert cell(found, "parameters only", "loo_rmse") < cell(found, "mean", "loo_rmse")
    assert any("no better than what is cheaper" in text for text in found.verdict)
    assert "baseline" not in set(given(MAD, baselines=False).table["kind"])


def test_order_of_rows_and_unit_of_scores_do_not_matter() -> None:
    shuffled = MAD.sample(frac=1, random_state=3)
    columns = ["predictor", "n", *COEFFICIENTS, "p", "p_two_sided", "loo_rmse", "ceiling"]
    for other in (shuffled, MAD.assign(**(MAD[list(TASKS)] / 100))):
        mine, its = given(MAD), given(other)
        pd.testing.assert_frame_equal(mine.table[columns], its.table[columns])
        pd.testing.assert_frame_equal(mine.pairs.sort_index(), its.pairs.sort_index())


def test_a_task_with_holes_is_related_over_the_rows_that_have_it() -> None:
    holes = MESANET.iloc[:8].copy()
    holes.loc[[0, 1], "compression"] = np.nan
    holes.loc[:5, "memorization"] = np.nan
    found = given(holes)
    assert cell(found, "compression", "n") == 6
    assert np.isnan(cell(found, "memorization", "p"))
    text = " ".join(found.verdict)
    assert "Without a coefficient: memorization (2 rows have it)" in text
    assert "Over fewer rows than the others: compression (n = 6)" in text


def test_scores_that_do_not_vary_say_so() -> None:
    found = given(MAD.assign(compression=50.0, average=70.0))
    assert "compression (it is the same in every row)" in " ".join(found.verdict)
    constant = given(MAD[["model", "ppl"]].assign(average=70.0))
    assert constant.verdict[0].startswith("No score varies")


def test_names_that_do_not_meet_are_named_and_too_few_are_refused() -> None:
    found = relate(MAD.drop(columns="ppl"), MAD[["model", "ppl"]].replace("Hyena", "Hyenas"), bootstrap=100)
    assert cell(found, "mean", "n") == 4
    assert "Only in the scores: 'Hyena' (nearest: 'Hyenas')." in found.verdict
    with pytest.raises(ValueError, match="2 architectures are in both tables"):
        relate(MAD.iloc[:2].drop(columns="ppl"), MAD[["model", "ppl"]])
    with pytest.raises(ValueError, match="class of 'Hiena': no such row in the scores"):
        given(MAD, classes={"Hiena": "plain"})


def test_unknown_targets_and_budgets_are_refused() -> None:
    scores, runs = MAD.drop(columns="ppl"), MAD[["model", "ppl"]]
    with pytest.raises(ValueError, match="did you mean 'compute-optimal'"):
        relate(scores, runs, target="compute")
    with pytest.raises(ValueError, match="budget is -1"):
        relate(scores, runs, budget=-1)
    with pytest.raises(ValueError, match="column 'loss'"):
        relate(scores, runs.drop(columns="ppl"))
    with pytest.raises(ValueError, match="no column 'arch'"):
        relate(scores, runs.drop(columns="model"))


def test_one_row_per_architecture_is_taken_as_given() -> None:
    found = relate(MAD.drop(columns="ppl"), MAD[["model", "ppl"]], bootstrap=100)
    assert found.target == "given"
    assert any("taken as given, not compute-optimal" in note for note in found.notes)
    assert scaling.relate is relate


LAWS = {
    name: Law(E=1.8, A=400 * (1 + 0.1 * k), B=1200 * (1 + 0.1 * k), alpha=0.34, beta=0.34)
    for k, name in enumerate("ABCD")
}
SCORES = pd.DataFrame({"arch": list(LAWS), "mad": [0.80, 0.75, 0.74, 0.60]})


def simulated(budgets: tuple[float, ...] = (1e18, 3e18, 1e19), noise: float = 0.0) -> pd.DataFrame:
    """IsoFLOP runs of four architectures close to their optima."""
    return isoflops(LAWS, budgets, factor=1 / 0.7, sizes=5, noise=noise).drop(columns="budget")


def test_compute_optimal_perplexity_is_that_of_the_law_behind_the_runs() -> None:
    found = relate(SCORES, simulated(), budget=3e18, bootstrap=100)
    truth = [np.exp(law.loss_opt(3e18)) for law in LAWS.values()]
    # What is left is the error of a parabola over a factor 2 of sizes.
    assert found.pairs["ppl"].to_numpy() == pytest.approx(truth, rel=2e-4)
    assert found.target == "compute-optimal" and found.budget == 3e18
    assert cell(found, "mean", "spearman") == pytest.approx(-1)
    short = [np.exp(law.loss_opt(1e18)) for law in LAWS.values()]
    assert found.pairs["short"].to_numpy() == pytest.approx(short, rel=2e-4)
    assert cell(found, "loss of a short run", "pearson") > 0.99
    assert cell(found, "loss of a short run", "p") == pytest.approx(1 / 24), "higher goes with higher"


def test_without_a_budget_it_is_the_largest_that_all_have() -> None:
    runs = simulated()
    fewer = runs[~((runs["arch"] == "B") & (runs["params"] * runs["tokens"] > 1e18))]
    assert relate(SCORES, runs, bootstrap=100).budget == pytest.approx(1e19)
    assert relate(SCORES, fewer, bootstrap=100).budget == pytest.approx(3e18)


def test_the_intervals_of_perplexity_widen_with_the_noise_of_the_runs() -> None:
    widths = []
    for noise in (0.0003, 0.0012):
        pairs = relate(SCORES, simulated(noise=noise)).pairs
        assert ((pairs["low"] < pairs["ppl"]) & (pairs["ppl"] < pairs["high"])).all()
        widths.append((pairs["high"] - pairs["low"]).mean())
    assert widths[1] == pytest.approx(4 * widths[0], rel=0.05)


def test_a_budget_beyond_the_runs_is_marked_as_extrapolated() -> None:
    text = " ".join(relate(SCORES, simulated(), budget=4e19, bootstrap=100).verdict)
    assert "of all architectures: extrapolated 4 times in compute" in text
    assert "between two budgets" in " ".join(relate(SCORES, simulated(), budget=5e18, bootstrap=100).verdict)


def test_one_budget_is_enough_for_a_relation_at_that_budget() -> None:
    found = relate(SCORES, simulated(budgets=(1e18,)), bootstrap=100)
    assert found.budget == pytest.approx(1e18) and cell(found, "mean", "n") == 4
    assert "loss of a short run" not in set(found.table["predictor"])
    with pytest.raises(NotIdentified, match="train a second budget"):
        relate(SCORES, simulated(budgets=(1e18,)), budget=1e20, bootstrap=100)


def test_an_architecture_without_an_optimum_is_left_out_and_said() -> None:
    runs = simulated()
    flat = runs[(runs["arch"] != "D") | (runs.groupby(["arch", "state"]).cumcount() == 0)]
    uphill = flat.assign(loss=np.where(flat["arch"] == "D", 9 - flat["loss"], flat["loss"]))
    found = relate(SCORES, uphill, bootstrap=100)
    assert list(found.pairs.index) == ["A", "B", "C"]
    assert any(note.startswith("D has no optimum at any budget") for note in found.notes)
    with pytest.raises(NotIdentified, match="no architecture has an optimum"):
        relate(SCORES, runs.assign(loss=9 - runs["loss"]), bootstrap=100)


def test_state_optimal_perplexity_is_read_at_one_state() -> None:
    ppl = {"A": 20.0, "B": 22.0, "C": 25.0, "D": 30.0}
    rows = []
    for name, k in ppl.items():
        for c in (1e18, 3e18, 1e19):
            best = 1e8 * (c / 1e18) ** 0.5
            for factor in (0.5, 0.7, 1.0, 1.4, 2.0):
                # The state is that of the size, another one for each architecture; P* = k (M / 1e6)^-0.28.
                state = 1e6 * (best * factor / 1e8) * (1 + list(ppl).index(name))
                optimal = np.log(k) - 0.28 * np.log(best / 1e8 * (1 + list(ppl).index(name)))
                n = best * factor
                rows.append((name, n, c / (6 * n), optimal + 0.05 * np.log(factor) ** 2, state))
    runs = pd.DataFrame(rows, columns=["arch", "params", "tokens", "loss", "state"])
    found = relate(SCORES, runs, budget=1e18, target="state-optimal", bootstrap=100)
    middle = 1e6 * np.exp(np.mean(np.log([1, 2, 3, 4])))
    truth = [k * (middle / 1e6) ** -0.28 for k in ppl.values()]
    assert found.target == "state-optimal"
    assert found.pairs["ppl"].to_numpy() == pytest.approx(truth, rel=1e-3)
    assert any("with c = -0.28" in note for note in found.notes)
    with pytest.raises(ValueError, match="column 'state' is missing"):
        relate(SCORES, runs.drop(columns="state"), target="state-optimal")


def test_higher_scores_with_higher_perplexity_are_the_headline() -> None:
    names = [f"arch{i}" for i in range(10)]
    scores = pd.DataFrame({"arch": names, "mean": np.linspace(40, 90, 10)})
    frame = pd.DataFrame({"arch": names, "ppl": np.linspace(10, 30, 10)})
    first = relate(scores, frame).verdict[0]
    assert first.startswith("Higher scores go with HIGHER perplexity (two-sided p < .001)")
    weak = relate(scores, frame.assign(ppl=[12, 10, 15, 11, 14, 10.5, 13, 16, 12.5, 13.5])).verdict[0]
    assert weak.startswith("No agreement is shown") and "the sign is the wrong one" in weak
    low = relate(scores, frame.assign(ppl=frame["ppl"][::-1].to_numpy())).verdict[0]
    assert low.startswith("Higher scores go with low")


@pytest.mark.parametrize(("sign", "way"), [(1, "HIGHER"), (-1, "LOWER")])
def test_a_sign_that_is_the_opposite_within_every_class_is_the_headline(sign: int, way: str) -> None:
    rows = [
        (f"{kind}{i}", kind, 40 + 10 * place + i, 20 - sign * 3 * place + sign * 0.3 * i)
        for place, kind in enumerate("abcd")
        for i in range(4)
    ]
    table = pd.DataFrame(rows, columns=["arch", "class", "mean", "ppl"])
    scores, frame = table[["arch", "class", "mean"]], table[["arch", "ppl"]]
    found = relate(scores, frame)
    within = f"WITHIN EVERY CLASS THE SIGN IS THE OPPOSITE: there higher scores go with {way}"
    assert within in found.verdict[0]
    section, text = relation_section(found), writer("text")
    assert "WITHIN EVERY CLASS" in json.loads(writer("json")(section))["verdict"][0]
    assert "WITHIN EVERY CLASS" in text(section).replace("\n  ", " ")
    notes = ("Something.", "serious: units are mixed")
    doubtful = text(relation_section(dataclasses.replace(found, notes=notes)))
    assert doubtful.startswith("about the table:\n- serious: units are mixed")
    assert doubtful.count("units") == 1
    spaced = scores.assign(**{"class": [f"{c} " if i % 2 else c for i, c in enumerate(table["class"])]})
    assert relate(spaced, frame).verdict == found.verdict
    hidden = scores.replace({"arch": {"a0": "a0\x1b[31m"}})
    assert len(relate(hidden, frame.replace({"arch": {"a0": "a0?[31m"}})).pairs) == 16
    assert relate(scores.rename(columns=str.title), frame).verdict == found.verdict
    with pytest.raises(ValueError, match="class 'all' is what the table calls all architectures"):
        relate(scores.replace({"class": {"b": "all"}}), frame)
    mixed = frame.assign(ppl=np.where(table["class"] == "a", 30 - frame["ppl"], frame["ppl"]))
    assert "WITHIN EVERY CLASS" not in relate(scores, mixed).verdict[0]


@pytest.mark.parametrize("at", [1e19, 4e19, 1e22])
def test_relate_and_compare_give_one_perplexity_at_one_compute(at: float) -> None:
    frames = [
        grid(Law(E=1.7 + 0.05 * i, A=450.0, B=1500.0, alpha=0.34, beta=0.36), noise=0.003, seed=i, arch=name)
        for i, name in enumerate("abc")
    ]
    frame = pd.concat(frames, ignore_index=True)
    pairs = relate(pd.DataFrame({"arch": list("abc"), "mean": [70.0, 60.0, 50.0]}), frame, budget=at).pairs
    table = compare(frame, baseline="a", at=at).table.set_index("arch")
    for name in "bc":
        assert pairs["ppl"][name] / pairs["ppl"]["a"] == pytest.approx(table["ratio"][name], rel=1e-9)
