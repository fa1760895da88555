"""The page's data, its parts and its command, without a browser."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import mad
from mad.board.figures import leaderboard_figures, pareto_front
from mad.board.page.assemble import assembled, script_text
from mad.board.page.gather import gathered
from mad.board.page.pairs import packed
from mad.board.page.published import read_published
from mad.board.page.stripe import MOST_BLOCKS, stripe
from mad.data.protocol import get_suite
from mad.store import Store
from tests.commands import Command
from tests.mad.board.crowd import crowd
from tests.mad.records import PUBLIC, architecture, group

SMOKE = get_suite("smoke")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "store.sqlite"
    rows = {
        "2*(hyena swiglu)": "2*(hyena swiglu)",
        "mamba; rm -rf ~": "4*mamba",
        "(mamba + mh-attention) swiglu": "(mamba + mh-attention) swiglu",
    }
    with Store(path) as opened:
        for i, (given, spec) in enumerate(rows.items()):
            who = architecture(spec, versions={"mamba": 1} if i else {"hyena": 1})
            for at in SMOKE.settings[: 6 - (i == 2)]:
                for seed in range(2):
                    score = (16 + 16 * i + 2 * seed) / 64
                    opened.commit(group(at, score, 0.125, who=who, given=given, seed=seed))
        opened.commit(group(SMOKE.settings[0], 0.875, 0.75, protocol=PUBLIC, given="hyena"))
    return path


def content(store: Path, **changes: Any) -> dict[str, Any]:
    return gathered(suite="smoke", store=store, reference=False, **changes)[0]


def embedded(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="payload">(.*?)</script>', page, flags=re.S)
    assert found is not None
    return json.loads(found[1])


def test_the_page_holds_what_it_was_given(store: Path) -> None:
    found = content(store)
    assert embedded(assembled(found)) == json.loads(json.dumps(found))
    assert [(b["suite"], b["protocol"]) for b in found["boards"]] == [
        ("smoke@1", "sound@1"),
        ("smoke@1", "public-code@1"),
    ]
    board = found["boards"][found["opened"]]
    assert [row["rank"] for row in board["rows"]].count(None) == 1
    best = board["rows"][0]
    assert best["label"] == "4*mamba" and best["seeds"] == 2 and best["runs"] == 24
    first = best["settings"][0]["groups"][0]
    seed, value, chosen, runs, _ = first
    assert (seed, value, len(runs)) == (0, 0.5, 2) and runs[chosen][1] == 0.001
    with Store(store, read_only=True) as opened:
        assert {run.id for run in opened.records()} == {
            run[0]
            for b in found["boards"]
            for row in b["rows"]
            for part in row["settings"]
            if part
            for group in part["groups"]
            for run in group[3]
        }


def test_a_row_says_how_it_is_made_again(store: Path) -> None:
    rows = {row["given"]: row for row in content(store)["boards"][0]["rows"]}
    assert rows["2*(hyena swiglu)"]["command"] == "mad bench '2*(hyena swiglu)' --suite smoke@1 --seeds 2"
    words = shlex.split(rows["mamba; rm -rf ~"]["command"])
    assert words[:3] == ["mad", "bench", "mamba; rm -rf ~"], "a shell runs nothing of it"


def test_noise_is_that_between_seeds(store: Path) -> None:
    board = content(store)["boards"][0]
    assert board["sigma"] == pytest.approx(2 / 64 / 2**0.5, abs=1e-6)
    assert {round(task["sigma"], 6) for task in board["tasks"]} == {0.022097}
    assert any("Noise" in text for text in board["caption"])


def test_some_tasks_of_the_suite_are_no_mad_score(store: Path) -> None:
    board = content(store, tasks=["compression", "memorization"])["boards"][0]
    assert [task["name"] for task in board["tasks"]] == ["compression", "memorization"]
    assert board["mean"] == "mean of 2" and len(board["rows"][0]["settings"]) == 2


def test_equal_stores_make_equal_pages(store: Path, tmp_path: Path) -> None:
    one, two = (
        mad.leaderboard_page(tmp_path / name, suite="smoke", store=store, reference=False).read_bytes()
        for name in "ab"
    )
    assert one == two


@pytest.mark.parametrize(
    "spec, blocks",
    [
        ("hyena swiglu", [["hyena", "convolution"], ["swiglu", "mlp"]]),
        ("2*mamba[d_state=4]", [["mamba[d_state=4]", "recurrence"]] * 2),
        (
            "(gqa + mamba) moe-mlp",
            [
                [
                    "in parallel",
                    "branches",
                    [["", "branch", [["gqa", "attention"]]], ["", "branch", [["mamba", "recurrence"]]]],
                ],
                ["moe-mlp", "experts"],
            ],
        ),
        ("altup{gqa mlp}", [["altup", "wrapper", [["gqa", "attention"], ["mlp", "mlp"]]]]),
        ("my_layers:Ema", [["my_layers:Ema", "other"]]),
        ("</script> (", [["</script> (", "other"]]),
        ("\u202eevil", [["?evil", "other"]]),
    ],
)
def test_a_spec_becomes_blocks(spec: str, blocks: list[Any]) -> None:
    assert stripe(spec) == blocks


def test_a_deep_stack_is_cut_and_says_so() -> None:
    found = stripe("500*(gqa mlp)")
    assert len(found) == MOST_BLOCKS + 1 and found[-1] == [f"and {1000 - MOST_BLOCKS} more", "other"]


def test_no_text_ends_the_element_that_holds_it() -> None:
    evil = "</script><!--{{script}} & \u2028 \ud800"
    page = assembled({"boards": [evil], "sections": []})
    assert page.count("</script>") == 2 and "<!--{{" not in page
    assert embedded(page)["boards"] == [evil]


def test_the_policy_names_the_one_script() -> None:
    page = assembled({"boards": []}, [{"name": "a", "title": "A", "html": "<section>{{payload}}</section>"}])
    assert "<section>{{payload}}</section>" in page, "what a section holds is put in as it is"
    assert page.count("sha256-") == 1 and f"<script>{script_text()}</script>" in page
    assert "http://" not in page.replace("http://www.w3.org/", "") and "https://" not in page


def test_a_hundred_architectures_fit_into_a_megabyte(tmp_path: Path) -> None:
    with Store(tmp_path / "store.sqlite") as opened:
        opened.merge(crowd(get_suite("quick"), 20))
    size = mad.leaderboard_page(tmp_path, store=tmp_path / "store.sqlite", reference=False).stat().st_size
    empty = len(assembled({"boards": []}))
    rows = (size - empty) / 20
    # What pairs need grows with the square: of a hundred rows five times as much a row as of twenty.
    assert empty + 100 * rows * 1.4 < 900_000


@pytest.mark.parametrize(
    "text, said",
    [
        ("source,recall\nx,1\n", "has no column 'model'"),
        ("model,source\na,b\n", "has no column of a task"),
        ("model,source,recall\na,b,101\n", "line 2: recall is '101'; give percent"),
        ("model,source,recall\na,b,high\n", "recall is 'high'"),
        ("model,source,recall\n,b,1\n", "line 2 has no model"),
        ("", "has no column 'model'"),
    ],
)
def test_a_table_of_published_scores_is_checked(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_published(tmp_path / "p.csv")


def test_published_scores_are_read_by_any_name_of_a_task(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(
        "source,model,fuzzy_recall,in_context_recall,compr.,ppl\nA,m,7.9,,45.2,11\n", encoding="utf-8-sig"
    )
    (row,) = read_published(tmp_path / "p.csv")
    assert row["scores"] == {"fuzzy-in-context-recall": 0.079, "compression": 0.452}


def test_figures_are_written_and_equal(store: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"suite": "smoke", "store": store, "reference": False}
    names = [path.name for path in leaderboard_figures(tmp_path / "a", **asked)]
    leaderboard_figures(tmp_path / "b", **asked)
    assert names == ["board.svg", "score-state.svg", "score-params.svg", "score-flops.svg", "learning.svg"]
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
    with pytest.raises(ValueError, match="no run of baseline@1 under sound@1 is stored"):
        leaderboard_figures(tmp_path, suite="baseline", store=store, reference=False)


def test_the_front_is_what_nothing_beats_in_both() -> None:
    points: list[Any] = [(2, 0.5, "b"), (1, 0.4, "a"), (3, 0.5, "dearer"), (1, 0.3, "worse"), (9, 0.9, "c")]
    assert [row for *_, row in pareto_front(points)] == ["a", "b", "c"]


def test_the_command_writes_the_page_beside_the_table(cli: Command, store: Path, tmp_path: Path) -> None:
    asked = ("leaderboard", "--suite", "smoke", "--store", store)
    told = cli(*asked, "--no-reference", "--html", tmp_path / "out")
    assert told.status == 0 and "4*mamba" in told.out
    assert f"{tmp_path / 'out' / 'index.html'}" in told.err and (tmp_path / "out" / "index.html").is_file()
    told = cli("leaderboard", "--store", store, "--published", "x.csv")
    assert (told.status, told.out) == (2, "") and "name its folder with --html" in told.err
    (tmp_path / "file").write_text("mine")
    for words in (["--html", tmp_path / "file"], ["--figures", tmp_path / "file"]):
        told = cli(*asked, *words)
        assert (told.status, told.out) == (2, ""), "no table is printed before a refusal"
    assert (tmp_path / "file").read_text() == "mine"


def test_covariances_are_packed_as_correlations() -> None:
    matrix = [[4.0, 1.0, None, 0.0], [1.0, 9.0, None, 0.0], [None] * 4, [0.0, 0.0, None, 0.0]]
    columns: dict[str, Any] = {name: [0.1234567] * 4 for name in ("values", "spread", "within")}
    pair = columns | {"keys": list("abcd"), "seeds": [3] * 4, "size": 10, "rows": matrix}
    found = packed({"x": pair})["x"]
    assert found["rows"] == [4.0, 9.0, None, 0.0] and found["values"] == [0.123457] * 4
    assert found["correlations"] == [16667, 0, 0, 0, 0, 0]
