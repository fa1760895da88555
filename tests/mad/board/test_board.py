import io
import json
import math
import subprocess
import sys

import pandas
import pytest

from mad.board.table import WIDTH, frame, render
from mad.data.protocol import SUITES, get_suite
from mad.data.records import Record
from mad.score import Scores, score
from tests.mad.records import SOUND, TWO, architecture, group, record, setting, suite

BASELINE = get_suite("baseline")
TASKS = [
    "in-context-recall",
    "noisy-in-context-recall",
    "fuzzy-in-context-recall",
    "selective-copying",
    "compression",
    "memorization",
]


def runs(given: str, spec: str, score: float, *, tasks: int = 6, seeds: int = 3) -> list[Record]:
    who = architecture(spec, dim=128, versions={given: 1})
    accuracies = (0.1, 0.1, score, score, 0.1, 0.1)
    return [
        run
        for at in BASELINE.settings[:tasks]
        for seed in range(seeds)
        for run in group(at, *(a + 0.01 * seed for a in accuracies), seed=seed, who=who, given=given)
    ]


@pytest.fixture(scope="module")
def scores() -> Scores:
    records = [
        *runs("transformer++", "2*(mh-attention swiglu)", 0.75),
        *runs("3*(mamba[d_state=8] + hyena) swiglu", "3*(mamba[d_state=8] + hyena) swiglu", 0.95, tasks=4),
        *runs("hyena", "2*(hyena swiglu)", 0.5),
        *runs("mamba", "4*mamba", 0.9),
    ]
    return score(records, BASELINE, SOUND, versions={"mamba": 2})


@pytest.mark.parametrize(
    "iso, heading, sizes, told",
    [
        (["state"], "params nominal", "412k 2.0k", "Sizes shown: nominal, state elements as iso-state"),
        (
            ["params", "state"],
            "core nominal",
            "400k 2.0k",
            "core, parameters without embedding and readout; ",
        ),
        (["flops"], "params FLOPs state", "412k 800k 4.1k", "Sizes shown: FLOPs, forward FLOPs per token."),
        (["total-state"], "params state", "412k 4.1k", "Sizes shown: state, state elements with the tails"),
        ([], "params state", "412k 4.1k", "Rank (#): 1 + the number of ranked rows"),
    ],
)
def test_the_board_shows_the_size_that_was_made_equal(
    scores: Scores, iso: list[str], heading: str, sizes: str, told: str
) -> None:
    for format in ("table", "md"):
        text = render(scores, format, iso=iso)
        assert "| * " not in text, "no space inside Markdown's emphasis"
        lines = [" ".join(line.replace("|", " ").split()) for line in text.splitlines()]
        assert f"architecture {heading} MAD" in lines[0]
        assert f"transformer++ {sizes} 76.0" in lines[2]
        assert told in " ".join(text.split()) and (bool(iso) == ("Sizes shown" in text))
    assert max(map(len, render(scores, iso=iso).splitlines())) <= WIDTH


def test_a_size_that_nothing_makes_equal_is_refused(scores: Scores) -> None:
    with pytest.raises(ValueError, match="unknown size 'stat'; did you mean 'state'"):
        render(scores, iso=["stat"])


def test_the_table_fits_a_terminal_and_says_everything(scores: Scores) -> None:
    text = render(scores)
    assert text.isascii() and max(map(len, text.splitlines())) <= WIDTH
    heading, _, first, *_ = text.splitlines()
    assert (
        heading.split() == "# architecture params state MAD recall noisy fuzzy copying compr. memor.".split()
    )
    assert first.split() == ["1", "transformer++", "412k", "4.1k", "76.0", "+-1.0", *["76.0"] * 6]
    flat = " ".join(text.split())
    for said in (
        "- 96.0 96.0 96.0 96.0 - -",
        "a row that lacks a task or is stale has none.",
        "Noise: the MAD of a row varies by 1.0 between seeds (standard deviation, 2 rows); two rows of 3",
        "signal 22.5 22.5 22.5 22.5 17.7 17.7",
        "(4/6 tasks)",
        "mamba (stale)",
        "chance 12.5 12.5 12.5",
        "ceiling 100.0 100.0",
        "baseline@1, protocol sound@1: micro accuracy in %, 3 seeds.",
        "half of the 95 % interval (bootstrap over seeds)",
        "missing compression: not run, memorization: not run",
        "stale: mamba@1 is now mamba@2",
    ):
        assert said in flat, said


def test_the_frame_has_fractions_in_the_order_of_the_ranks(scores: Scores) -> None:
    table = frame(scores)
    assert table["rank"].tolist() == [1, 2, pandas.NA, pandas.NA]
    assert list(table["architecture"]) == [
        "transformer++",
        "hyena",
        "3*(mamba[d_state=8] + hyena) swiglu",
        "mamba",
    ]
    assert table["mad"].dropna().round(3).tolist() == [0.76, 0.51, 0.91], (
        "a mean of four tasks is no MAD score"
    )
    assert list(table.columns[13:22]) == ["mad", "mad_low", "mad_high", *TASKS]
    for name in ("mad", *TASKS):
        known = table[table[name].notna()]
        assert (known[f"{name}_low"] <= known[name]).all() and (known[name] <= known[f"{name}_high"]).all()
    assert table["memorization"].isna().tolist() == [False, False, True, False]
    assert table.loc[0, "spec"] == "2*(mh-attention swiglu)" and table.loc[0, "seeds"] == 3
    assert table.loc[2, "missing"] == "compression: not run; memorization: not run"
    assert str(table["params"].dtype) == "Int64" and str(table["mad"].dtype) == "float64"


def test_csv_and_json_carry_the_numbers_of_the_frame(scores: Scores) -> None:
    table = frame(scores)
    read = pandas.read_csv(io.StringIO(render(scores, "csv")))
    assert list(read.columns) == list(table.columns)
    content = json.loads(render(scores, "json"))
    found = [row["mad"]["value"] if row["mad"] else None for row in content["architectures"]]
    assert (
        found == table["mad"].replace(math.nan, None).tolist() == read["mad"].replace(math.nan, None).tolist()
    )
    assert content["signal"]["memorization"] == pytest.approx(17.67, abs=0.01)
    chosen = [
        id for task in content["architectures"][0]["tasks"].values() for id in task["settings"][0]["ids"]
    ]
    assert len(chosen) == 6 * 3 and [id[:12] for id in chosen] == read.loc[0, "ids"].split()
    first = content["architectures"][0]["tasks"]["compression"]
    assert first["low"] == table.loc[0, "compression_low"]
    assert first["settings"][0]["cost"]["params"] == 412_345


def test_markdown_is_one_table_and_the_same_lines(scores: Scores) -> None:
    text = render(scores, "md")
    grid = [line for line in text.splitlines() if line.startswith("|")]
    assert len(grid) == 2 + 4 + 3 and len({line.count("|") for line in grid}) == 1
    assert "| 1 | transformer++ | 412k | 4.1k |  76.0 +-1.0 | 76.0 |" in text
    assert "missing compression: not run" in text


def test_precision_and_compilation_are_shown_where_they_differ() -> None:
    at = TWO.settings[0]
    one = group(at, 0.5, 0.6)
    two = score([*one, *group(at, 0.5, 0.6, precision="bf16-mixed")], suite(at), SOUND)
    assert "precision" in render(two) and "bf16-mixed" in render(two) and "compile" not in render(two)
    assert "precision" not in render(score(one, suite(at), SOUND))


@pytest.mark.parametrize("format", ["table", "md"])
def test_an_empty_board_says_what_to_run(format: str) -> None:
    text = render(score([], BASELINE, SOUND), format)
    assert "No run of baseline@1 under protocol sound@1" in text
    assert 'mad bench "2*(hyena swiglu)" --suite baseline --protocol sound' in text


def test_an_empty_board_has_its_columns_and_structure() -> None:
    empty = score([], BASELINE, SOUND)
    assert frame(empty).empty and "memorization_high" in frame(empty).columns
    assert render(empty, "csv").startswith("rank,architecture,")
    assert json.loads(render(empty, "json"))["architectures"] == []


def test_rows_without_any_score_are_shown() -> None:
    text = render(score([record(TWO.settings[0])], TWO, SOUND))
    assert "seed 0 has 1 of 2 runs" in " ".join(text.split())


def test_many_missing_settings_are_told_by_task() -> None:
    exam = SUITES["mad-2024"]
    who = architecture(dim=128)
    some = [run for at in exam.settings[:5] for run in group(at, *[0.5] * 6, who=who)]
    text = " ".join(render(score(some, exam, SOUND)).split())
    assert "missing in-context-recall (has 5 of 11), noisy-in-context-recall (has 0 of 14)" in text
    assert "(0/6 tasks)" in text and "binomial over test rows" in text


def test_an_unknown_format_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match="unknown format 'tabel'; did you mean 'table'.; choose one of table, md, csv, json"
    ):
        render(score([], TWO, SOUND), "tabel")


def test_nothing_in_a_record_is_taken_for_markup() -> None:
    at = setting(TWO.settings[0].task)
    nasty = "[bold]a[/bold] :smile: \x1b[31m a|b"
    found = score(group(at, 0.5, 0.6, spec=nasty), suite(at), SOUND)
    text = " ".join(render(found, color=True, width=200).split())
    assert "[bold]a[/bold] :smile: ?[31m a|b" in text
    assert "a\\|b" in render(found, "md")


def test_color_is_only_there_when_asked_for(scores: Scores) -> None:
    assert "\x1b[" in render(scores, color=True) and "\x1b[" not in render(scores)


def test_neither_torch_nor_lightning_is_loaded() -> None:
    code = (
        "import sys, mad.store, mad.score, mad.board;"
        "from mad.data.protocol import SUITES, PROTOCOLS;"
        "found = mad.score.score([], SUITES['baseline'], PROTOCOLS['sound']);"
        "[mad.board.render(found, name) for name in ('table', 'md', 'csv', 'json')];"
        "assert not {'torch', 'lightning', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(["", *sys.path])})
